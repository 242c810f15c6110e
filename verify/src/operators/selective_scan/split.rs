//! The scan with sequences cut along time: the two kernels that pass states between segments, by what the passes over them compute.

use packscan_kernels::selective_scan::split::{Scratch, Split};
use packscan_kernels::selective_scan::{
    self as scan, Backward, Forward, Join, Problem, State, default_backward, default_join, default_state,
    default_variant,
};
use packscan_reference::Bounded;
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, Result, Segments};

use super::backward::{self, SelectiveScanBackward};
use super::{SelectiveScan, of_model, problem};
use crate::compare::all_agree;
use crate::operators::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Level, Mismatch, Operator, Plan, Sizes, Tensor};

/// What each segment does by itself, and its faults.
pub(in crate::operators) const STATE: Pass = Pass {
    operator: "selective-scan",
    name: "state",
    kernel: "selective_scan_state",
    pick: |model| checked(&default_state(&of_model(model), 4, false)),
    jobs: state_jobs,
    job: suite_of::<OfState>,
    faults: scan::state_faults,
};

/// How states pass between segments, and its faults.
pub(in crate::operators) const JOIN: Pass = Pass {
    operator: "selective-scan",
    name: "join",
    kernel: "selective_scan_join",
    pick: |model| checked(&default_join(model.state)),
    jobs: join_jobs,
    job: suite_of::<OfJoin>,
    faults: scan::join_faults,
};

/// [`Job::agreement`] of a scan with this id over sequences that were cut into segments of so many tokens, by the formula that it followed.
///
/// # Errors
/// [`Error::Id`](packscan_runtime::Error::Id) for what is no id of a scan; inside, the first element outside its bound.
pub fn agreement_in_segments(
    id: &str,
    segment: usize,
    packed: &Packed,
    inputs: &[Tensor],
    outputs: &[Option<Tensor>],
) -> Result<Result<f64, Box<Mismatch>>> {
    let book = match id.parse::<Backward>() {
        Ok(variant) => backward::book(&variant, packed, inputs, Some(segment)),
        Err(_) => super::book(&id.parse()?, packed, inputs, Some(segment)),
    };
    Ok(all_agree(packed, outputs, &book))
}

/// How a run cuts sequences.
pub(super) struct Cut {
    /// Tokens of a segment.
    pub(super) segment: usize,
    /// What finds the states that segments leave, unless the hand-picked variant does.
    pub(super) state: Option<State>,
    join: Join,
}

/// What a cut needs besides the tensors of the pass.
pub(super) struct Kept {
    pub(super) segments: Segments,
    entering: Buffer,
    scratch: Scratch,
}

impl Cut {
    /// Room for the states of a pack's segments.
    pub(super) fn keep(&self, packed: &DevicePacked, d: usize) -> Result<Kept> {
        let (device, n) = (packed.device(), self.join.state as usize);
        let segments = Segments::new(packed.packed(), self.segment, device)?;
        let rows = segments.pack().packed().sequences();
        let entering = Buffer::unwritten(device, Dtype::F32, rows * d * n)?;
        Ok(Kept { segments, entering, scratch: Scratch::new(device, rows, d, n)? })
    }

    /// The cut of one call.
    pub(super) fn split<'a>(&self, state: State, kept: &'a Kept) -> Split<'a> {
        let (entering, scratch) = (kept.entering.view(), &kept.scratch);
        Split { segments: &kept.segments, state, join: self.join, entering, scratch }
    }
}

/// A scan over segments, in one direction.
enum Pieces {
    Forward(Forward),
    Backward(Backward),
}

/// What runs for a variant of either kernel.
struct Asked {
    pass: Pieces,
    cut: Cut,
    /// Of the kernel: the lengths of sequences are chosen around a segment's.
    sizes: Sizes,
}

impl Asked {
    /// Everything that the passes can do is asked for, but for what enters and leaves sequences.
    fn new(mut asked: Problem, reverse: bool, cut: Cut, own: Sizes) -> Asked {
        (asked.skip, asked.checkpoints) = (true, true);
        let pass = match reverse {
            true => Pieces::Backward(default_backward(&asked)),
            false => Pieces::Forward(Forward { chunk: 16, ..default_variant(&asked) }.saving_every(8)),
        };
        let vec = match &pass {
            Pieces::Forward(v) => v.vec,
            Pieces::Backward(v) => v.vec,
        };
        Asked { pass, cut, sizes: Sizes { multiple: own.multiple.max(vec as usize), ..own } }
    }

    fn of_state(v: &State) -> Asked {
        let channels = v.vec as usize;
        let mut asked =
            problem(v.state, v.io, channels, [v.softplus, v.bias, true, v.gate || !v.reverse, true, true, true]);
        *(if v.reverse { &mut asked.initial } else { &mut asked.last }) = v.ends;
        // A segment of whole chunks and a rest.
        let segment = 2 * v.chunk as usize + 3;
        let cut = Cut { segment, state: Some(*v), join: default_join(v.state) };
        let (tile, multiple, state) = (v.channels as usize, v.vec as usize, v.state as usize);
        Asked::new(asked, v.reverse, cut, Sizes { chunk: segment, tile, multiple, state, elements: 0 })
    }

    fn of_join(v: &Join) -> Asked {
        let (enters, leaves) = (v.given, v.left);
        let (initial, last) = if v.reverse { (leaves, enters) } else { (enters, leaves) };
        let asked = problem(v.state, Dtype::F32, 1, [true, true, true, true, initial, last, true]);
        // More segments than are loaded at once.
        let (cut, state) = (Cut { segment: 2, state: None, join: *v }, v.state as usize);
        let tile = (v.block as usize / state).max(1);
        Asked::new(asked, v.reverse, cut, Sizes { chunk: 20, tile, multiple: 1, state, elements: 0 })
    }

    fn continues(&self) -> bool {
        match &self.pass {
            Pieces::Forward(v) => v.initial,
            Pieces::Backward(v) => v.initial,
        }
    }

    fn inputs(&self, packed: &Packed, case: &Case) -> Vec<Tensor> {
        match &self.pass {
            Pieces::Forward(v) => SelectiveScan::inputs(v, packed, case),
            Pieces::Backward(v) => SelectiveScanBackward::inputs(v, packed, case),
        }
    }

    fn run<V>(&self, call: &Call<'_, V>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let Call { packed, channels, groups, padding, rounds, .. } = *call;
        // Rows are padded by loads of the wider of the two kernels.
        let padding = |vec: u32| padding * self.sizes.multiple / vec as usize;
        match &self.pass {
            Pieces::Forward(variant) => {
                let call = Call { variant, packed, channels, groups, padding: padding(variant.vec), rounds };
                super::run(&call, inputs, Some(&self.cut))
            }
            Pieces::Backward(variant) => {
                let call = Call { variant, packed, channels, groups, padding: padding(variant.vec), rounds };
                backward::run(&call, inputs, Some(&self.cut))
            }
        }
    }

    fn book(&self, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        match &self.pass {
            Pieces::Forward(v) => super::book(v, packed, inputs, Some(self.cut.segment)),
            Pieces::Backward(v) => backward::book(v, packed, inputs, Some(self.cut.segment)),
        }
    }
}

/// The operator of a kernel whose variants tell what to run.
macro_rules! operator {
    ($(#[$doc:meta])* $name:ident, $variant:ty, $asked:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name;

        impl Operator for $name {
            type Variant = $variant;

            const INCOMING: &'static [&'static str] = SelectiveScanBackward::INCOMING;

            fn sizes(v: &$variant, elements: usize) -> Sizes {
                Sizes { elements, ..$asked(v).sizes }
            }

            fn continues(v: &$variant) -> bool {
                $asked(v).continues()
            }

            fn inputs(v: &$variant, packed: &Packed, case: &Case) -> Vec<Tensor> {
                $asked(v).inputs(packed, case)
            }

            fn run(call: &Call<'_, $variant>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
                $asked(call.variant).run(call, inputs)
            }

            fn book(v: &$variant, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
                $asked(v).book(packed, inputs)
            }
        }
    };
}

operator! {
    /// The pass over segments whose states a [`State`] found.
    OfState, State, Asked::of_state
}
operator! {
    /// The pass over segments between which a [`Join`] passes states.
    OfJoin, Join, Asked::of_join
}

/// The largest state size of a quick run of many.
const LARGEST_OF_FEW: u32 = 64;

/// Whether a run has the suite of a direction with all options, or with none, in its `turn`: a quick run of many state sizes has all of one
/// direction and none of the other, then none and all.
fn in_turn(plan: &Plan, turn: usize, reverse: bool, all: bool) -> bool {
    !is_quick_of_many(plan) || all == (turn.is_multiple_of(2) != reverse)
}

fn is_quick_of_many(plan: &Plan) -> bool {
    plan.level == Level::Quick && plan.states.len() > 2
}

/// Small chunks, so that short sequences have several segments; for each state size, both directions in turns of types and options.
fn state_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    // The CPU walks each sequence in one piece.
    if matches!(plan.device, Device::Cpu) {
        return Vec::new();
    }
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for (i, &state) in plan.states.iter().enumerate() {
        for (j, &io) in plan.dtypes.iter().enumerate() {
            if plan.level == Level::Quick && i % plan.dtypes.len() != j && plan.states.len() > 1 {
                continue;
            }
            // The passes over segments have every size in suites of their own, and what is added here has no other code for large ones.
            if is_quick_of_many(plan) && state > LARGEST_OF_FEW {
                continue;
            }
            for reverse in [false, true] {
                let large = default_state(&problem(state, io, 24, [true; 7]), 4, reverse);
                let lanes = (large.lanes / 2).max(state.div_ceil(64).next_power_of_two());
                let bare = State { softplus: false, bias: false, gate: false, ends: false, ..large };
                let small = State { lanes, channels: 32 / lanes.min(32), resident: 1, vec: 1, ..bare };
                for (all, variant) in [(true, large), (false, small)] {
                    let variant = State { chunk: 8, ..variant };
                    // The types take turns as well: each gets all of it.
                    if in_turn(plan, i / plan.dtypes.len(), reverse, all) && plan.device.check(&variant).is_ok() {
                        jobs.push(Box::new(Suite::<OfState>::new(variant)));
                    }
                }
            }
        }
    }
    jobs
}

/// Both directions, with and without what enters and leaves sequences; a quick run of many state sizes has half of it.
fn join_jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    if matches!(plan.device, Device::Cpu) {
        return Vec::new();
    }
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for (i, &state) in plan.states.iter().filter(|state| (1..=1024).contains(*state)).take(2).enumerate() {
        for (reverse, all) in [(false, true), (true, true), (false, false), (true, false)] {
            if in_turn(plan, i, reverse, all) {
                let variant = Join { reverse, given: all, left: all, ..default_join(state) };
                jobs.push(Box::new(Suite::<OfJoin>::new(variant)));
            }
        }
    }
    jobs
}
