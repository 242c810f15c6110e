//! What the suite must know of the residual addition and norm.

use packscan_kernels::rms_norm::{
    self as norm, Backward, Forward, Gradients, Incoming, Inputs, Outputs, Problem, default_backward, default_variant,
};
use packscan_reference::Bounded;
use packscan_reference::rms_norm as book;
use packscan_runtime::{Dtype, Edit, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Model, Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The forward pass and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "rms-norm",
    name: "forward",
    kernel: "rms_norm_fwd",
    pick: |model| checked(&default_variant(&whole(model))),
    jobs: |plan| jobs(plan, |problem, mapping| suite::<NormForward>(forward_variant(problem, mapping))),
    job: suite_of::<NormForward>,
    faults: || faults_of("rms_norm_fwd"),
};

/// The backward pass and its faults.
pub(super) const BACKWARD: Pass = Pass {
    operator: "rms-norm",
    name: "backward",
    kernel: "rms_norm_bwd",
    pick: |model| checked(&default_backward(&whole(model), true, true, true)),
    jobs: |plan| jobs(plan, |problem, mapping| suite::<NormBackward>(backward_variant(problem, mapping))),
    job: suite_of::<NormBackward>,
    faults: || faults_of("rms_norm_bwd"),
};

/// The norm with everything that a block of a model asks of it.
fn whole(model: &Model) -> Problem {
    Problem { width: model.width, io: model.io, residual: true, sum: true, stats: true, alone: false }
}

/// The widths that are verified.
const WIDTHS: [usize; 7] = [1, 3, 24, 100, 768, 2048, 8192];

fn faults_of(kernel: &str) -> Vec<Edit> {
    norm::faults().into_iter().filter(|fault| fault.kernel == kernel).collect()
}

/// How a variant lies on the machine.
#[derive(Clone, Copy)]
enum Mapping {
    HandPicked,
    /// Two rows of two warps or more, one column a load: the other corner of the space.
    Small,
}

/// For each width and type, in turn: the hand-picked mapping with every option, and a small one with others in turn.
fn jobs(plan: &Plan, suite: impl Fn(&Problem, Mapping) -> Box<dyn Job>) -> Vec<Box<dyn Job>> {
    let mut jobs = Vec::new();
    for (i, &width) in WIDTHS.iter().enumerate() {
        // The widest rows take longest and differ in nothing but their length: one type shows them.
        let dtypes = if width > 4096 { &plan.dtypes[..plan.dtypes.len().min(1)] } else { &plan.dtypes[..] };
        for (j, &io) in dtypes.iter().enumerate() {
            let (residual, sum, stats) = ((i + j) % 4 == 1, i % 2 == 0, j % 2 == 0);
            jobs.push(if (i + j) % 2 == 0 {
                suite(&Problem { width, io, residual: true, sum: true, stats: true, alone: false }, Mapping::HandPicked)
            } else {
                suite(&Problem { width, io, residual, sum, stats, alone: residual && i == 3 }, Mapping::Small)
            });
        }
    }
    jobs
}

fn small_lanes(width: u32) -> u32 {
    width.div_ceil(64).next_power_of_two().max(64)
}

fn forward_variant(problem: &Problem, mapping: Mapping) -> Forward {
    let v = default_variant(problem);
    match mapping {
        Mapping::HandPicked => v,
        Mapping::Small => Forward { lanes: small_lanes(v.width), rows: 2, vec: 1, ..v },
    }
}

fn backward_variant(problem: &Problem, mapping: Mapping) -> Backward {
    let v = default_backward(problem, problem.residual, problem.sum, problem.stats || !problem.sum);
    match mapping {
        Mapping::HandPicked => v,
        Mapping::Small => Backward { lanes: small_lanes(v.width), rows: 2, vec: 1, ..v },
    }
}

fn suite<O: Operator>(variant: O::Variant) -> Box<dyn Job> {
    Box::new(Suite::<O>::new(variant))
}

/// A row costs the emulator what its lanes cost, several instructions each; wide rows get short sequences.
fn sizes(lanes: u32, kept: u32, elements: usize) -> Sizes {
    let state = 8 * (lanes * kept) as usize;
    Sizes { chunk: if state > 10_000 { 2 } else { 4 }, tile: 1, multiple: 1, state, elements }
}

/// Makes the random tensors of a case.
struct Maker<'a> {
    packed: &'a Packed,
    seed: u64,
}

impl Maker<'_> {
    fn random(&self, name: &'static str, dtype: Dtype, rows: Rows, cols: usize, (low, high): (f32, f32)) -> Tensor {
        let shape = Tensor::shaped(name, dtype, rows, cols);
        Tensor::random(shape, self.packed, self.seed, |r: &mut Random| r.between(low, high))
    }
}

/// The forward pass.
#[derive(Debug)]
struct NormForward;

impl Operator for NormForward {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        sizes(v.lanes, v.width.div_ceil(v.lanes), elements)
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let (maker, m) = (Maker { packed, seed: case.seed }, v.width as usize);
        let mut inputs = vec![
            maker.random("weight", Dtype::F32, Rows::Shared(1), m, (-1.0, 2.0)),
            maker.random("epsilon", Dtype::F32, Rows::Shared(1), 1, (1e-3, 0.5)),
        ];
        if !v.alone {
            inputs.insert(0, maker.random("x", v.io, Rows::Tokens, m, (-2.0, 2.0)));
        }
        if v.residual {
            inputs.push(maker.random("residual", Dtype::F32, Rows::Tokens, m, (-3.0, 3.0)));
        }
        inputs
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
        let m = v.width as usize;
        let mut outputs = vec![Tensor::shaped("y", v.io, Rows::Tokens, m)];
        if v.sum {
            outputs.push(Tensor::shaped("residual_out", Dtype::F32, Rows::Tokens, m));
        }
        if v.stats {
            outputs.push(Tensor::shaped("rstd", Dtype::F32, Rows::Tokens, 1));
        }
        let padding = |name: &str| if matches!(name, "x" | "y") { call.padding * v.vec as usize } else { 0 };
        let run = Arguments::new(device, packed, inputs, outputs, padding)?;
        let inputs = Inputs {
            x: run.get("x"),
            residual: run.get("residual"),
            weight: run.view("weight"),
            epsilon: run.view("epsilon"),
        };
        let outputs = Outputs { y: run.view("y"), residual: run.get("residual_out"), rstd: run.get("rstd") };
        for _ in 0..call.rounds {
            norm::forward(call.packed, v, &inputs, &outputs)?;
        }
        device.synchronize()?;
        run.take()
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let values = |name| exact(inputs, name).unwrap_or_default();
        // To the book, what is normed alone is what is added to nothing.
        let (x, residual) = match exact(inputs, "x") {
            Some(x) => (x, exact(inputs, "residual")),
            None => (values("residual"), None),
        };
        let outputs = book::forward(&book::Inputs {
            width: v.width as usize,
            x: &x,
            residual: residual.as_deref(),
            weight: &values("weight"),
            epsilon: values("epsilon")[0],
        });
        let mut out = vec![stored(&outputs.y, v.io)];
        out.extend(v.sum.then_some(outputs.r));
        out.extend(v.stats.then_some(outputs.rstd));
        out
    }
}

/// The backward pass, the sum of its parts included.
#[derive(Debug)]
struct NormBackward;

impl Operator for NormBackward {
    type Variant = Backward;

    const INCOMING: &'static [&'static str] = &["dy", "incoming"];

    fn sizes(v: &Backward, elements: usize) -> Sizes {
        sizes(v.lanes, v.width.div_ceil(v.lanes), elements)
    }

    fn continues(_: &Backward) -> bool {
        false
    }

    fn inputs(v: &Backward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let (maker, m) = (Maker { packed, seed: case.seed }, v.width as usize);
        let mut inputs = vec![
            maker.random("dy", v.io, Rows::Tokens, m, (-2.0, 2.0)),
            maker.random("r", Dtype::F32, Rows::Tokens, m, (-3.0, 3.0)),
            // The formula holds for any; that of forward is one of them.
            maker.random("rstd", Dtype::F32, Rows::Tokens, 1, (0.3, 2.0)),
            maker.random("weight", Dtype::F32, Rows::Shared(1), m, (-1.0, 2.0)),
        ];
        if v.incoming {
            inputs.push(maker.random("incoming", Dtype::F32, Rows::Tokens, m, (-2.0, 2.0)));
        }
        inputs
    }

    fn run(call: &Call<'_, Backward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
        let m = v.width as usize;
        let mut outputs = Vec::new();
        if v.dresidual {
            outputs.push(Tensor::shaped("dresidual", Dtype::F32, Rows::Tokens, m));
        }
        if v.dx {
            outputs.push(Tensor::shaped("dx", v.io, Rows::Tokens, m));
        }
        let dweight = Tensor::shaped("dweight", Dtype::F32, Rows::Shared(1), m);
        outputs.push(Tensor { accumulated: true, ..dweight });
        let padding = |name: &str| if matches!(name, "dy" | "dx") { call.padding * v.vec as usize } else { 0 };
        let run = Arguments::new(device, packed, inputs, outputs, padding)?;
        let parts_rows = 2 * call.groups + 1;
        let parts = packscan_runtime::Buffer::unwritten(device, Dtype::F32, parts_rows * m)?;
        let incoming = Incoming {
            dy: run.view("dy"),
            r: run.view("r"),
            rstd: run.view("rstd"),
            weight: run.view("weight"),
            dr: run.get("incoming"),
        };
        let gradients = Gradients {
            residual: run.get("dresidual"),
            x: run.get("dx"),
            weight: run.view("dweight"),
            add: true,
            parts: parts.rows(parts_rows)?,
        };
        for _ in 0..call.rounds {
            norm::backward(call.packed, v, &incoming, &gradients)?;
        }
        device.synchronize()?;
        run.take()
    }

    fn book(v: &Backward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let values = |name| exact(inputs, name).unwrap_or_default();
        let gradients = book::backward(&book::Incoming {
            width: v.width as usize,
            dy: &values("dy"),
            r: &values("r"),
            rstd: &values("rstd"),
            weight: &values("weight"),
            incoming: exact(inputs, "incoming").as_deref(),
        });
        let mut out = Vec::new();
        if v.dresidual {
            out.push(gradients.r.clone());
        }
        if v.dx {
            out.push(stored(&gradients.r, v.io));
        }
        out.push(gradients.weight);
        out
    }
}
