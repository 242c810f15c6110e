//! The native CPU path of the forward pass.

use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use super::{CHANNELS, Conv};
use crate::causal_conv1d::Inputs;
use crate::causal_conv1d::forward::{Forward, ForwardArgs};
use crate::cpu::{silu, vectorised};

/// Tokens of a piece.
const TOKENS: usize = 256;

/// The forward pass on host memory; the arguments have been checked.
pub(in crate::causal_conv1d) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => run::<f32>(packed, variant, args),
        Dtype::F16 => run::<f16>(packed, variant, args),
        Dtype::Bf16 => run::<bf16>(packed, variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn run<T: Element>(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    let inputs = Inputs { x: args.x, w: args.w, b: args.b, history: args.history };
    let conv = Conv::<T>::new(packed, variant.width, args.d, &inputs);
    // SAFETY: `check_call` has found that `out` overlaps nothing, and each piece of it is written by one thread.
    let out = unsafe { Rows::<T>::of(args.out, args.d) };
    let tiles = args.d.div_ceil(CHANNELS);
    (0..packed.tokens().div_ceil(TOKENS) * tiles).into_par_iter().for_each(|piece| {
        let (tokens, channels) = (conv.tokens(piece / tiles, TOKENS), conv.channels(piece % tiles));
        vectorised(
            #[inline(always)]
            || run_tile(&conv, variant.silu, tokens, channels, out),
        );
    });
    if let Some(history_out) = args.history_out {
        keep_history(&conv, history_out);
    }
}

/// Some channels of some tokens.
#[inline(always)]
fn run_tile<T: Element>(
    conv: &Conv<'_, T>,
    with_silu: bool,
    tokens: Range<usize>,
    channels: Range<usize>,
    out: Rows<'_, T>,
) {
    let mut c = vec![0.0f32; channels.len()];
    for t in tokens {
        conv.convolve(t, channels.clone(), &mut c);
        if with_silu {
            c.iter_mut().for_each(|c| *c = silu(*c));
        }
        // SAFETY: these channels of this token are this piece's alone.
        let out = unsafe { out.row_mut(t, channels.clone()) };
        out.iter_mut().zip(&c).for_each(|(out, c)| *out = T::from_f32(*c));
    }
}

/// The last K - 1 inputs of each sequence.
fn keep_history<T: Element>(conv: &Conv<'_, T>, history_out: View<'_>) {
    // SAFETY: `check_call` has found that it overlaps nothing, and each row of it is written by one thread.
    let history_out = unsafe { Rows::<T>::of(history_out, conv.d) };
    (0..conv.packed.sequences() * conv.past).into_par_iter().for_each(|row| {
        let (s, place) = (row / conv.past, row % conv.past);
        // SAFETY: this row is this thread's alone.
        let out = unsafe { history_out.row_mut(row, 0..conv.d) };
        match conv.seen(s, conv.packed.range(s).len(), place) {
            Some(kept) => out.copy_from_slice(kept),
            None => out.fill(T::from_f32(0.0)),
        }
    });
}
