//! What the suite must know of the norm of gradients.

use packscan_kernels::grad_norm::{self as norm, Clip, Forward};
use packscan_reference::grad_norm as book;
use packscan_reference::{Bounded, Number};
use packscan_runtime::{DevicePacked, Dtype, Edit, Packed, Result};

use super::arguments::{Arguments, exact};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// Sums of squares, and their faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "grad-norm",
    name: "forward",
    kernel: "grad_norm",
    pick: |model| checked(&norm::default_variant(model.io)),
    jobs,
    job: suite_of::<GradNorm>,
    faults: || faults_of("grad_norm"),
};

/// Norm and factor, and their faults.
pub(super) const CLIP: Pass = Pass {
    operator: "grad-norm",
    name: "clip",
    kernel: "grad_norm_clip",
    pick: |_| checked(&norm::CLIP),
    jobs: clip_jobs,
    job: suite_of::<GradNormClip>,
    faults: || faults_of("grad_norm_clip"),
};

fn faults_of(kernel: &str) -> Vec<Edit> {
    norm::faults().into_iter().filter(|fault| fault.kernel == kernel).collect()
}

/// Sums of the squares of parts of as many gradients as a case has tokens times channels.
#[derive(Debug)]
struct GradNorm;

/// Norm and factor from as many sums.
#[derive(Debug)]
struct GradNormClip;

/// So many elements that belong to nobody: nothing here is a sequence's.
fn shared(name: &'static str, dtype: Dtype, len: usize) -> Tensor {
    Tensor::shaped(name, dtype, Rows::Shared(len), 1)
}

/// What one block adds up is a chunk and a tile, so that runs of several show how the grid grows.
fn sizes(part: u32, elements: usize) -> Sizes {
    Sizes { chunk: (part / 32).max(8) as usize, tile: 32, multiple: 1, state: 1, elements }
}

impl Operator for GradNorm {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        sizes(v.part, elements)
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let shape = shared("g", v.io, case.tokens() * case.channels);
        vec![Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(-3.0, 3.0))]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let device = call.packed.device();
        let outputs = vec![shared("parts", Dtype::F32, norm::parts(call.variant, inputs[0].values.len()))];
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, |_| 0)?;
        let nothing = DevicePacked::empty(device)?;
        for _ in 0..call.rounds {
            norm::forward(&nothing, call.variant, arguments.view("g"), arguments.view("parts"))?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let g = exact(inputs, "g").unwrap_or_default();
        vec![g.chunks(v.part as usize).map(book::sum_of_squares).collect()]
    }
}

impl Operator for GradNormClip {
    type Variant = Clip;

    fn sizes(v: &Clip, elements: usize) -> Sizes {
        sizes(v.block, elements)
    }

    fn continues(_: &Clip) -> bool {
        false
    }

    /// In one of four cases a sum is not finite: NaN in the fixed case with seed 0, infinite in that with seed 3.
    fn inputs(_: &Clip, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let random = |shape, low, high| Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(low, high));
        let mut parts = random(shared("parts", Dtype::F32, case.tokens() * case.channels), 0.0, 4.0);
        let place = case.seed as usize / 8 % parts.values.len().max(1);
        match (case.seed % 8, parts.values.get_mut(place)) {
            (0, Some(sum)) => *sum = f32::NAN,
            (3, Some(sum)) => *sum = f32::INFINITY,
            _ => {}
        }
        vec![parts, random(shared("max_norm", Dtype::F32, 1), 0.1, 40.0)]
    }

    fn run(call: &Call<'_, Clip>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let device = call.packed.device();
        let outputs = vec![shared("result", Dtype::F32, 3)];
        let arguments = Arguments::new(device, call.packed.packed(), inputs, outputs, |_| 0)?;
        let nothing = DevicePacked::empty(device)?;
        let [parts, max_norm, result] = ["parts", "max_norm", "result"].map(|name| arguments.view(name));
        for _ in 0..call.rounds {
            norm::clip(&nothing, call.variant, parts, max_norm, result)?;
        }
        device.synchronize()?;
        let (mut results, untouched) = arguments.take()?;
        // NaN is within no bound: a norm that is not finite is compared as the largest number.
        let norm = &mut results[0].values[1];
        *norm = if norm.is_finite() { *norm } else { f32::MAX };
        Ok((results, untouched))
    }

    fn book(_: &Clip, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let number = |value: f32| Bounded::constant(value.into());
        if !inputs[0].values.iter().all(|sum| sum.is_finite()) {
            return vec![[0.0, f32::MAX, 1.0].map(number).to_vec()];
        }
        let clip = book::clip(&exact(inputs, "parts").unwrap_or_default(), &number(inputs[1].values[0]));
        vec![vec![clip.factor, clip.norm, number(0.0)]]
    }
}

/// For each type: short parts with narrow loads, longer ones with wide loads.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        let wide = (16 / io.bytes()) as u32;
        for (part, block, vec) in [(96, 32, 1), (64 * wide, 64, wide)] {
            jobs.push(Box::new(Suite::<GradNorm>::new(Forward { part, block, vec, io })));
        }
    }
    jobs
}

/// One warp, and several. Sums are f32 whatever the gradients are.
fn clip_jobs(_: &Plan) -> Vec<Box<dyn Job>> {
    let job = |block| Box::new(Suite::<GradNormClip>::new(Clip { block })) as Box<dyn Job>;
    vec![job(32), job(128)]
}
