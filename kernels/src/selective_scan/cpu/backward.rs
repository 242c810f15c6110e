//! The native CPU path of the backward pass: f32, one thread a tile of channels of a group of sequences, as the blocks of the kernel.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use crate::cpu::{exp2, sigmoid, silu, softplus};
use crate::selective_scan::backward::{Backward, BackwardArgs};

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
    let (scan, width, d) = (Scan::<T>::new(packed, variant, args), variant.channels as usize, args.d);
    (0..args.groups * scan.tiles).into_par_iter().for_each(|piece| {
        let (group, tile) = (piece / scan.tiles, piece % scan.tiles);
        let sequences = group_starts[group] as usize..group_starts[group + 1] as usize;
        Tile::new(&scan, tile, tile * width..((tile + 1) * width).min(d)).run(group, sequences);
    });
}

/// The arguments as rows of elements.
struct Scan<'a, T> {
    packed: &'a Packed,
    variant: &'a Backward,
    /// State size, N.
    n: usize,
    tiles: usize,
    g: Rows<'a, T>,
    u: Rows<'a, T>,
    delta: Rows<'a, T>,
    z: Option<Rows<'a, T>>,
    a: Rows<'a, f32>,
    b: Rows<'a, T>,
    c: Rows<'a, T>,
    d_skip: Option<Rows<'a, f32>>,
    delta_bias: Option<Rows<'a, f32>>,
    initial_state: Option<Rows<'a, f32>>,
    d_final_state: Option<Rows<'a, f32>>,
    checkpoints: Rows<'a, f32>,
    du: Rows<'a, T>,
    ddelta: Rows<'a, T>,
    dz: Option<Rows<'a, T>>,
    d_initial_state: Option<Rows<'a, f32>>,
    db_parts: Rows<'a, f32>,
    dc_parts: Rows<'a, f32>,
    da_parts: Rows<'a, f32>,
    dd_skip_parts: Option<Rows<'a, f32>>,
    ddelta_bias_parts: Option<Rows<'a, f32>>,
}

impl<'a, T: Element> Scan<'a, T> {
    fn new(packed: &'a Packed, variant: &'a Backward, args: &BackwardArgs<'a>) -> Self {
        let (d, n) = (args.d, variant.state as usize);
        // SAFETY: `check_call` has found that what is written overlaps nothing, and `row_mut` is called for pieces of which each belongs
        // to one thread.
        let activations = |view: View<'a>| unsafe { Rows::<T>::of(view, d) };
        // SAFETY: as above.
        let floats = |view: View<'a>, cols| unsafe { Rows::<f32>::of(view, cols) };
        // SAFETY: as above.
        let projections = |view: View<'a>| unsafe { Rows::<T>::of(view, n) };
        let states = |view| floats(view, d * n);
        let vector = |view| floats(view, d);
        Scan {
            packed,
            variant,
            n,
            tiles: args.tiles,
            g: activations(args.g),
            u: activations(args.u),
            delta: activations(args.delta),
            z: args.z.map(activations),
            a: floats(args.a, n),
            b: projections(args.b),
            c: projections(args.c),
            d_skip: args.d_skip.map(vector),
            delta_bias: args.delta_bias.map(vector),
            initial_state: args.initial_state.map(states),
            d_final_state: args.d_final_state.map(states),
            checkpoints: states(args.checkpoints),
            du: activations(args.du),
            ddelta: activations(args.ddelta),
            dz: args.dz.map(activations),
            d_initial_state: args.d_initial_state.map(states),
            db_parts: floats(args.db_parts, args.tiles * n),
            dc_parts: floats(args.dc_parts, args.tiles * n),
            da_parts: states(args.da_parts),
            dd_skip_parts: args.dd_skip_parts.map(vector),
            ddelta_bias_parts: args.ddelta_bias_parts.map(vector),
        }
    }

    /// Step size and what the softplus was taken of.
    fn step(&self, t: usize, d: usize) -> (f32, f32) {
        let raw = self.delta.row(t)[d].to_f32() + self.delta_bias.map_or(0.0, |bias| bias.row(0)[d]);
        (if self.variant.softplus { softplus(raw) } else { raw }, raw)
    }
}

/// A tile of channels, and what it sums.
struct Tile<'a, T> {
    scan: &'a Scan<'a, T>,
    tile: usize,
    channels: Range<usize>,
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
    fn new(scan: &'a Scan<'a, T>, tile: usize, channels: Range<usize>) -> Self {
        let width = channels.len();
        Tile { scan, tile, channels, da: vec![0.0; width * scan.n], d_skip: vec![0.0; width], d_bias: vec![0.0; width] }
    }

    /// The columns of this tile in rows `(_, D, N)`.
    fn own_states(&self) -> Range<usize> {
        self.channels.start * self.scan.n..self.channels.end * self.scan.n
    }

    fn run(mut self, group: usize, sequences: Range<usize>) {
        for s in sequences.rev() {
            self.sequence(s);
        }
        let save = |rows: Option<Rows<'_, f32>>, own: Range<usize>, values: &[f32]| {
            if let Some(rows) = rows {
                // SAFETY: these channels of this group's row are this piece's alone.
                unsafe { rows.row_mut(group, own) }.copy_from_slice(values);
            }
        };
        save(Some(self.scan.da_parts), self.own_states(), &self.da);
        save(self.scan.dd_skip_parts, self.channels.clone(), &self.d_skip);
        save(self.scan.ddelta_bias_parts, self.channels.clone(), &self.d_bias);
    }

    fn sequence(&mut self, s: usize) {
        let scan = self.scan;
        let (tokens, chunk) = (scan.packed.range(s), scan.variant.chunk as usize);
        let initial = scan.initial_state.filter(|_| scan.packed.continued()[s]);
        let own = self.own_states();
        let mut carry = scan.d_final_state.map_or(vec![0.0; own.len()], |rows| rows.row(s)[own.clone()].to_vec());
        let mut end = tokens.end;
        while end > tokens.start {
            let start = ((end - 1) / chunk * chunk).max(tokens.start);
            let entering = match initial {
                _ if start > tokens.start => scan.checkpoints.row(start / chunk)[own.clone()].to_vec(),
                Some(rows) => rows.row(s)[own.clone()].to_vec(),
                None => vec![0.0; own.len()],
            };
            self.segment(start..end, start == tokens.start && initial.is_none(), &entering, &mut carry);
            end = start;
        }
        if let Some(rows) = scan.d_initial_state {
            if initial.is_none() {
                carry.fill(0.0);
            }
            // SAFETY: these states of this sequence are this piece's alone.
            unsafe { rows.row_mut(s, own) }.copy_from_slice(&carry);
        }
    }

    fn segment(&mut self, tokens: Range<usize>, fresh: bool, entering: &[f32], carry: &mut [f32]) {
        let (scan, n) = (self.scan, self.scan.n);
        let widened =
            |rows: Rows<'_, T>| -> Vec<f32> { tokens.clone().flat_map(|t| rows.row(t)).map(|x| x.to_f32()).collect() };
        let zeros = vec![0.0; tokens.len() * n];
        let (b, c) = (widened(scan.b), widened(scan.c));
        let mut segment = Segment { tokens, b, c, db: zeros.clone(), dc: zeros, fresh };
        for (i, d) in self.channels.clone().enumerate() {
            let own = i * n..(i + 1) * n;
            let h = segment.states(scan, d, &entering[own.clone()]);
            self.channel(&mut segment, i, &h, &mut carry[own]);
        }
        let columns = self.tile * n..(self.tile + 1) * n;
        for (i, t) in segment.tokens.clone().enumerate() {
            for (rows, values) in [(scan.db_parts, &segment.db), (scan.dc_parts, &segment.dc)] {
                // SAFETY: this tile's columns of this token are this piece's alone.
                unsafe { rows.row_mut(t, columns.clone()) }.copy_from_slice(&values[i * n..(i + 1) * n]);
            }
        }
    }

    /// The gradients of the `i`th channel of the tile, in reverse, from its states `h (tokens + 1, N)`.
    fn channel(&mut self, segment: &mut Segment, i: usize, h: &[f32], carry: &mut [f32]) {
        let (scan, n, d) = (self.scan, self.scan.n, self.channels.start + i);
        let skip = scan.d_skip.map_or(0.0, |skip| skip.row(0)[d]);
        let a = scan.a.row(d);
        for (j, t) in segment.tokens.clone().enumerate().rev() {
            let (delta, raw) = scan.step(t, d);
            let (u, g) = (scan.u.row(t)[d].to_f32(), scan.g.row(t)[d].to_f32());
            let z = scan.z.map(|z| z.row(t)[d].to_f32());
            let dy = z.map_or(g, |z| g * silu(z));
            let (mut over_b, mut ddelta, mut y) = (0.0f32, 0.0f32, 0.0f32);
            for k in 0..n {
                let (at, decay) = (j * n + k, exp2(delta * (a[k] * LOG2_E)));
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
            if scan.variant.softplus {
                ddelta *= sigmoid(raw);
            }
            self.d_skip[i] += dy * u;
            self.d_bias[i] += ddelta;
            let set = |rows: Rows<'_, T>, value: f32| {
                // SAFETY: this channel of this token is this piece's alone.
                let element = unsafe { rows.row_mut(t, d..d + 1) };
                element[0] = T::from_f32(value);
            };
            set(scan.du, delta * over_b + skip * dy);
            set(scan.ddelta, ddelta);
            if let (Some(dz), Some(z)) = (scan.dz, z) {
                let s = sigmoid(z);
                set(dz, g * (y + skip * u) * (s * (1.0 + z * (1.0 - s))));
            }
        }
    }
}

impl Segment {
    /// The states of channel `d` before and after each token, `(tokens + 1, N)`.
    fn states<T: Element>(&self, scan: &Scan<'_, T>, d: usize, entering: &[f32]) -> Vec<f32> {
        let (n, a) = (scan.n, scan.a.row(d));
        let mut h = entering.to_vec();
        for (j, t) in self.tokens.clone().enumerate() {
            let (delta, _) = scan.step(t, d);
            let delta_u = delta * scan.u.row(t)[d].to_f32();
            for k in 0..n {
                let x = delta_u * self.b[j * n + k];
                let before = h[j * n + k];
                h.push(if self.fresh && j == 0 { x } else { exp2(delta * (a[k] * LOG2_E)) * before + x });
            }
        }
        h
    }
}
