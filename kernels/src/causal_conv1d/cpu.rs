//! The native CPU path: f32, one thread a piece of channels of a tile of tokens, for machines without a GPU. What the passes share
//! is [`Conv`].

use std::ops::Range;

use packscan_runtime::host::Rows;
use packscan_runtime::{Element, Packed};

use super::Inputs;

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;

/// Channels of a piece.
const CHANNELS: usize = 64;

/// The arguments of either pass as rows of elements.
struct Conv<'a, T> {
    packed: &'a Packed,
    /// The sequence of each token, `[T]`.
    sequence: Vec<u32>,
    /// Inputs before its own that an output sees, K - 1.
    past: usize,
    d: usize,
    x: Rows<'a, T>,
    /// `(K, D)`: the weights, so that channels are neighbours.
    taps: Vec<f32>,
    b: Option<Rows<'a, f32>>,
    /// `(S * (K - 1), D)`
    history: Option<Rows<'a, T>>,
}

impl<'a, T: Element> Conv<'a, T> {
    fn new(packed: &'a Packed, width: u32, d: usize, inputs: &Inputs<'a>) -> Self {
        // SAFETY: `check_call` has found that what is written overlaps none of these.
        let activations = |view| unsafe { Rows::<T>::of(view, d) };
        // SAFETY: as above.
        let floats = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
        let (w, k) = (floats(inputs.w, width as usize), width as usize);
        let mut taps = vec![0.0; k * d];
        for (channel, k) in (0..d).flat_map(|channel| (0..k).map(move |k| (channel, k))) {
            taps[k * d + channel] = w.row(channel)[k];
        }
        Conv {
            packed,
            taps,
            sequence: packed.seq_idx(),
            past: width as usize - 1,
            d,
            x: activations(inputs.x),
            b: inputs.b.map(|b| floats(b, d)),
            history: inputs.history.map(activations),
        }
    }

    /// The tokens of tile `tile`.
    fn tokens(&self, tile: usize, tokens: usize) -> Range<usize> {
        tile * tokens..((tile + 1) * tokens).min(self.packed.tokens())
    }

    /// The channels of tile `tile`.
    fn channels(&self, tile: usize) -> Range<usize> {
        tile * CHANNELS..((tile + 1) * CHANNELS).min(self.d)
    }

    /// Weight `k` of some channels.
    #[inline(always)]
    fn tap(&self, k: usize, channels: &Range<usize>) -> &[f32] {
        &self.taps[k * self.d..][channels.clone()]
    }

    /// What tap `k` of the token at `place` of sequence `s` sees, if anything; places behind the sequence's end see what follows it.
    fn seen(&self, s: usize, place: usize, k: usize) -> Option<&'a [T]> {
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
    fn place(&self, t: usize) -> (usize, usize) {
        let s = self.sequence[t] as usize;
        (s, t - self.packed.range(s).start)
    }

    /// `c = b + sum_k w[k] * x[t - (K-1) + k]` of some channels.
    #[inline(always)]
    fn convolve(&self, t: usize, channels: Range<usize>, c: &mut [f32]) {
        match self.b {
            Some(b) => c.copy_from_slice(&b.row(0)[channels.clone()]),
            None => c.fill(0.0),
        }
        let (s, place) = self.place(t);
        for k in 0..=self.past {
            let Some(seen) = self.seen(s, place, k) else { continue };
            for ((c, x), w) in c.iter_mut().zip(&seen[channels.clone()]).zip(self.tap(k, &channels)) {
                *c += w * x.to_f32();
            }
        }
    }
}
