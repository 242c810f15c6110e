//! The native CPU path: f32, pieces of the range side by side.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element};
use rayon::prelude::*;

use super::halves::{join, split};
use super::{Forward, ForwardArgs};

/// Parameters of a piece.
const PIECE: usize = 1 << 14;

/// One step on host memory; the arguments have been checked.
pub(super) fn forward(variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.grad {
        Dtype::F32 => with_gradients::<f32>(variant, args),
        Dtype::F16 => with_gradients::<f16>(variant, args),
        Dtype::Bf16 => with_gradients::<bf16>(variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn with_gradients<G: Element>(variant: &Forward, args: &ForwardArgs<'_>) {
    if variant.split {
        return run_in_halves::<G>(args);
    }
    match variant.io {
        Dtype::F32 => run::<G, f32>(args),
        Dtype::F16 => run::<G, f16>(args),
        Dtype::Bf16 => run::<G, bf16>(args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn run<G: Element, C: Element>(args: &ForwardArgs<'_>) {
    let n = args.n;
    if n == 0 {
        return;
    }
    let step = Step::new(args);
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each range is written by one thread.
    let state = [args.p.expect("given where it is not in halves"), args.m, args.v]
        .map(|view| unsafe { Rows::<f32>::of(view, n) });
    // SAFETY: as above.
    let (g, copy) = unsafe { (Rows::<G>::of(args.g, n), args.copy_to.map(|view| Rows::<C>::of(view, n))) };
    (0..n.div_ceil(PIECE)).into_par_iter().for_each(|piece| {
        let range = piece * PIECE..((piece + 1) * PIECE).min(n);
        // SAFETY: the tensors do not overlap, by `check_call`, and this range of each is this piece's alone.
        let [p, m, v] = state.map(|rows| unsafe { rows.row_mut(0, range.clone()) });
        if !step.skipped {
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(&g.row(0)[range.clone()]) {
                step.update(p, m, v, g.to_f32());
            }
        }
        if let Some(copy) = copy {
            // SAFETY: as above.
            let copy = unsafe { copy.row_mut(0, range) };
            copy.iter_mut().zip(p).for_each(|(copy, p)| *copy = C::from_f32(*p));
        }
    });
}

/// The same for parameters that are kept in halves.
fn run_in_halves<G: Element>(args: &ForwardArgs<'_>) {
    let (n, step) = (args.n, Step::new(args));
    if n == 0 || step.skipped {
        return;
    }
    let (rounded, rests) = (args.rounded.expect("given in halves"), args.rests.expect("given in halves"));
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each range is written by one thread.
    let (g, moments) = unsafe { (Rows::<G>::of(args.g, n), [args.m, args.v].map(|view| Rows::<f32>::of(view, n))) };
    // SAFETY: as above.
    let (rounded, rests) = unsafe { (Rows::<bf16>::of(rounded, n), Rows::<u32>::of(rests, n.div_ceil(2))) };
    (0..n.div_ceil(PIECE)).into_par_iter().for_each(|piece| {
        let range = piece * PIECE..((piece + 1) * PIECE).min(n);
        // SAFETY: the tensors do not overlap, by `check_call`, and this range of each is this piece's alone: a piece begins with a word.
        let [m, v] = moments.each_ref().map(|rows| unsafe { rows.row_mut(0, range.clone()) });
        // SAFETY: as above.
        let (rounded, rests) =
            unsafe { (rounded.row_mut(0, range.clone()), rests.row_mut(0, range.start / 2..range.end.div_ceil(2))) };
        let halves = rounded.iter_mut().zip(bytemuck::cast_slice_mut::<u32, u16>(rests));
        for (((halves, m), v), g) in halves.zip(m).zip(v).zip(&g.row(0)[range]) {
            let mut p = join(*halves.0, *halves.1);
            step.update(&mut p, m, v, g.to_f32());
            (*halves.0, *halves.1) = split(p);
        }
    });
}

/// The numbers of the step; formulas in the operator's documentation.
struct Step {
    rate: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correction1: f32,
    correction2: f32,
    scale: f32,
    skipped: bool,
}

impl Step {
    fn new(args: &ForwardArgs<'_>) -> Step {
        // SAFETY: only read.
        let numbers = |view, count| unsafe { Rows::<f32>::of(view, count) }.row(0);
        let [rate, beta1, beta2, eps, decay, correction1, correction2, scale] =
            numbers(args.scalars, 8).try_into().expect("eight numbers, by their declaration");
        let clip = args.clip_by.map(|view| numbers(view, 3));
        let scale = clip.map_or(scale, |clip| scale * clip[0]);
        let skipped = clip.is_some_and(|clip| clip[2] != 0.0);
        Step { rate, beta1, beta2, eps, decay, correction1, correction2, scale, skipped }
    }

    #[inline(always)]
    fn update(&self, p: &mut f32, m: &mut f32, v: &mut f32, raw: f32) {
        let g = raw * self.scale;
        *m = self.beta1 * *m + (1.0 - self.beta1) * g;
        *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
        let move_by = *m * self.correction1 / ((*v * self.correction2).sqrt() + self.eps);
        *p = *p - self.rate * self.decay * *p - self.rate * move_by;
    }
}
