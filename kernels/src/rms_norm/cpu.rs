//! The native CPU path: f32, one thread a row forward, one thread a partial sum backward.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed};
use rayon::prelude::*;

use super::{Backward, BackwardArgs, Forward, ForwardArgs};
use crate::cpu::vectorised;

/// Partial sums over a row, so that the loop over columns vectorises.
const SUMS: usize = 16;
/// Rows of a piece of the forward pass.
const TOKENS: usize = 32;

/// The forward pass on host memory; the arguments have been checked.
pub(super) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => norm::<f32>(packed, variant, args),
        Dtype::F16 => norm::<f16>(packed, variant, args),
        Dtype::Bf16 => norm::<bf16>(packed, variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

/// The backward pass on host memory, but for the sum of `parts`; the arguments have been checked.
pub(super) fn backward(packed: &Packed, variant: &Backward, args: &BackwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => Gradient::<f32>::new(packed, variant, args).run(),
        Dtype::F16 => Gradient::<f16>::new(packed, variant, args).run(),
        Dtype::Bf16 => Gradient::<bf16>::new(packed, variant, args).run(),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn norm<T: Element>(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    let m = variant.width as usize;
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each row is written by one thread.
    let (x, y) = unsafe { (args.x.map(|x| Rows::<T>::of(x, m)), Rows::<T>::of(args.y, m)) };
    // SAFETY: as above.
    let floats = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
    let wide = |view| floats(view, m);
    let (residual, residual_out) = (args.residual.map(wide), args.residual_out.map(wide));
    let rstd_out = args.rstd.map(|view| floats(view, 1));
    let weight = wide(args.weight).row(0);
    let epsilon = floats(args.epsilon, 1).row(0)[0];
    (0..packed.tokens().div_ceil(TOKENS)).into_par_iter().for_each(|piece| {
        vectorised(
            #[inline(always)]
            || {
                let mut r = vec![0.0f32; m];
                for t in piece * TOKENS..packed.tokens().min((piece + 1) * TOKENS) {
                    match x {
                        Some(x) => r.iter_mut().zip(x.row(t)).for_each(|(r, x)| *r = x.to_f32()),
                        None => r.fill(0.0),
                    }
                    if let Some(residual) = residual {
                        r.iter_mut().zip(residual.row(t)).for_each(|(r, residual)| *r += residual);
                    }
                    let rstd = 1.0 / (dot(&r, &r) / m as f32 + epsilon).sqrt();
                    // SAFETY: row t of each output is this piece's alone.
                    unsafe {
                        residual_out.iter().for_each(|out| out.row_mut(t, 0..m).copy_from_slice(&r));
                        rstd_out.iter().for_each(|out| out.row_mut(t, 0..1)[0] = rstd);
                        for ((y, r), weight) in y.row_mut(t, 0..m).iter_mut().zip(r.iter()).zip(weight) {
                            *y = T::from_f32(r * rstd * weight);
                        }
                    }
                }
            },
        );
    });
}

/// The arguments of the backward pass as rows of elements.
struct Gradient<'a, T> {
    tokens: usize,
    m: usize,
    dy: Rows<'a, T>,
    r: Rows<'a, f32>,
    rstd: Rows<'a, f32>,
    weight: &'a [f32],
    incoming: Option<Rows<'a, f32>>,
    dresidual: Option<Rows<'a, f32>>,
    dx: Option<Rows<'a, T>>,
    parts: Rows<'a, f32>,
    parts_rows: usize,
}

impl<'a, T: Element> Gradient<'a, T> {
    fn new(packed: &Packed, variant: &Backward, args: &BackwardArgs<'a>) -> Self {
        let m = variant.width as usize;
        // SAFETY: `check_call` has found that what is written overlaps nothing, and each row is written by one thread.
        let activations = |view| unsafe { Rows::<T>::of(view, m) };
        // SAFETY: as above.
        let floats = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
        let wide = |view| floats(view, m);
        Gradient {
            tokens: packed.tokens(),
            m,
            dy: activations(args.dy),
            r: wide(args.r),
            rstd: floats(args.rstd, 1),
            weight: wide(args.weight).row(0),
            incoming: args.incoming.map(wide),
            dresidual: args.dresidual.map(wide),
            dx: args.dx.map(activations),
            parts: wide(args.dweight_parts),
            parts_rows: args.parts_rows,
        }
    }

    fn run(&self) {
        (0..self.parts_rows).into_par_iter().for_each(|part| {
            vectorised(
                #[inline(always)]
                || self.part(part),
            );
        });
    }

    /// Every token whose share of the weight's gradient goes to row `part` of the workspace.
    #[inline(always)]
    fn part(&self, part: usize) {
        // SAFETY: this row of the workspace is this piece's alone.
        let dweight = unsafe { self.parts.row_mut(part, 0..self.m) };
        dweight.fill(0.0);
        let (mut dy, mut g) = (vec![0.0f32; self.m], vec![0.0f32; self.m]);
        for t in (part..self.tokens).step_by(self.parts_rows) {
            for ((dy, g), (from, weight)) in dy.iter_mut().zip(&mut g).zip(self.dy.row(t).iter().zip(self.weight)) {
                *dy = from.to_f32();
                *g = *dy * weight;
            }
            self.token(t, &mut g);
            let rstd = self.rstd.row(t)[0];
            for ((dweight, dy), r) in dweight.iter_mut().zip(&dy).zip(self.r.row(t)) {
                *dweight += dy * (r * rstd);
            }
        }
    }

    /// The gradient of r of one token, from `g = weight * dy`, which it overwrites.
    #[inline(always)]
    fn token(&self, t: usize, g: &mut [f32]) {
        let (r, rstd) = (self.r.row(t), self.rstd.row(t)[0]);
        let pull = dot(g, r) / self.m as f32 * rstd * rstd;
        g.iter_mut().zip(r).for_each(|(g, r)| *g = rstd * (*g - r * pull));
        if let Some(incoming) = self.incoming {
            g.iter_mut().zip(incoming.row(t)).for_each(|(g, incoming)| *g += incoming);
        }
        // SAFETY: row t of each output is this piece's alone.
        unsafe {
            self.dresidual.iter().for_each(|out| out.row_mut(t, 0..self.m).copy_from_slice(g));
            if let Some(dx) = self.dx {
                dx.row_mut(t, 0..self.m).iter_mut().zip(g.iter()).for_each(|(dx, g)| *dx = T::from_f32(*g));
            }
        }
    }
}

/// The sum of products, by [`SUMS`] chains.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    for (a, b) in a.chunks(SUMS).zip(b.chunks(SUMS)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
