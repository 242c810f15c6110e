//! The native CPU path of the backward pass: f32, one thread a tile of channels of a group of sequences, as the blocks of the kernel.

use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use crate::cpu::{exp2, sigmoid, silu, softplus};
use crate::selective_scan::{Backward, BackwardArgs};

/// The backward pass on host memory; the arguments have been checked.
pub(in crate::selective_scan) fn backward(packed: &Packed, variant: &Backward, args: &BackwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => run::<f32>(packed, variant, args),
        Dtype::F16 => run::<f16>(packed, variant, args),
        Dtype::Bf16 => run::<bf16>(packed, variant, args),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

fn run<T: Element>(packed: &Packed, variant: &Backward, args: &BackwardArgs<'_>) {
    let group_starts = packed.group_starts(args.groups);
    (0..args.groups * args.tiles).into_par_iter().for_each(|piece| {
        let (group, tile) = (piece / args.tiles, piece % args.tiles);
        let width = variant.channels as usize;
        let channels = tile * width..((tile + 1) * width).min(args.d);
        let sequences = group_starts[group] as usize..group_starts[group + 1] as usize;
        Tile::<T>::new(packed, variant, args, tile, channels).run(group, sequences);
    });
}

/// A tile of channels, its arguments as rows of elements, and what it sums.
struct Tile<'a, T> {
    packed: &'a Packed,
    variant: &'a Backward,
    args: &'a BackwardArgs<'a>,
    tile: usize,
    channels: Range<usize>,
    u: Rows<'a, T>,
    delta: Rows<'a, T>,
    g: Rows<'a, T>,
    z: Option<Rows<'a, T>>,
    du: Rows<'a, T>,
    ddelta: Rows<'a, T>,
    dz: Option<Rows<'a, T>>,
    db: Rows<'a, f32>,
    dc: Rows<'a, f32>,
    /// `(channels, N)`, and `(channels)` twice.
    da: Vec<f32>,
    d_skip: Vec<f32>,
    d_bias: Vec<f32>,
}

/// The tokens of a chunk that belong to one sequence, with what they share.
struct Segment {
    tokens: Range<usize>,
    /// `(tokens, N)`
    b: Vec<f32>,
    c: Vec<f32>,
    db: Vec<f32>,
    dc: Vec<f32>,
    /// The first token starts a sequence that continues nothing.
    fresh: bool,
}

impl<'a, T: Element> Tile<'a, T> {
    fn new(
        packed: &'a Packed,
        variant: &'a Backward,
        args: &'a BackwardArgs<'a>,
        tile: usize,
        channels: Range<usize>,
    ) -> Self {
        let (d, n) = (args.d, variant.state as usize);
        let rows = |view| Rows::of(view, d);
        let width = channels.len();
        Tile {
            packed,
            variant,
            args,
            tile,
            u: rows(args.u),
            delta: rows(args.delta),
            g: rows(args.g),
            z: args.z.map(rows),
            du: rows(args.du),
            ddelta: rows(args.ddelta),
            dz: args.dz.map(rows),
            db: Rows::of(args.db_parts, args.tiles * n),
            dc: Rows::of(args.dc_parts, args.tiles * n),
            da: vec![0.0; width * n],
            d_skip: vec![0.0; width],
            d_bias: vec![0.0; width],
            channels,
        }
    }

    fn n(&self) -> usize {
        self.variant.state as usize
    }

    /// Rows `(_, D, N)` of which this tile reads or writes its own channels.
    fn states(&self, view: View<'a>) -> Rows<'a, f32> {
        Rows::of(view, self.args.d * self.n())
    }

    fn own_states(&self) -> Range<usize> {
        self.channels.start * self.n()..self.channels.end * self.n()
    }

    fn run(mut self, group: usize, sequences: Range<usize>) {
        for s in sequences.rev() {
            self.sequence(s);
        }
        let save = |view: Option<View<'a>>, cols: usize, own: Range<usize>, values: &[f32]| {
            if let Some(view) = view {
                // SAFETY: these channels of this group's row are this piece's alone.
                unsafe { Rows::<f32>::of(view, cols).row_mut(group, own) }.copy_from_slice(values);
            }
        };
        save(Some(self.args.da_parts), self.args.d * self.n(), self.own_states(), &self.da);
        save(self.args.dd_skip_parts, self.args.d, self.channels.clone(), &self.d_skip);
        save(self.args.ddelta_bias_parts, self.args.d, self.channels.clone(), &self.d_bias);
    }

    fn sequence(&mut self, s: usize) {
        let (tokens, chunk) = (self.packed.range(s), self.variant.chunk as usize);
        let continued = self.packed.continued()[s] && self.args.initial_state.is_some();
        let own = self.own_states();
        let mut carry = match self.args.d_final_state {
            Some(view) => self.states(view).row(s)[own.clone()].to_vec(),
            None => vec![0.0; own.len()],
        };
        let mut end = tokens.end;
        while end > tokens.start {
            let start = ((end - 1) / chunk * chunk).max(tokens.start);
            let entering = match self.args.initial_state {
                Some(initial) if start == tokens.start && continued => {
                    self.states(initial).row(s)[own.clone()].to_vec()
                }
                _ if start == tokens.start => vec![0.0; own.len()],
                _ => self.states(self.args.checkpoints).row(start / chunk)[own.clone()].to_vec(),
            };
            self.segment(start..end, start == tokens.start && !continued, &entering, &mut carry);
            end = start;
        }
        if let Some(view) = self.args.d_initial_state {
            if !continued {
                carry.fill(0.0);
            }
            // SAFETY: these states of this sequence are this piece's alone.
            unsafe { self.states(view).row_mut(s, own) }.copy_from_slice(&carry);
        }
    }

    fn segment(&mut self, tokens: Range<usize>, fresh: bool, entering: &[f32], carry: &mut [f32]) {
        let n = self.n();
        let widened = |view: View<'a>| -> Vec<f32> {
            let rows = Rows::<T>::of(view, n);
            tokens.clone().flat_map(|t| rows.row(t)).map(|x| x.to_f32()).collect()
        };
        let zeros = vec![0.0; tokens.len() * n];
        let (b, c) = (widened(self.args.b), widened(self.args.c));
        let mut segment = Segment { tokens, b, c, db: zeros.clone(), dc: zeros, fresh };
        for (i, d) in self.channels.clone().enumerate() {
            let own = i * n..(i + 1) * n;
            self.channel(&mut segment, i, d, &entering[own.clone()], &mut carry[own]);
        }
        let columns = self.tile * n..(self.tile + 1) * n;
        for (i, t) in segment.tokens.clone().enumerate() {
            // SAFETY: this tile's columns of this token are this piece's alone.
            unsafe { self.db.row_mut(t, columns.clone()) }.copy_from_slice(&segment.db[i * n..(i + 1) * n]);
            // SAFETY: as above.
            unsafe { self.dc.row_mut(t, columns.clone()) }.copy_from_slice(&segment.dc[i * n..(i + 1) * n]);
        }
    }

    /// Channel `d`, the `i`th of the tile: its states forward, then its gradients in reverse.
    fn channel(&mut self, segment: &mut Segment, i: usize, d: usize, entering: &[f32], carry: &mut [f32]) {
        let n = self.n();
        let bias = self.args.delta_bias.map_or(0.0, |view| Rows::<f32>::of(view, self.args.d).row(0)[d]);
        let skip = self.args.d_skip.map_or(0.0, |view| Rows::<f32>::of(view, self.args.d).row(0)[d]);
        let a = Rows::<f32>::of(self.args.a, n).row(d);
        let a2: Vec<f32> = a.iter().map(|a| a * std::f32::consts::LOG2_E).collect();
        let step = |t: usize| {
            let raw = self.delta.row(t)[d].to_f32() + bias;
            (if self.variant.softplus { softplus(raw) } else { raw }, raw)
        };
        let len = segment.tokens.len();
        let mut h = vec![0.0f32; (len + 1) * n];
        h[..n].copy_from_slice(entering);
        for (j, t) in segment.tokens.clone().enumerate() {
            let (delta, _) = step(t);
            let delta_u = delta * self.u.row(t)[d].to_f32();
            for k in 0..n {
                let x = delta_u * segment.b[j * n + k];
                h[(j + 1) * n + k] = if segment.fresh && j == 0 { x } else { exp2(delta * a2[k]) * h[j * n + k] + x };
            }
        }
        for (j, t) in segment.tokens.clone().enumerate().rev() {
            let (delta, raw) = step(t);
            let (u, g) = (self.u.row(t)[d].to_f32(), self.g.row(t)[d].to_f32());
            let z = self.z.map(|z| z.row(t)[d].to_f32());
            let dy = z.map_or(g, |z| g * silu(z));
            let (mut over_b, mut ddelta, mut y) = (0.0f32, 0.0f32, 0.0f32);
            for k in 0..n {
                let (at, decay) = (j * n + k, exp2(delta * a2[k]));
                let dh = segment.c[at] * dy + carry[k];
                segment.db[at] += dh * (delta * u);
                segment.dc[at] += dy * h[at + n];
                over_b += dh * segment.b[at];
                y += segment.c[at] * h[at + n];
                if !(segment.fresh && j == 0) {
                    let decayed = dh * (decay * h[at]);
                    ddelta += a[k] * decayed;
                    self.da[i * n + k] += delta * decayed;
                }
                carry[k] = decay * dh;
            }
            ddelta += u * over_b;
            if self.variant.softplus {
                ddelta *= sigmoid(raw);
            }
            self.d_skip[i] += dy * u;
            self.d_bias[i] += ddelta;
            let set = |rows: Rows<'_, T>, value: f32| {
                // SAFETY: this channel of this token is this piece's alone.
                let element = unsafe { rows.row_mut(t, d..d + 1) };
                element[0] = T::from_f32(value);
            };
            set(self.du, delta * over_b + skip * dy);
            set(self.ddelta, ddelta);
            if let (Some(dz), Some(z)) = (self.dz, z) {
                let s = sigmoid(z);
                set(dz, g * (y + skip * u) * (s * (1.0 + z * (1.0 - s))));
            }
        }
    }
}
