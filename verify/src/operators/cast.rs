//! What the suite must know of casts.

use packscan_kernels::cast::{self, Forward};
use packscan_reference::Bounded;
use packscan_reference::cast as book;
use packscan_runtime::kernel;
use packscan_runtime::{Device, Dtype, Packed, Result};

use super::Pass;
use super::arguments::{Arguments, exact, stored};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// The copy, and its faults.
pub(super) const FORWARD: Pass = Pass { operator: "cast", kernel: "cast", jobs, job, faults: cast::faults };

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

/// The suite of the variant with this id.
fn job(id: &str) -> Result<Box<dyn Job>> {
    let variant: Forward = id.parse()?;
    kernel::check(&variant, Device::emulator(0).arch().unwrap_or_default())?;
    Ok(Box::new(Suite::<Cast>::new(variant)))
}
