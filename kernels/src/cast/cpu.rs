//! The native CPU path: a row at a time, rows side by side.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed};
use rayon::prelude::*;

use super::{Forward, ForwardArgs};

/// The copy on host memory; the arguments have been checked.
pub(super) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.from {
        Dtype::F32 => copy_from::<f32>(packed, variant, args),
        Dtype::F16 => copy_from::<f16>(packed, variant, args),
        Dtype::Bf16 => copy_from::<bf16>(packed, variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn copy_from<F: Element>(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.to {
        Dtype::F32 => copy::<F, f32>(packed, args),
        Dtype::F16 => copy::<F, f16>(packed, args),
        Dtype::Bf16 => copy::<F, bf16>(packed, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn copy<F: Element, G: Element>(packed: &Packed, args: &ForwardArgs<'_>) {
    let columns = args.columns;
    // SAFETY: `check_call` has found that they do not overlap, and each row is written by one thread.
    let (x, out) = unsafe { (Rows::<F>::of(args.x, columns), Rows::<G>::of(args.out, columns)) };
    (0..packed.tokens()).into_par_iter().for_each(|t| {
        // SAFETY: this row is this piece's alone.
        let row = unsafe { out.row_mut(t, 0..columns) };
        row.iter_mut().zip(x.row(t)).for_each(|(out, x)| *out = G::from_f32(x.to_f32()));
    });
}
