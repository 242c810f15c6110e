//! The backward pass, from checkpoints that the forward pass of the same device makes.

use packscan_kernels::selective_scan::{self as scan, Backward, State, Workspace, default_backward};
use packscan_reference::Bounded;
use packscan_reference::selective_scan as book;
use packscan_runtime::{Buffer, Dtype, Packed, Result};

use super::split::Cut;
use super::{BookInputs, Options, broken_by_user, of_model, options, padding, problem, random_inputs, scan_inputs};
use crate::operators::arguments::{Arguments, exact, stored};
use crate::operators::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Level, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The backward pass and its faults.
pub(in crate::operators) const BACKWARD: Pass = Pass {
    operator: "selective-scan",
    name: "backward",
    kernel: "selective_scan_bwd",
    pick: |model| checked(&default_backward(&of_model(model))),
    jobs,
    job: suite_of::<SelectiveScanBackward>,
    faults: scan::backward_faults,
};

/// The selective scan, backward.
#[derive(Debug)]
pub(super) struct SelectiveScanBackward;

impl Operator for SelectiveScanBackward {
    type Variant = Backward;

    const INCOMING: &'static [&'static str] = &["g", "d_final_state"];

    fn sizes(v: &Backward, elements: usize) -> Sizes {
        Sizes {
            chunk: v.chunk as usize,
            tile: v.channels as usize,
            multiple: v.vec as usize,
            state: v.state as usize,
            elements,
        }
    }

    fn continues(v: &Backward) -> bool {
        v.initial
    }

    fn inputs(v: &Backward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let Backward { state, io, softplus, bias, skip, gate, initial, .. } = *v;
        let mut inputs = random_inputs(&Options { state, io, softplus, bias, skip, gate, initial }, packed, case);
        let mut upstream = |name, dtype, rows, cols| {
            let any = |r: &mut Random| r.between(-1.0, 1.0);
            inputs.push(Tensor::random(Tensor::shaped(name, dtype, rows, cols), packed, case.seed, any));
        };
        upstream("g", io, Rows::Tokens, case.channels);
        if v.last {
            upstream("d_final_state", Dtype::F32, Rows::Sequences, case.channels * state as usize);
        }
        inputs
    }

    fn run(call: &Call<'_, Backward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        run(call, inputs, None)
    }

    fn book(v: &Backward, packed: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        book(v, packed, inputs, None)
    }
}

/// Runs forward and backward, with sequences cut or not.
pub(super) fn run(call: &Call<'_, Backward>, inputs: &[Tensor], cut: Option<&Cut>) -> Result<(Vec<Tensor>, bool)> {
    let (v, packed, device, d) = (call.variant, call.packed.packed(), call.packed.device(), call.channels);
    let arguments = Arguments::new(device, packed, inputs, outputs(v, d), padding(call.padding, v.vec))?;
    let scan_inputs = scan_inputs(&arguments);

    let chunks = packed.tokens().div_ceil(v.chunk as usize);
    let checkpoints = Buffer::unwritten(device, Dtype::F32, chunks * d * v.state as usize)?;
    let out = Buffer::unwritten(device, v.io, packed.tokens() * d)?;
    let forward = forward_for(v, d);
    let saved =
        scan::Outputs { out: out.rows(packed.tokens())?, final_state: None, checkpoints: Some(checkpoints.view()) };
    let groups = Some(call.groups);
    let kept = cut.map(|cut| cut.keep(call.packed, d)).transpose()?;
    match (cut, &kept) {
        (Some(cut), Some(kept)) => {
            let state = State::for_forward(&forward, d);
            scan::split::forward(call.packed, &forward, groups, &scan_inputs, &saved, &cut.split(state, kept))?
        }
        _ => scan::forward(call.packed, &forward, groups, &scan_inputs, &saved)?,
    };

    let upstream = scan::Upstream {
        out: arguments.view("g"),
        final_state: arguments.get("d_final_state"),
        checkpoints: checkpoints.view(),
    };
    let gradients = scan::Gradients {
        u: arguments.view("du"),
        delta: arguments.view("ddelta"),
        a: arguments.view("da"),
        b: arguments.view("db"),
        c: arguments.view("dc"),
        d_skip: arguments.get("dd_skip"),
        delta_bias: arguments.get("ddelta_bias"),
        add: true,
        z: arguments.get("dz"),
        initial_state: arguments.get("d_initial_state"),
    };
    let packed = call.packed;
    let walked = kept.as_ref().map_or(packed, |kept| kept.segments.pack());
    let mut workspace = Workspace::new(walked, v, d, groups)?;
    for _ in 0..call.rounds {
        match (cut, &kept) {
            (Some(cut), Some(kept)) => {
                let split = cut.split(cut.state.unwrap_or_else(|| State::for_backward(v, d)), kept);
                let workspace = &mut workspace;
                scan::split::backward(packed, v, &scan_inputs, &upstream, &gradients, workspace, &split)?
            }
            _ => scan::backward(packed, v, &scan_inputs, &upstream, &gradients, &mut workspace)?,
        };
    }
    device.synchronize()?;
    arguments.take()
}

/// What the book says, by the formula for sequences that are cut into segments of so many tokens or for whole ones.
pub(super) fn book(v: &Backward, packed: &Packed, inputs: &[Tensor], segment: Option<usize>) -> Vec<Vec<Bounded>> {
    let values = BookInputs::new(inputs);
    let lengths = packed.lengths();
    let (g, final_state) = (exact(inputs, "g").unwrap_or_default(), exact(inputs, "d_final_state"));
    let upstream = book::Upstream { out: &g, final_state: final_state.as_deref() };
    let (pack, inputs) = (values.pack(packed, &lengths), values.inputs(v.state, v.softplus));
    let book = match segment {
        Some(segment) => book::backward_in_segments(&pack, &inputs, &upstream, segment),
        None => book::backward(&pack, &inputs, &upstream),
    };
    let mut out =
        vec![stored(&book.u, v.io), stored(&book.delta, v.io), book.a, stored(&book.b, v.io), stored(&book.c, v.io)];
    out.extend(book.d_skip);
    out.extend(book.delta_bias);
    out.extend(book.z.map(|z| stored(&z, v.io)));
    if v.initial {
        out.push(book.initial_state);
    }
    out
}

/// The outputs of a variant, in the order of the book's.
fn outputs(v: &Backward, d: usize) -> Vec<Tensor> {
    let n = v.state as usize;
    let per_token = |name, cols| Tensor::shaped(name, v.io, Rows::Tokens, cols);
    let parameter =
        |name, rows, cols| Tensor { accumulated: true, ..Tensor::shaped(name, Dtype::F32, Rows::Shared(rows), cols) };
    let optional = [
        (v.skip, parameter("dd_skip", 1, d)),
        (v.bias, parameter("ddelta_bias", 1, d)),
        (v.gate, per_token("dz", d)),
        (v.initial, Tensor::shaped("d_initial_state", Dtype::F32, Rows::Sequences, d * n)),
    ];
    let always =
        [per_token("du", d), per_token("ddelta", d), parameter("da", d, n), per_token("db", n), per_token("dc", n)];
    always.into_iter().chain(optional.into_iter().filter(|o| o.0).map(|o| o.1)).collect()
}

/// A forward variant that saves states where this backward variant looks for them.
fn forward_for(v: &Backward, d: usize) -> scan::Forward {
    let bits = [v.softplus, v.bias, v.skip, v.gate, v.initial, false, true];
    let chosen = scan::default_variant(&problem(v.state, v.io, d, bits));
    let chosen = scan::Forward { channels: chosen.channels.next_multiple_of(v.vec), vec: v.vec, ..chosen };
    chosen.saving_every(v.chunk)
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
            let large = default_backward(&problem(state, io, 24, [true; 7]));
            let small = small_variant(state, io, options(7 * i + 13 * j));
            for variant in [large, small] {
                if plan.device.check(&variant).is_ok() || broken_by_user(state) {
                    jobs.push(Box::new(Suite::<SelectiveScanBackward>::new(variant)));
                }
            }
        }
    }
    jobs
}

/// The shortest chunk, half the lanes of the hand-picked variant, one warp, one element a load: the other corner of the space.
fn small_variant(state: u32, io: Dtype, options: [bool; 7]) -> Backward {
    let large = default_backward(&problem(state, io, 23, options));
    let lanes = (large.lanes / 2).max(state.div_ceil(64).next_power_of_two()).max(1);
    // With walk as many as lanes, or few: every way to sort a sum over lanes.
    let walk = lanes.min(if state.is_multiple_of(16) { 4 } else { 1 });
    Backward { chunk: 8, kept: 4, lanes, walk, channels: 32 / lanes * walk, resident: 1, vec: 1, ..large }
}
