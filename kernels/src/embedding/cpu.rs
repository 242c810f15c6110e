//! The native CPU path: one thread a token forward, one thread an id backward.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element};
use rayon::prelude::*;

use super::{Backward, BackwardArgs, Forward, ForwardArgs};

/// The forward pass on host memory; the arguments have been checked.
pub(super) fn forward(variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => look_up::<f32>(args),
        Dtype::F16 => look_up::<f16>(args),
        Dtype::Bf16 => look_up::<bf16>(args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

/// The backward pass on host memory; the arguments have been checked.
pub(super) fn backward(variant: &Backward, args: &BackwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => add_up::<f32>(args),
        Dtype::F16 => add_up::<f16>(args),
        Dtype::Bf16 => add_up::<bf16>(args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn look_up<T: Element>(args: &ForwardArgs<'_>) {
    let m = args.width;
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each row is written by one thread.
    let (table, out, ids) =
        unsafe { (Rows::<T>::of(args.table, m), Rows::<T>::of(args.out, m), Rows::<u32>::of(args.ids, 1)) };
    (0..args.out.shape().0).into_par_iter().for_each(|t| {
        // SAFETY: this token's row is this piece's alone.
        unsafe { out.row_mut(t, 0..m) }.copy_from_slice(table.row(ids.row(t)[0] as usize));
    });
}

fn add_up<T: Element>(args: &BackwardArgs<'_>) {
    let m = args.width;
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each row is written by one thread.
    let (dout, dtable) = unsafe { (Rows::<T>::of(args.dout, m), Rows::<f32>::of(args.dtable, m)) };
    // SAFETY: only read.
    let structure = |view| unsafe { Rows::<u32>::of(view, 1) };
    let (ids, starts, order) = (structure(args.distinct_ids), structure(args.starts), structure(args.order));
    (0..args.distinct).into_par_iter().for_each(|i| {
        let mut sums = vec![0.0f32; m];
        for k in starts.row(i)[0]..starts.row(i + 1)[0] {
            let row = dout.row(order.row(k as usize)[0] as usize);
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f32());
        }
        // SAFETY: this id's row is this piece's alone.
        let to = unsafe { dtable.row_mut(ids.row(i)[0] as usize, 0..m) };
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
    });
}
