//! What the suite must know of casts.

use packscan_kernels::cast::{self, Forward};
use packscan_reference::Bounded;
use packscan_reference::cast as book;
use packscan_runtime::{Dtype, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The copy, and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "cast",
    name: "forward",
    kernel: "cast",
    pick: |model| checked(&cast::default_variant(model.width, Dtype::F32, model.io)),
    jobs,
    job: suite_of::<Cast>,
    faults: cast::faults,
};

/// The copy.
#[derive(Debug)]
struct Cast;

impl Operator for Cast {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        Sizes { chunk: 8, tile: 16 * v.vec as usize, multiple: v.vec as usize, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let shape = Tensor::shaped("x", v.from, Rows::Tokens, case.channels);
        vec![Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(-3.0, 3.0))]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, device) = (call.variant, call.packed.device());
        let outputs = vec![Tensor::shaped("out", v.to, Rows::Tokens, call.channels)];
        let padding = |_: &str| call.padding * v.vec as usize;
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, padding)?;
        for _ in 0..call.rounds {
            cast::forward(call.packed, v, arguments.view("x"), arguments.view("out"))?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        vec![stored(&book::forward(&exact(inputs, "x").unwrap_or_default()), v.to)]
    }
}

/// From each type to f32 and from f32 to each: with the widest loads, and with the narrowest.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        jobs.push(Box::new(Suite::<Cast>::new(cast::default_variant(8, Dtype::F32, io))));
        jobs.push(Box::new(Suite::<Cast>::new(Forward { block: 32, vec: 1, from: io, to: Dtype::F32 })));
    }
    jobs
}
