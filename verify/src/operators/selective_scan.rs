//! What the suite must know of the selective scan.

use packscan_kernels::selective_scan::{self as scan, Forward, Problem, State, default_variant};
use packscan_reference::Bounded;
use packscan_reference::selective_scan as book;
use packscan_runtime::kernel::Variant;
use packscan_runtime::{Dtype, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Model, Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Level, Operator, Plan, Random, Rows, Sizes, Tensor};

mod backward;
mod split;

pub(super) use backward::BACKWARD;
use split::Cut;
pub use split::agreement_in_segments;
pub(super) use split::{JOIN, STATE};

/// The forward pass and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "selective-scan",
    name: "forward",
    kernel: "selective_scan_fwd",
    pick: |model| checked(&default_variant(&of_model(model))),
    jobs,
    job: suite_of::<SelectiveScan>,
    faults: scan::forward_faults,
};

/// The scan of a Mamba block that is trained: everything but states of other packs.
fn of_model(model: &Model) -> Problem {
    problem(model.state, model.io, model.width, [true, true, true, true, false, false, true])
}

/// The selective scan, forward.
#[derive(Debug)]
pub struct SelectiveScan;

impl Operator for SelectiveScan {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        Sizes {
            chunk: v.chunk as usize,
            tile: v.channels as usize,
            multiple: v.vec as usize,
            state: v.state as usize,
            elements,
        }
    }

    fn continues(v: &Forward) -> bool {
        v.initial
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        random_inputs(&Options::of(v), packed, case)
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        run(call, inputs, None)
    }

    fn book(v: &Forward, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        book(v, packed, inputs, None)
    }
}

/// Runs forward, with sequences cut or not.
fn run(call: &Call<'_, Forward>, inputs: &[Tensor], cut: Option<&Cut>) -> Result<(Vec<Tensor>, bool)> {
    let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
    let arguments = Arguments::new(device, packed, inputs, outputs(v, call.channels), padding(call.padding, v.vec))?;
    let outputs = scan::Outputs {
        out: arguments.view("out"),
        final_state: arguments.get("final_state"),
        checkpoints: arguments.get("checkpoints"),
    };
    let (inputs, groups) = (scan_inputs(&arguments), Some(call.groups));
    let kept = cut.map(|cut| cut.keep(call.packed, call.channels)).transpose()?;
    for _ in 0..call.rounds {
        match (cut, &kept) {
            (Some(cut), Some(kept)) => {
                let split = cut.split(cut.state.unwrap_or_else(|| State::for_forward(v, call.channels)), kept);
                scan::split::forward(call.packed, v, groups, &inputs, &outputs, &split)?
            }
            _ => scan::forward(call.packed, v, groups, &inputs, &outputs)?,
        };
    }
    device.synchronize()?;
    arguments.take()
}

/// What the book says, by the formula for sequences that are cut into segments of so many tokens or for whole ones.
fn book(v: &Forward, packed: &Packed, inputs: &[Tensor], segment: Option<usize>) -> Vec<Vec<Bounded>> {
    let values = BookInputs::new(inputs);
    let lengths = packed.lengths();
    let (pack, inputs) = (values.pack(packed, &lengths), values.inputs(v.state, v.softplus));
    let book = match segment {
        Some(segment) => book::forward_in_segments(&pack, &inputs, segment),
        None => book::forward(&pack, &inputs),
    };
    let mut out = vec![stored(&book.out, v.io)];
    if v.last {
        out.push(book.final_state.clone());
    }
    if v.checkpoints {
        out.push(book.checkpoints(v.distance as usize));
    }
    out
}

/// What decides the inputs of either pass.
struct Options {
    state: u32,
    io: Dtype,
    softplus: bool,
    bias: bool,
    skip: bool,
    gate: bool,
    initial: bool,
}

impl Options {
    fn of(v: &Forward) -> Options {
        let Forward { state, io, softplus, bias, skip, gate, initial, .. } = *v;
        Options { state, io, softplus, bias, skip, gate, initial }
    }
}

/// Random inputs of the scan for a case.
fn random_inputs(v: &Options, packed: &Packed, case: &Case) -> Vec<Tensor> {
    let (d, n, io) = (case.channels, v.state as usize, v.io);
    // Now and then a value far out, where softplus and silu are straight lines or nothing.
    let spread = |name: &str| if matches!(name, "delta" | "z") && v.softplus { 4.0 } else { 1.0 };
    let uniform = |low: f32, high: f32, far: f32| {
        move |r: &mut Random| r.between(low, high) * if r.below(16) == 0 { far } else { 1.0 }
    };
    let random = |name, dtype, rows, cols, low, high| {
        Tensor::random(Tensor::shaped(name, dtype, rows, cols), packed, case.seed, uniform(low, high, spread(name)))
    };
    // Before a softplus any number is a step size; without one the model's are small and positive.
    let (low, high) = if v.softplus { (-6.0, 2.0) } else { (0.001, 0.8) };
    let rates = |r: &mut Random| -r.between(-3.0, 2.5).exp();
    let mut inputs = vec![
        random("u", io, Rows::Tokens, d, -2.0, 2.0),
        random("delta", io, Rows::Tokens, d, low, high),
        Tensor::random(Tensor::shaped("a", Dtype::F32, Rows::Shared(d), n), packed, case.seed, rates),
        random("b", io, Rows::Tokens, n, -1.0, 1.0),
        random("c", io, Rows::Tokens, n, -1.0, 1.0),
    ];
    let (f32, shared) = (Dtype::F32, Rows::Shared(1));
    let optional = [
        (v.skip, "d_skip", f32, shared, d, -1.0, 1.0),
        (v.bias, "delta_bias", f32, shared, d, 0.0, 0.2),
        (v.gate, "z", io, Rows::Tokens, d, -5.0, 5.0),
        (v.initial, "initial_state", f32, Rows::Sequences, d * n, -1.0, 1.0),
    ];
    for (wanted, name, dtype, rows, cols, low, high) in optional {
        if wanted {
            inputs.push(random(name, dtype, rows, cols, low, high));
        }
    }
    inputs
}

/// The inputs of the scan among the tensors of a run.
fn scan_inputs(arguments: &Arguments) -> scan::Inputs<'_> {
    scan::Inputs {
        u: arguments.view("u"),
        delta: arguments.view("delta"),
        a: arguments.view("a"),
        b: arguments.view("b"),
        c: arguments.view("c"),
        d_skip: arguments.get("d_skip"),
        delta_bias: arguments.get("delta_bias"),
        z: arguments.get("z"),
        initial_state: arguments.get("initial_state"),
    }
}

/// The inputs of the scan as the book takes them.
struct BookInputs {
    channels: usize,
    u: Vec<Bounded>,
    delta: Vec<Bounded>,
    a: Vec<Bounded>,
    b: Vec<Bounded>,
    c: Vec<Bounded>,
    d_skip: Option<Vec<Bounded>>,
    delta_bias: Option<Vec<Bounded>>,
    z: Option<Vec<Bounded>>,
    initial_state: Option<Vec<Bounded>>,
}

impl BookInputs {
    fn new(tensors: &[Tensor]) -> BookInputs {
        let optional = |name| exact(tensors, name);
        let wanted = |name| exact(tensors, name).expect("every scan has it");
        BookInputs {
            channels: tensors[0].cols,
            u: wanted("u"),
            delta: wanted("delta"),
            a: wanted("a"),
            b: wanted("b"),
            c: wanted("c"),
            d_skip: optional("d_skip"),
            delta_bias: optional("delta_bias"),
            z: optional("z"),
            initial_state: optional("initial_state"),
        }
    }

    fn pack<'a>(&'a self, packed: &'a Packed, lengths: &'a [usize]) -> book::Pack<'a, Bounded> {
        let initial_state = self.initial_state.as_deref();
        book::Pack {
            lengths,
            continued: if initial_state.is_some() { packed.continued() } else { &[] },
            initial_state: initial_state.unwrap_or_default(),
        }
    }

    fn inputs(&self, state: u32, softplus: bool) -> book::Inputs<'_, Bounded> {
        book::Inputs {
            channels: self.channels,
            states: state as usize,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: self.d_skip.as_deref(),
            delta_bias: self.delta_bias.as_deref(),
            z: self.z.as_deref(),
            softplus,
        }
    }
}

/// Columns on each side of a tensor's rows: `loads` of `vec` where the operator may be given padded rows.
fn padding(loads: usize, vec: u32) -> impl Fn(&str) -> usize {
    move |name| if strided(name) { loads * vec as usize } else { 0 }
}

/// Whether an operator may be given padded rows of this tensor.
fn strided(name: &str) -> bool {
    matches!(name, "u" | "delta" | "b" | "c" | "z" | "g" | "out" | "du" | "ddelta" | "dz" | "db" | "dc")
}

/// The outputs of a variant, in the order of the book's.
fn outputs(v: &Forward, d: usize) -> Vec<Tensor> {
    let n = v.state as usize;
    let mut out = vec![Tensor::shaped("out", v.io, Rows::Tokens, d)];
    if v.last {
        out.push(Tensor::shaped("final_state", Dtype::F32, Rows::Sequences, d * n));
    }
    if v.checkpoints {
        out.push(Tensor::shaped("checkpoints", Dtype::F32, Rows::Chunks(v.distance as usize), d * n));
    }
    out
}

/// For each state size and type: the hand-picked mapping with every option, and a small one, channel by channel, with others in turn.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for (i, &state) in plan.states.iter().enumerate() {
        for (j, &io) in plan.dtypes.iter().enumerate() {
            // A quick run has every state size and every type, but not every pair.
            if plan.level == Level::Quick && i % plan.dtypes.len() != j && plan.states.len() > 1 {
                continue;
            }
            let small = options(5 * i + 11 * j);
            for variant in
                [default_variant(&problem(state, io, 24, [true; 7])), small_variant(&problem(state, io, 23, small))]
            {
                if plan.device.check(&variant).is_ok() || broken_by_user(state) {
                    jobs.push(Box::new(Suite::<SelectiveScan>::new(variant)));
                }
            }
        }
    }
    jobs
}

/// Every combination of what concerns states, each with the other options on and off: 16 small variants.
pub fn option_jobs(state: u32, io: Dtype) -> Vec<Box<dyn Job>> {
    let combinations = (0..16).map(|i: usize| {
        let others = i & 8 != 0;
        [others, others, others, others, i & 1 != 0, i & 2 != 0, i & 4 != 0]
    });
    combinations
        .map(|options| small_variant(&problem(state, io, 23, options)))
        .map(|variant| Box::new(Suite::<SelectiveScan>::new(variant)) as Box<dyn Job>)
        .collect()
}

/// The bits of a number as options; 0 is none of them.
fn options(bits: usize) -> [bool; 7] {
    std::array::from_fn(|i| bits >> i & 1 != 0)
}

/// A state size outside the declaration stays in the list, so that its error is shown.
fn broken_by_user(state: u32) -> bool {
    !(1..=1024).contains(&state)
}

fn problem(state: u32, io: Dtype, channels: usize, options: [bool; 7]) -> Problem {
    let [softplus, bias, skip, gate, initial, last, checkpoints] = options;
    Problem { channels, state: state as usize, io, softplus, bias, skip, gate, initial, last, checkpoints }
}

/// The shortest chunk, half the lanes of the hand-picked variant, one warp, one element a load: the other corner of the space.
fn small_variant(problem: &Problem) -> Forward {
    let lanes = (default_variant(problem).lanes / 2).max(problem.state.div_ceil(64).next_power_of_two() as u32);
    let variant = problem.variant(8, lanes.max(1), 32 / lanes.max(1), 1);
    debug_assert!(variant.broken_rules().is_empty());
    variant
}
