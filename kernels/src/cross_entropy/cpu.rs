//! The native CPU path: f32, one thread a token.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed};
use rayon::prelude::*;

use super::{Forward, ForwardArgs, NO_TARGET};
use crate::cpu::{exp, vectorised};

/// Sums that grow side by side, so that the loops vectorise.
const SUMS: usize = 16;

/// Losses and gradients on host memory; the arguments have been checked.
pub(super) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => run::<f32>(packed, args),
        Dtype::F16 => run::<f16>(packed, args),
        Dtype::Bf16 => run::<bf16>(packed, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn run<T: Element>(packed: &Packed, args: &ForwardArgs<'_>) {
    let v = args.v;
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each token's row and loss are written by one thread.
    let (logits, targets) = unsafe { (Rows::<T>::of(args.logits, v), Rows::<u32>::of(args.targets, 1)) };
    // SAFETY: as above.
    let (loss, scale) = unsafe { (Rows::<f32>::of(args.loss, 1), Rows::<f32>::of(args.scale, 1).row(0)[0]) };
    (0..packed.tokens()).into_par_iter().for_each(|t| {
        // SAFETY: this token's row and loss are this piece's alone.
        let (row, loss) = unsafe { (logits.row_mut(t, 0..v), loss.row_mut(t, 0..1)) };
        loss[0] = vectorised(
            #[inline(always)]
            || token(row, targets.row(t)[0], scale),
        );
    });
}

/// Replaces the logits of one token by their gradients and returns its loss.
#[inline(always)]
fn token<T: Element>(row: &mut [T], target: u32, scale: f32) -> f32 {
    if target == NO_TARGET {
        row.fill(T::from_f32(0.0));
        return 0.0;
    }
    // As in the kernel, of a target outside the vocabulary NaN.
    let aim = row.get(target as usize).map_or(f32::NAN, |x| x.to_f32());
    let mut largest = [f32::MIN; SUMS];
    for chunk in row.chunks(SUMS) {
        for (max, x) in largest.iter_mut().zip(chunk) {
            *max = max.max(x.to_f32());
        }
    }
    let max = largest.into_iter().fold(f32::MIN, f32::max);
    let mut sums = [0.0f32; SUMS];
    for chunk in row.chunks(SUMS) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += exp(x.to_f32() - max);
        }
    }
    let sum: f32 = sums.iter().sum();
    for (column, x) in row.iter_mut().enumerate() {
        let p = exp(x.to_f32() - max) / sum;
        let hit = if column == target as usize { 1.0 } else { 0.0 };
        *x = T::from_f32((p - hit) * scale);
    }
    sum.ln() + (max - aim)
}
