//! What the suite must know of the loss.

use packscan_kernels::cross_entropy::{self as loss, Forward, NO_TARGET, Tensors};
use packscan_reference::cross_entropy as book;
use packscan_reference::{Bounded, Number};
use packscan_runtime::{Dtype, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// Loss and gradient, and their faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "cross-entropy",
    name: "forward",
    kernel: "cross_entropy",
    pick: |model| checked(&loss::default_variant(&loss::Problem { vocabulary: model.width, io: model.io })),
    jobs,
    job: suite_of::<CrossEntropy>,
    faults: loss::faults,
};

/// The loss and its gradient; the channels of a case are the vocabulary.
#[derive(Debug)]
struct CrossEntropy;

impl Operator for CrossEntropy {
    type Variant = Forward;

    fn sizes(v: &Forward, elements: usize) -> Sizes {
        // A row of two tiles and more is read again from the cache.
        let tile = (v.block * v.keep * v.vec) as usize;
        Sizes { chunk: 8, tile, multiple: v.vec as usize, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let vocabulary = case.channels;
        // Now and then a logit towers above its row, so far that its exponential is no float.
        let logit = |r: &mut Random| r.between(-8.0, 8.0) + if r.below(16) == 0 { 100.0 } else { 0.0 };
        let target = |r: &mut Random| match r.below(6) {
            0 => NO_TARGET as f32,
            1 => vocabulary as f32 - 1.0,
            _ => r.below(vocabulary) as f32,
        };
        let random = |shape, value: &dyn Fn(&mut Random) -> f32| Tensor::random(shape, packed, case.seed, value);
        vec![
            random(Tensor::shaped("logits", v.io, Rows::Tokens, vocabulary), &logit),
            random(Tensor::shaped("targets", Dtype::U32, Rows::Tokens, 1), &target),
            random(Tensor::shaped("scale", Dtype::F32, Rows::Shared(1), 1), &|r| r.between(0.001, 2.0)),
        ]
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, packed, device) = (call.variant, call.packed.packed(), call.packed.device());
        let outputs = vec![
            Tensor::shaped("loss", Dtype::F32, Rows::Tokens, 1),
            Tensor::shaped("logits", v.io, Rows::Tokens, inputs[0].cols),
        ];
        let padding = |name: &str| if name == "logits" { call.padding * v.vec as usize } else { 0 };
        let arguments = Arguments::new(device, packed, inputs, outputs, padding)?;
        let tensors = Tensors {
            logits: arguments.view("logits"),
            targets: arguments.view("targets"),
            scale: arguments.view("scale"),
            loss: arguments.view("loss"),
        };
        for _ in 0..call.rounds {
            loss::forward(call.packed, v, &tensors)?;
        }
        device.synchronize()?;
        arguments.take()
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let targets: Vec<Option<usize>> =
            inputs[1].values.iter().map(|&k| (k < NO_TARGET as f32).then_some(k as usize)).collect();
        let logits = exact(inputs, "logits").unwrap_or_default();
        let scale = Bounded::constant(f64::from(inputs[2].values[0]));
        let inputs = book::Inputs { vocabulary: inputs[0].cols, logits: &logits, targets: &targets };
        vec![book::forward(&inputs), stored(&book::backward(&inputs, &scale), v.io)]
    }
}

/// For each type: one warp with wide loads, two with narrow ones.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &io in &plan.dtypes {
        let wide = (16 / io.bytes()) as u32;
        for (block, keep, vec) in [(32, 1, wide), (64, 2, 1)] {
            jobs.push(Box::new(Suite::<CrossEntropy>::new(Forward { block, keep, vec, io })));
        }
    }
    jobs
}
