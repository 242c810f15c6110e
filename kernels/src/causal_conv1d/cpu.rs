//! The native CPU path: f32, one thread a piece of channels of a tile of tokens. What the passes share is [`Conv`].

use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use super::{Forward, ForwardArgs, Inputs};
use crate::cpu::silu;

/// Channels and tokens of a piece.
const CHANNELS: usize = 64;
const TOKENS: usize = 256;

/// The forward pass on host memory; the arguments have been checked.
pub(super) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
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
    let out = Rows::<T>::of(args.out, args.d);
    let tiles = args.d.div_ceil(CHANNELS);
    (0..packed.tokens().div_ceil(TOKENS) * tiles).into_par_iter().for_each(|piece| {
        let (tokens, channels) = (conv.tokens(piece / tiles, TOKENS), conv.channels(piece % tiles));
        let mut c = vec![0.0f32; channels.len()];
        for t in tokens {
            conv.convolve(t, channels.clone(), &mut c);
            // SAFETY: these channels of this token are this piece's alone.
            let out = unsafe { out.row_mut(t, channels.clone()) };
            for (out, &c) in out.iter_mut().zip(&c) {
                *out = T::from_f32(if variant.silu { silu(c) } else { c });
            }
        }
    });
    if let Some(history_out) = args.history_out {
        conv.keep_history(history_out);
    }
}

/// The arguments of either pass as rows of elements.
pub(super) struct Conv<'a, T> {
    pub(super) packed: &'a Packed,
    /// The sequence of each token, `[T]`.
    pub(super) sequence: Vec<u32>,
    /// Inputs before its own that an output sees, K - 1.
    pub(super) past: usize,
    pub(super) d: usize,
    pub(super) x: Rows<'a, T>,
    /// `(D, K)`
    pub(super) w: Rows<'a, f32>,
    b: Option<&'a [f32]>,
    /// `(S * (K - 1), D)`
    history: Option<Rows<'a, T>>,
}

impl<'a, T: Element> Conv<'a, T> {
    pub(super) fn new(packed: &'a Packed, width: u32, d: usize, inputs: &Inputs<'a>) -> Self {
        Conv {
            packed,
            sequence: packed.seq_idx(),
            past: width as usize - 1,
            d,
            x: Rows::of(inputs.x, d),
            w: Rows::of(inputs.w, width as usize),
            b: inputs.b.map(|b| Rows::of(b, d).row(0)),
            history: inputs.history.map(|history| Rows::of(history, d)),
        }
    }

    /// The tokens of tile `tile`.
    pub(super) fn tokens(&self, tile: usize, tokens: usize) -> Range<usize> {
        tile * tokens..((tile + 1) * tokens).min(self.packed.tokens())
    }

    /// The channels of tile `tile`.
    pub(super) fn channels(&self, tile: usize) -> Range<usize> {
        tile * CHANNELS..((tile + 1) * CHANNELS).min(self.d)
    }

    /// What tap `k` of the token at `place` of sequence `s` sees, if anything; places behind the sequence's end see what follows it.
    pub(super) fn seen(&self, s: usize, place: usize, k: usize) -> Option<&'a [T]> {
        match (place + k).checked_sub(self.past) {
            Some(earlier) => Some(self.x.row(self.packed.range(s).start + earlier)),
            None => self.history_row(s, place + k),
        }
    }

    /// Row `row` of the history of sequence `s`, if it is continued.
    fn history_row(&self, s: usize, row: usize) -> Option<&'a [T]> {
        let history = self.history.filter(|_| self.packed.continued()[s])?;
        Some(history.row(s * self.past + row))
    }

    /// The sequence of token `t` and the token's place there.
    pub(super) fn place(&self, t: usize) -> (usize, usize) {
        let s = self.sequence[t] as usize;
        (s, t - self.packed.range(s).start)
    }

    /// `c = b + sum_k w[k] * x[t - (K-1) + k]` of some channels.
    pub(super) fn convolve(&self, t: usize, channels: Range<usize>, c: &mut [f32]) {
        match self.b {
            Some(b) => c.copy_from_slice(&b[channels.clone()]),
            None => c.fill(0.0),
        }
        let (s, place) = self.place(t);
        for k in 0..=self.past {
            let Some(seen) = self.seen(s, place, k) else { continue };
            for ((c, x), d) in c.iter_mut().zip(&seen[channels.clone()]).zip(channels.clone()) {
                *c += self.w.row(d)[k] * x.to_f32();
            }
        }
    }

    /// The last K - 1 inputs of each sequence.
    fn keep_history(&self, history_out: View<'_>) {
        let history_out = Rows::<T>::of(history_out, self.d);
        (0..self.packed.sequences() * self.past).into_par_iter().for_each(|row| {
            let (s, place) = (row / self.past, row % self.past);
            // SAFETY: this row is this thread's alone.
            let out = unsafe { history_out.row_mut(row, 0..self.d) };
            match self.seen(s, self.packed.range(s).len(), place) {
                Some(kept) => out.copy_from_slice(kept),
                None => out.fill(T::from_f32(0.0)),
            }
        });
    }
}
