//! The native CPU path: f32, parts side by side.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element};
use rayon::prelude::*;

use super::{ClipArgs, Forward, ForwardArgs};

/// Sums of a part that grow side by side, so that the loop vectorises and no chain of additions is long.
const SUMS: usize = 64;

/// The sums of squares of parts on host memory; the arguments have been checked.
pub(super) fn forward(variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => sums::<f32>(variant, args),
        Dtype::F16 => sums::<f16>(variant, args),
        Dtype::Bf16 => sums::<bf16>(variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn sums<T: Element>(variant: &Forward, args: &ForwardArgs<'_>) {
    if args.n == 0 {
        return;
    }
    // SAFETY: `check_call` has found that they do not overlap, and each sum is written by one thread.
    let (parts, g) = unsafe { (Rows::<f32>::of(args.parts, 1), Rows::<T>::of(args.g, args.n).row(0)) };
    g.par_chunks(variant.part as usize).enumerate().for_each(|(k, part)| {
        // SAFETY: this sum is this piece's alone.
        let sum = unsafe { parts.row_mut(k, 0..1) };
        sum[0] = sum_of_squares(part);
    });
}

fn sum_of_squares<T: Element>(part: &[T]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    for chunk in part.chunks(SUMS) {
        for (sum, g) in sums.iter_mut().zip(chunk) {
            let g = g.to_f32();
            *sum += g * g;
        }
    }
    sums.iter().sum()
}

/// The norm and the factor on host memory; the arguments have been checked.
pub(super) fn clip(args: &ClipArgs<'_>) {
    // SAFETY: `check_call` has found that the result overlaps neither of the others.
    let rows = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
    let parts = if args.n == 0 { &[] } else { rows(args.parts, args.n).row(0) };
    let norm = parts.iter().sum::<f32>().sqrt();
    let max_norm = rows(args.max_norm, 1).row(0)[0];
    let result = match norm.is_finite() {
        true => [(max_norm / (norm + 1e-6)).min(1.0), norm, 0.0],
        false => [0.0, norm, 1.0],
    };
    // SAFETY: nobody else writes the result.
    unsafe { rows(args.result, 3).row_mut(0, 0..3) }.copy_from_slice(&result);
}
