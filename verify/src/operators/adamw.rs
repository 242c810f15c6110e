//! What the suite must know of the optimiser.

use packscan_kernels::adamw::halves::{join_all, split_all};
use packscan_kernels::adamw::{self as optimiser, Forward, Kept, Range, Step};
use packscan_reference::adamw as book;
use packscan_reference::{Bounded, Number};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, Result};

use super::arguments::{Arguments, exact, stored};
use super::{Pass, checked, suite_of};
use crate::suite::Suite;
use crate::{Call, Case, Job, Operator, Plan, Random, Rows, Sizes, Tensor};

/// One step, and its faults.
pub(super) const FORWARD: Pass = Pass {
    operator: "adamw",
    name: "forward",
    kernel: "adamw",
    pick: |model| checked(&optimiser::default_variant(Dtype::F32, Kept::of(model.io), true)),
    jobs,
    job: suite_of::<AdamW>,
    faults: optimiser::faults,
};

/// One step over as many parameters as a case has tokens times channels.
#[derive(Debug)]
struct AdamW;

/// A step far into a training or at its start, with rates that make every term count.
fn step(seed: u64) -> Step {
    let mut random = Random::new(seed, "step");
    Step {
        step: 1 + random.below(if seed.is_multiple_of(2) { 3 } else { 10_000 }) as u32,
        learning_rate: random.between(0.01, 0.5),
        beta1: random.between(0.0, 0.99),
        beta2: random.between(0.5, 0.999),
        eps: random.between(-18.0, -3.0).exp(),
        decay: random.between(0.0, 0.5),
        grad_scale: random.between(0.25, 2.0),
    }
}

/// Parameters in halves on a device.
struct Halves {
    /// `(n)` bf16
    rounded: Buffer,
    /// `(n / 2, rounded up)` u32
    rests: Buffer,
}

impl Halves {
    fn of(device: &Device, values: &[f32]) -> Result<Halves> {
        let (rounded, rests) = split_all(values);
        Ok(Halves { rounded: Buffer::from_slice(device, &rounded)?, rests: Buffer::from_slice(device, &rests)? })
    }

    /// What they are joined, `(n)` f32; the rounded ones; and whether what lies beside them stayed untouched.
    fn take(self) -> Result<([Tensor; 2], bool)> {
        let (rounded, n) = (self.rounded.to_vec()?, Rows::Shared(self.rounded.len()));
        let p = Tensor { values: join_all(&rounded, &self.rests.to_vec()?), ..Tensor::shaped("p", Dtype::F32, n, 1) };
        let copy = Tensor { values: self.rounded.to_f32()?, ..Tensor::shaped("copy_to", Dtype::Bf16, n, 1) };
        Ok(([p, copy], self.rounded.fence_holds()? && self.rests.fence_holds()?))
    }
}

impl Operator for AdamW {
    type Variant = Forward;

    /// One block's parameters are a chunk and a tile, so that runs of several show how the grid grows.
    fn sizes(v: &Forward, elements: usize) -> Sizes {
        Sizes { chunk: (v.block * v.vec / 32).max(8) as usize, tile: 32, multiple: 1, state: 1, elements }
    }

    fn continues(_: &Forward) -> bool {
        false
    }

    /// In one of four cases `grad_norm` found that gradients are not finite.
    fn inputs(v: &Forward, packed: &Packed, case: &Case) -> Vec<Tensor> {
        let n = case.tokens() * case.channels;
        let random = |name, dtype, low, high| {
            let shape = Tensor::shaped(name, dtype, Rows::Shared(n), 1);
            Tensor::random(shape, packed, case.seed, |r: &mut Random| r.between(low, high))
        };
        let numbers = |name, values: &[f32]| {
            let shape = Tensor::shaped(name, Dtype::F32, Rows::Shared(values.len()), 1);
            Tensor { values: values.to_vec(), ..shape }
        };
        let mut inputs = vec![
            random("p", Dtype::F32, -1.0, 1.0),
            random("m", Dtype::F32, -0.1, 0.1),
            random("v", Dtype::F32, 0.0, 0.02),
            random("g", v.grad, -0.3, 0.3),
            numbers("scalars", &step(case.seed).scalars().expect("the rates are in their ranges")),
        ];
        if v.clip {
            let finite = !case.seed.is_multiple_of(4);
            inputs.push(numbers("clip_by", if finite { &[0.625, 1.6, 0.0] } else { &[0.0, f32::NAN, 1.0] }));
            if !finite {
                inputs[3].values.iter_mut().step_by(3).for_each(|g| *g = f32::NAN);
            }
        }
        inputs
    }

    fn run(call: &Call<'_, Forward>, inputs: &[Tensor]) -> Result<(Vec<Tensor>, bool)> {
        let (v, device) = (call.variant, call.packed.device());
        let n = inputs[0].values.len();
        let halves = v.split.then(|| Halves::of(device, &inputs[0].values)).transpose()?;
        let updated = ["p", "m", "v"].map(|name| Tensor::shaped(name, Dtype::F32, Rows::Shared(n), 1));
        let copy = v.copy.then(|| Tensor::shaped("copy_to", v.io, Rows::Shared(n), 1));
        let whole = |name: &str| !(v.split && name == "p");
        let outputs = updated.into_iter().chain(copy).filter(|output| whole(output.name)).collect();
        let inputs: Vec<Tensor> = inputs.iter().filter(|input| whole(input.name)).cloned().collect();
        let arguments = Arguments::new(device, call.packed.packed(), &inputs, outputs, |_| 0)?;
        let nothing = DevicePacked::empty(device)?;
        let range = Range {
            p: halves.as_ref().map_or_else(|| arguments.view("p"), |halves| halves.rounded.view()),
            m: arguments.view("m"),
            v: arguments.view("v"),
            g: arguments.view("g"),
            scalars: arguments.view("scalars"),
            clip: arguments.get("clip_by"),
            copy: arguments.get("copy_to"),
            rests: halves.as_ref().map(|halves| halves.rests.view()),
        };
        for _ in 0..call.rounds {
            optimiser::forward(&nothing, v, &range)?;
        }
        device.synchronize()?;
        let (mut outputs, mut untouched) = arguments.take()?;
        if let Some(halves) = halves {
            let ([p, copy], kept) = halves.take()?;
            outputs.insert(0, p);
            outputs.push(copy);
            untouched &= kept;
        }
        Ok((outputs, untouched))
    }

    fn book(v: &Forward, _: &Packed, inputs: &[Tensor]) -> Vec<Vec<Bounded>> {
        let tensor = |name| exact(inputs, name).unwrap_or_default();
        let state = book::State { p: tensor("p"), m: tensor("m"), v: tensor("v") };
        let scalars = tensor("scalars");
        let clip_by = exact(inputs, "clip_by");
        let next = match &clip_by {
            Some(clip_by) if clip_by[2].value != 0.0 => state,
            _ => book::forward(&state, &tensor("g"), &book_step(&scalars, clip_by.as_deref())),
        };
        let copy = (v.copy || v.split).then(|| stored(&next.p, v.io));
        [next.p, next.m, next.v].into_iter().chain(copy).collect()
    }
}

fn book_step(scalars: &[Bounded], clip_by: Option<&[Bounded]>) -> book::Step<Bounded> {
    book::Step {
        learning_rate: scalars[0],
        beta1: scalars[1],
        beta2: scalars[2],
        eps: scalars[3],
        decay: scalars[4],
        correction1: scalars[5],
        correction2: scalars[6],
        grad_scale: clip_by.map_or(scalars[7], |clip_by| scalars[7].mul(&clip_by[0])),
    }
}

/// For each type of the copies: one parameter a thread and f32 gradients; four, and gradients of that type, clipped. The same in halves, which
/// are bf16. One without copies.
fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    let job = |variant| Box::new(Suite::<AdamW>::new(variant)) as Box<dyn Job>;
    let mut jobs = Vec::new();
    for &io in &plan.dtypes {
        for split in [false, true].into_iter().filter(|split| !split || io == Dtype::Bf16) {
            let copy = !split;
            jobs.push(job(Forward { block: 32, vec: 1, grad: Dtype::F32, io, copy, split, clip: false }));
            jobs.push(job(Forward { block: 64, vec: 4, grad: io, io, copy, split, clip: true }));
        }
    }
    let whole = optimiser::default_variant(Dtype::F32, Kept::Whole, true);
    jobs.push(job(Forward { block: 128, vec: 2, io: Dtype::F32, ..whole }));
    jobs
}
