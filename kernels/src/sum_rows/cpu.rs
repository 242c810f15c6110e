//! The native CPU path: f32, one thread a piece of columns of a group.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, View};
use rayon::prelude::*;

use super::{Forward, ForwardArgs, Several, Sizes, Sum, Tokens, TokensArgs};

/// Columns that one thread sums together, so that the loop over them vectorises.
const TILE: usize = 256;

/// The sums on host memory; the arguments have been checked.
pub(super) fn forward(variant: &Forward, args: &ForwardArgs<'_>) {
    let sizes = Sizes { groups: args.groups, rows: args.rows, columns: args.columns };
    sum(variant.io, &sizes, variant.add, args.parts, args.out);
}

/// The sums of each token's rows on host memory; the arguments have been checked.
pub(super) fn tokens(variant: &Tokens, args: &TokensArgs<'_>) {
    let sizes = Sizes { groups: args.first.shape().0, rows: args.rows, columns: args.columns };
    sum(variant.io, &sizes, false, args.first_parts, args.first);
    sum(variant.io, &sizes, false, args.second_parts, args.second);
}

/// One of several sums on host memory; the arguments have been checked.
pub(super) fn several(variant: &Several, one: &Sum<'_>) {
    sum(Dtype::F32, &one.sizes(), variant.add, one.parts, one.out);
}

fn sum(io: Dtype, sizes: &Sizes, add: bool, parts: View<'_>, out: View<'_>) {
    match io {
        Dtype::F32 => sum_into::<f32>(sizes, add, parts, out),
        Dtype::F16 => sum_into::<f16>(sizes, add, parts, out),
        Dtype::Bf16 => sum_into::<bf16>(sizes, add, parts, out),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn sum_into<T: Element>(sizes: &Sizes, add: bool, parts: View<'_>, out: View<'_>) {
    let Sizes { groups, rows, columns } = *sizes;
    // SAFETY: `check_call` has found that they do not overlap, and each row or piece of one is written by one thread.
    let (parts, out) = unsafe { (Rows::<f32>::of(parts, columns), Rows::<T>::of(out, columns)) };
    let tiles = columns.div_ceil(TILE);
    (0..groups * tiles).into_par_iter().for_each(|piece| {
        let (group, first) = (piece / tiles, piece % tiles * TILE);
        let tile = first..(first + TILE).min(columns);
        let mut sums = [0.0f32; TILE];
        for r in 0..rows {
            for (sum, part) in sums.iter_mut().zip(&parts.row(group * rows + r)[tile.clone()]) {
                *sum += part;
            }
        }
        // SAFETY: these columns of this group are this piece's alone.
        let out = unsafe { out.row_mut(group, tile) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = T::from_f32(if add { out.to_f32() + sum } else { sum });
        }
    });
}
