//! The native CPU path of the backward pass: f32, one thread a tile of channels of a group of sequences, as the blocks of the kernel.

use std::f32::consts::LOG2_E;
use std::iter::zip;
use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed, View};
use rayon::prelude::*;

use super::{LANES, Lanes, ZEROS, load, load_states, map, store, store_states};
use crate::cpu::{exp2, sigmoid, softplus, vectorised};
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
    let groups = packed.groups(args.groups);
    let (scan, width, d) = (Scan::<T>::new(packed, variant, args), variant.channels as usize, args.d);
    (0..args.groups * scan.tiles).into_par_iter().for_each(|piece| {
        let (group, tile) = (piece / scan.tiles, piece % scan.tiles);
        let channels = tile * width..((tile + 1) * width).min(d);
        vectorised(
            #[inline(always)]
            || Tile::new(&scan, tile, channels).run(group, groups.runs_of(group)),
        );
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
}

/// Some neighbouring channels of a tile: what they share, what they sum, and the states of a segment.
struct Block {
    channels: Range<usize>,
    /// `(N)`
    a: Vec<Lanes>,
    bias: Lanes,
    skip: Lanes,
    /// `(N)`: what the states after the last token so far, or later ones, want of the state before it.
    carry: Vec<Lanes>,
    /// `(N)`, and of channels twice.
    da: Vec<Lanes>,
    d_skip: Lanes,
    d_bias: Lanes,
    /// `(L + 1, N)`: before each token and after the last.
    h: Vec<Lanes>,
    /// `(L, N)`
    decay: Vec<Lanes>,
    /// `(L)`
    delta: Vec<Lanes>,
}

/// A tile of channels.
struct Tile<'a, T> {
    scan: &'a Scan<'a, T>,
    tile: usize,
    blocks: Vec<Block>,
}

/// The tokens of a chunk that belong to one sequence.
struct Segment {
    tokens: Range<usize>,
    /// The first token starts a sequence that continues nothing.
    fresh: bool,
}

impl<'a, T: Element> Tile<'a, T> {
    #[inline(always)]
    fn new(scan: &'a Scan<'a, T>, tile: usize, channels: Range<usize>) -> Self {
        let starts = channels.clone().step_by(LANES);
        let blocks = starts.map(|start| Block::new(scan, start..(start + LANES).min(channels.end))).collect();
        Tile { scan, tile, blocks }
    }

    #[inline(always)]
    fn run(mut self, group: usize, runs: &[[u32; 2]]) {
        for &[first, end] in runs.iter().rev() {
            (first..end).rev().for_each(|s| self.sequence(s as usize));
        }
        let Scan { da_parts, dd_skip_parts, ddelta_bias_parts, .. } = self.scan;
        for block in &self.blocks {
            // SAFETY: these channels of this group's rows are this piece's alone.
            unsafe {
                store_states(&block.da, da_parts.row_mut(group, block.states()));
                for (rows, lanes) in [(dd_skip_parts, &block.d_skip), (ddelta_bias_parts, &block.d_bias)] {
                    rows.iter().for_each(|rows| store(lanes, rows.row_mut(group, block.channels.clone())));
                }
            }
        }
    }

    #[inline(always)]
    fn sequence(&mut self, s: usize) {
        let scan = self.scan;
        let (tokens, chunk, n) = (scan.packed.range(s), scan.variant.chunk as usize, scan.n);
        let initial = scan.initial_state.filter(|_| scan.packed.continued()[s]);
        for block in &mut self.blocks {
            match scan.d_final_state {
                Some(rows) => load_states(&rows.row(s)[block.states()], &mut block.carry),
                None => block.carry.fill(ZEROS),
            }
        }
        let mut end = tokens.end;
        while end > tokens.start {
            let start = ((end - 1) / chunk * chunk).max(tokens.start);
            for block in &mut self.blocks {
                let (states, entering) = (block.states(), &mut block.h[..n]);
                match initial {
                    _ if start > tokens.start => load_states(&scan.checkpoints.row(start / chunk)[states], entering),
                    Some(rows) => load_states(&rows.row(s)[states], entering),
                    None => entering.fill(ZEROS),
                }
            }
            self.segment(&Segment { tokens: start..end, fresh: start == tokens.start && initial.is_none() });
            end = start;
        }
        for block in &mut self.blocks {
            let Some(rows) = scan.d_initial_state else { break };
            if initial.is_none() {
                block.carry.fill(ZEROS);
            }
            // SAFETY: these states of this sequence are this piece's alone.
            store_states(&block.carry, unsafe { rows.row_mut(s, block.states()) });
        }
    }

    #[inline(always)]
    fn segment(&mut self, segment: &Segment) {
        let (scan, n) = (self.scan, self.scan.n);
        for block in &mut self.blocks {
            block.recompute(scan, segment);
        }
        let columns = self.tile * n..(self.tile + 1) * n;
        let (mut db, mut dc) = (vec![ZEROS; n], vec![ZEROS; n]);
        for (j, t) in segment.tokens.clone().enumerate().rev() {
            db.fill(ZEROS);
            dc.fill(ZEROS);
            // Only the last block can have lanes without a channel. It comes first, so that they can be cleared.
            for block in self.blocks.iter_mut().rev() {
                match segment.fresh && j == 0 {
                    true => block.token::<true, T>(scan, j, t, &mut db, &mut dc),
                    false => block.token::<false, T>(scan, j, t, &mut db, &mut dc),
                }
                let width = block.channels.len();
                if width < LANES {
                    db.iter_mut().chain(&mut dc).for_each(|lanes| lanes[width..].fill(0.0));
                }
            }
            for (rows, lanes) in [(scan.db_parts, &db), (scan.dc_parts, &dc)] {
                // SAFETY: this tile's columns of this token are this piece's alone.
                let sums = unsafe { rows.row_mut(t, columns.clone()) };
                zip(sums, lanes).for_each(|(to, lanes)| *to = sum(lanes));
            }
        }
    }
}

impl Block {
    #[inline(always)]
    fn new<T: Element>(scan: &Scan<'_, T>, channels: Range<usize>) -> Block {
        let (n, chunk) = (scan.n, scan.variant.chunk as usize);
        let mut a = vec![ZEROS; n];
        for (lane, d) in channels.clone().enumerate() {
            zip(&mut a, scan.a.row(d)).for_each(|(to, a)| to[lane] = *a);
        }
        let vector = |row: Option<Rows<'_, f32>>| row.map_or(ZEROS, |row| load(row.row(0), &channels));
        Block {
            a,
            bias: vector(scan.delta_bias),
            skip: vector(scan.d_skip),
            carry: vec![ZEROS; n],
            da: vec![ZEROS; n],
            d_skip: ZEROS,
            d_bias: ZEROS,
            h: vec![ZEROS; (chunk + 1) * n],
            decay: vec![ZEROS; chunk * n],
            delta: vec![ZEROS; chunk],
            channels,
        }
    }

    /// The columns of these channels in rows `(_, D, N)`.
    fn states(&self) -> Range<usize> {
        let n = self.a.len();
        self.channels.start * n..self.channels.end * n
    }

    /// What softplus, if any, is taken of.
    #[inline(always)]
    fn raw<T: Element>(&self, scan: &Scan<'_, T>, t: usize) -> Lanes {
        let mut raw = load(scan.delta.row(t), &self.channels);
        zip(&mut raw, &self.bias).for_each(|(raw, bias)| *raw += bias);
        raw
    }

    /// Step sizes, decays and states of a segment, from the state before it.
    #[inline(always)]
    fn recompute<T: Element>(&mut self, scan: &Scan<'_, T>, segment: &Segment) {
        let n = scan.n;
        for (j, t) in segment.tokens.clone().enumerate() {
            let (raw, u) = (self.raw(scan, t), load(scan.u.row(t), &self.channels));
            let delta = if scan.variant.softplus { map(raw, softplus) } else { raw };
            self.delta[j] = delta;
            let fresh = segment.fresh && j == 0;
            let (before, after) = self.h[j * n..(j + 2) * n].split_at_mut(n);
            let decays = &mut self.decay[j * n..(j + 1) * n];
            for (((before, after), (decay, a)), b) in zip(zip(zip(before, after), zip(decays, &self.a)), scan.b.row(t))
            {
                let b = b.to_f32();
                for i in 0..LANES {
                    let x = delta[i] * u[i] * b;
                    decay[i] = exp2(delta[i] * (a[i] * LOG2_E));
                    after[i] = if fresh { x } else { decay[i] * before[i] + x };
                }
            }
        }
    }

    /// The gradients at token `t`, the `j`th of its segment; adds to `db (N)` and `dc (N)`.
    #[inline(always)]
    fn token<const FRESH: bool, T: Element>(
        &mut self,
        scan: &Scan<'_, T>,
        j: usize,
        t: usize,
        db: &mut [Lanes],
        dc: &mut [Lanes],
    ) {
        let n = scan.n;
        let (delta, u, g) = (self.delta[j], load(scan.u.row(t), &self.channels), load(scan.g.row(t), &self.channels));
        let z = scan.z.map(|z| load(z.row(t), &self.channels));
        let gate = z.map(|z| map(z, sigmoid));
        let mut dy = g;
        if let (Some(z), Some(s)) = (z, gate) {
            (0..LANES).for_each(|i| dy[i] = g[i] * (z[i] * s[i]));
        }
        let (before, after) = self.h[j * n..(j + 2) * n].split_at(n);
        let decays = &self.decay[j * n..(j + 1) * n];
        let (a, carry, da) = (&self.a[..n], &mut self.carry[..n], &mut self.da[..n]);
        let (b, c, db, dc) = (&scan.b.row(t)[..n], &scan.c.row(t)[..n], &mut db[..n], &mut dc[..n]);
        let (mut over_b, mut ddelta, mut y) = (ZEROS, ZEROS, ZEROS);
        for k in 0..n {
            let (b, c) = (b[k].to_f32(), c[k].to_f32());
            for i in 0..LANES {
                let (h, decay) = (after[k][i], decays[k][i]);
                let dh = c * dy[i] + carry[k][i];
                db[k][i] += dh * (delta[i] * u[i]);
                dc[k][i] += dy[i] * h;
                over_b[i] += dh * b;
                y[i] += c * h;
                if !FRESH {
                    let decayed = dh * (decay * before[k][i]);
                    ddelta[i] += a[k][i] * decayed;
                    da[k][i] += delta[i] * decayed;
                }
                carry[k][i] = decay * dh;
            }
        }
        let slope = if scan.variant.softplus { map(self.raw(scan, t), sigmoid) } else { [1.0; LANES] };
        let (mut du, mut dz) = (ZEROS, ZEROS);
        for i in 0..LANES {
            ddelta[i] = (ddelta[i] + u[i] * over_b[i]) * slope[i];
            self.d_skip[i] += dy[i] * u[i];
            self.d_bias[i] += ddelta[i];
            du[i] = delta[i] * over_b[i] + self.skip[i] * dy[i];
        }
        if let (Some(z), Some(s)) = (z, gate) {
            for i in 0..LANES {
                dz[i] = g[i] * (y[i] + self.skip[i] * u[i]) * (s[i] * (1.0 + z[i] * (1.0 - s[i])));
            }
        }
        for (rows, lanes) in [(Some(scan.du), &du), (Some(scan.ddelta), &ddelta), (scan.dz, &dz)] {
            // SAFETY: these channels of this token are this piece's alone.
            rows.iter().for_each(|rows| store(lanes, unsafe { rows.row_mut(t, self.channels.clone()) }));
        }
    }
}

/// The sum of all lanes, by halves.
#[inline(always)]
fn sum(lanes: &Lanes) -> f32 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        (0..width).for_each(|i| sums[i] += sums[i + width]);
        width /= 2;
    }
    sums[0]
}
