//! The native CPU path of the backward pass: f32, one thread a piece of channels of a tile of tokens, as the blocks of the kernel.

use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use super::{CHANNELS, Conv};
use crate::causal_conv1d::Inputs;
use crate::causal_conv1d::backward::{Backward, BackwardArgs};
use crate::cpu::{sigmoid, vectorised};

/// The backward pass on host memory; the arguments have been checked.
pub(in crate::causal_conv1d) fn backward(packed: &Packed, variant: &Backward, args: &BackwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => run::<f32>(packed, variant, args),
        Dtype::F16 => run::<f16>(packed, variant, args),
        Dtype::Bf16 => run::<bf16>(packed, variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn run<T: Element>(packed: &Packed, variant: &Backward, args: &BackwardArgs<'_>) {
    let inputs = Inputs { x: args.x, w: args.w, b: args.b, history: args.history };
    // SAFETY: `check_call` has found that what is written overlaps nothing, and each piece of it is written by one thread.
    let rows = |view| unsafe { Rows::<T>::of(view, args.d) };
    // SAFETY: as above.
    let floats = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
    let pass = Pass::<T> {
        conv: Conv::new(packed, variant.width, args.d, &inputs),
        silu: variant.silu,
        g: rows(args.g),
        d_history_out: args.d_history_out.map(rows),
        dx: rows(args.dx),
        dw: floats(args.dw_parts, variant.width as usize),
        db: args.db_parts.map(|db| floats(db, args.d)),
    };
    let tile = (variant.ways * variant.run) as usize;
    let tiles = args.d.div_ceil(CHANNELS);
    (0..args.parts * tiles).into_par_iter().for_each(|piece| {
        let (tokens, channels) = (pass.conv.tokens(piece / tiles, tile), pass.conv.channels(piece % tiles));
        vectorised(
            #[inline(always)]
            || pass.run_tile(piece / tiles, tokens, channels),
        );
    });
    if let Some(d_history) = args.d_history {
        pass.history_gradients(d_history);
    }
}

/// The arguments as rows of elements.
struct Pass<'a, T> {
    conv: Conv<'a, T>,
    silu: bool,
    g: Rows<'a, T>,
    /// `(S * (K - 1), D)`
    d_history_out: Option<Rows<'a, T>>,
    dx: Rows<'a, T>,
    /// `(R * D, K)`
    dw: Rows<'a, f32>,
    /// `(R, D)`
    db: Option<Rows<'a, f32>>,
}

impl<T: Element> Pass<'_, T> {
    /// `p = g * silu'(c)` of some channels of token `t`.
    #[inline(always)]
    fn slopes(&self, t: usize, channels: Range<usize>, p: &mut [f32]) {
        if self.silu {
            self.conv.convolve(t, channels.clone(), p);
            for c in p.iter_mut() {
                let s = sigmoid(*c);
                *c = s * (1.0 + *c * (1.0 - s));
            }
        } else {
            p.fill(1.0);
        }
        for (p, g) in p.iter_mut().zip(&self.g.row(t)[channels]) {
            *p *= g.to_f32();
        }
    }

    /// Channels `channels` of tile `part` of tokens.
    #[inline(always)]
    fn run_tile(&self, part: usize, tokens: Range<usize>, channels: Range<usize>) {
        let Conv { packed, past, d, .. } = self.conv;
        let (last, width) = ((tokens.end + past).min(packed.tokens()), channels.len());
        // Slopes of this tile's tokens and of those after it that see them, a row each.
        let mut p = vec![0.0f32; (last - tokens.start) * width];
        for (t, p) in (tokens.start..last).zip(p.chunks_exact_mut(width)) {
            self.slopes(t, channels.clone(), p);
        }
        let mut db = vec![0.0f32; width];
        // `(K, channels)`
        let mut dw = vec![0.0f32; (past + 1) * width];
        for (t, p) in tokens.clone().zip(p.chunks_exact(width)) {
            let (s, place) = self.conv.place(t);
            for (k, dw) in dw.chunks_exact_mut(width).enumerate() {
                let Some(seen) = self.conv.seen(s, place, k) else { continue };
                for ((dw, p), x) in dw.iter_mut().zip(p).zip(&seen[channels.clone()]) {
                    *dw += p * x.to_f32();
                }
            }
            for (db, p) in db.iter_mut().zip(p) {
                *db += p;
            }
        }
        for t in tokens.clone() {
            let end = packed.range(self.conv.sequence[t] as usize).end;
            let later = &p[(t - tokens.start) * width..(end.min(t + past + 1) - tokens.start) * width];
            self.input_gradient(t, end, later, channels.clone());
        }
        for (i, channel) in channels.clone().enumerate() {
            // SAFETY: these channels of this tile are this piece's alone.
            let to = unsafe { self.dw.row_mut(part * d + channel, 0..past + 1) };
            to.iter_mut().zip(dw.chunks_exact(width)).for_each(|(to, dw)| *to = dw[i]);
        }
        if let Some(parts) = self.db {
            // SAFETY: as above.
            unsafe { parts.row_mut(part, channels) }.copy_from_slice(&db);
        }
    }

    /// `dx[t]`, from the slopes `later (.., channels)` of the tokens of its sequence that see it.
    #[inline(always)]
    fn input_gradient(&self, t: usize, end: usize, later: &[f32], channels: Range<usize>) {
        let past = self.conv.past;
        let mut sums = [0.0f32; CHANNELS];
        let sums = &mut sums[..channels.len()];
        for (j, p) in later.chunks_exact(channels.len()).enumerate() {
            for ((sum, p), w) in sums.iter_mut().zip(p).zip(self.conv.tap(past - j, &channels)) {
                *sum += w * p;
            }
        }
        if let Some(kept) = self.d_history_out.filter(|_| t + past >= end) {
            let row = self.conv.sequence[t] as usize * past + t + past - end;
            for (sum, kept) in sums.iter_mut().zip(&kept.row(row)[channels.clone()]) {
                *sum += kept.to_f32();
            }
        }
        // SAFETY: these channels of this token are this piece's alone.
        let dx = unsafe { self.dx.row_mut(t, channels) };
        dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = T::from_f32(*sum));
    }

    /// The gradients of the histories that continued sequences started from, zeros for the others.
    fn history_gradients(&self, d_history: View<'_>) {
        let Conv { packed, past, d, .. } = self.conv;
        // SAFETY: `check_call` has found that it overlaps nothing, and each row of it is written by one thread.
        let d_history = unsafe { Rows::<T>::of(d_history, d) };
        (0..packed.sequences()).into_par_iter().for_each(|s| {
            let tokens = packed.range(s);
            let (mut dh, mut p) = (vec![0.0f32; past * d], vec![0.0f32; d]);
            if packed.continued()[s] {
                for (n, t) in tokens.clone().take(past).enumerate() {
                    self.slopes(t, 0..d, &mut p);
                    for row in n..past {
                        let w = self.conv.tap(row - n, &(0..d));
                        for ((dh, p), w) in dh[row * d..].iter_mut().zip(&p).zip(w) {
                            *dh += w * p;
                        }
                    }
                }
                for row in tokens.len()..past {
                    let Some(kept) = self.d_history_out else { break };
                    for (dh, kept) in dh[row * d..].iter_mut().zip(kept.row(s * past + row - tokens.len())) {
                        *dh += kept.to_f32();
                    }
                }
            }
            for (row, dh) in dh.chunks_exact(d).enumerate() {
                // SAFETY: the rows of this sequence are this thread's alone.
                let out = unsafe { d_history.row_mut(s * past + row, 0..d) };
                for (out, dh) in out.iter_mut().zip(dh) {
                    *out = T::from_f32(*dh);
                }
            }
        });
    }
}
