//! What the suite must know of the state matrix's negative exponential.

use packscan_kernels::neg_exp::{self, Backward, Forward};
use packscan_reference::Bounded;
use packscan_reference::neg_exp as book;
use packscan_runtime::{DevicePacked, Dtype, Edit, Packed, Result};

use super::arguments::{Arguments, exact};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The exponential, and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "neg-exp",
    name: "forward",
    kernel: "neg_exp_fwd",
    pick: |_| checked(&neg_exp::default_variant()),
    jobs,
    job: suite_of::<NegExp>,
    faults: || faults_of("neg_exp_fwd"),
};

/// The gradient in place, and its faults.
pub(super) const BACKWARD: Pass = Pass {
    operator: "neg-exp",
    name: "backward",
    kernel: "neg_exp_bwd",
    pick: |_| checked(&neg_exp::default_backward()),
    jobs: backward_jobs,
    job: suite_of::<NegExpBackward>,
    faults: || faults_of("neg_exp_bwd"),
};

fn faults_of(kernel: &str) -> Vec<Edit> {
    neg_exp::faults().into_iter().filter(|fault| fault.kernel == kernel).collect()
}

/// As many elements as a case has tokens times channels.
#[derive(Debug)]
struct NegExp;

/// Their gradients.
#[derive(Debug)]
struct NegExpBackward;

/// One block's parameters are a chunk and a tile, so that runs of several show how the grid grows.
fn sizes(block: u32, vec: u32, elements: usize) -> Sizes {
    Sizes { chunk: (block * vec / 32).max(8) as usize, tile: 32, multiple: 1, state: 1, elements }
}

/// Parameters belong to nobody.
fn parameters(name: &'static str, case: &Case) -> Tensor {
    Tensor::shaped(name, Dtype::F32, Rows::Shared(case.tokens() * case.channels), 1)
}

impl Operator for NegExp {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        sizes(v.block, v.vec, elements)
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(_: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        vec![Tensor::random(parameters("a_log", case), packed, case.seed, |r: &mut Random| r.between(-6.0, 6.0))]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let device = call.packed.device();
        let outputs = vec![Tensor { name: "a", values: Vec::new(), ..inputs[0].clone() }];
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, |_| 0)?;
        let nothing = DevicePacked::empty(device)?;
        for _ in 0..call.rounds {
            neg_exp::forward(&nothing, call.variant, arguments.view("a_log"), arguments.view("a"))?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(_: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        vec![book::forward(&exact(inputs, "a_log").unwrap_or_default())]
    }
}

impl Operator for NegExpBackward {
    type Variant = Backward;

    fn sizes(v: &Backward, elements: usize) -> Sizes {
        sizes(v.block, v.vec, elements)
    }

    fn continues(_: &Backward) -> bool {
        false
    }

    /// Gradients that are not 0, so that a kernel that overwrites or adds to them disagrees with the book.
    fn inputs(_: &Backward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let random = |name, low, high| {
            Tensor::random(parameters(name, case), packed, case.seed, |r: &mut Random| r.between(low, high))
        };
        vec![random("a", -400.0, -1e-3), random("g", 0.1, 3.0)]
    }

    /// What is multiplied is no sum: it does not double when the operator runs twice, so it is not marked as accumulated.
    fn run(call: &Call<'_, Backward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let device = call.packed.device();
        let outputs = vec![Tensor { values: Vec::new(), ..inputs[1].clone() }];
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, |_| 0)?;
        let nothing = DevicePacked::empty(device)?;
        for _ in 0..call.rounds {
            neg_exp::backward(&nothing, call.variant, arguments.view("a"), arguments.view("g"))?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(_: &Backward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let [a, g] = ["a", "g"].map(|name| exact(inputs, name).unwrap_or_default());
        vec![book::backward(&g, &a)]
    }
}

/// One element a thread, and four. Everything is f32, whatever the types of the activations are.
fn jobs(_: &Plan) -> Vec<Box<dyn Job>> {
    let job = |block, vec| Box::new(Suite::<NegExp>::new(Forward { block, vec })) as Box<dyn Job>;
    vec![job(32, 1), job(64, 4)]
}

fn backward_jobs(_: &Plan) -> Vec<Box<dyn Job>> {
    let job = |block, vec| Box::new(Suite::<NegExpBackward>::new(Backward { block, vec })) as Box<dyn Job>;
    vec![job(32, 1), job(64, 4)]
}
