//! The native CPU path of the forward pass: f32, one thread a piece of channels of a sequence.

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed};
use rayon::prelude::*;

use crate::cpu::{exp2, silu, softplus};
use crate::selective_scan::forward::{Forward, ForwardArgs};

/// Channels that one thread walks together: B and C of a token are read once for all of them.
const TILE: usize = 16;
/// Partial sums of y over the states, so that the loop over states vectorises.
const SUMS: usize = 8;

/// The forward pass on host memory; the arguments have been checked.
pub(in crate::selective_scan) fn forward(packed: &Packed, variant: &Forward, args: &ForwardArgs<'_>) {
    match variant.io {
        Dtype::F32 => Scan::<f32>::new(packed, variant, args).run(),
        Dtype::F16 => Scan::<f16>::new(packed, variant, args).run(),
        Dtype::Bf16 => Scan::<bf16>::new(packed, variant, args).run(),
        Dtype::U32 => unreachable!("the declaration of the kernel allows no integers"),
    }
}

/// The arguments as rows of elements.
struct Scan<'a, T> {
    packed: &'a Packed,
    variant: &'a Forward,
    d: usize,
    u: Rows<'a, T>,
    delta: Rows<'a, T>,
    a: Rows<'a, f32>,
    b: Rows<'a, T>,
    c: Rows<'a, T>,
    d_skip: Option<Rows<'a, f32>>,
    delta_bias: Option<Rows<'a, f32>>,
    z: Option<Rows<'a, T>>,
    initial_state: Option<Rows<'a, f32>>,
    out: Rows<'a, T>,
    final_state: Option<Rows<'a, f32>>,
    checkpoints: Option<Rows<'a, f32>>,
}

impl<'a, T: Element> Scan<'a, T> {
    fn new(packed: &'a Packed, variant: &'a Forward, args: &ForwardArgs<'a>) -> Self {
        let (d, n) = (args.d, variant.state as usize);
        // SAFETY: `check_call` has found that what is written overlaps nothing, and `row_mut` is called for pieces of which each belongs
        // to one thread.
        let activations = |view| unsafe { Rows::<T>::of(view, d) };
        // SAFETY: as above.
        let projections = |view| unsafe { Rows::<T>::of(view, n) };
        // SAFETY: as above.
        let floats = |view, cols| unsafe { Rows::<f32>::of(view, cols) };
        let states = |view| floats(view, d * n);
        let vector = |view| floats(view, d);
        Scan {
            packed,
            variant,
            d,
            u: activations(args.u),
            delta: activations(args.delta),
            a: floats(args.a, n),
            b: projections(args.b),
            c: projections(args.c),
            d_skip: args.d_skip.map(vector),
            delta_bias: args.delta_bias.map(vector),
            z: args.z.map(activations),
            initial_state: args.initial_state.map(states),
            out: activations(args.out),
            final_state: args.final_state.map(states),
            checkpoints: args.checkpoints.map(states),
        }
    }

    fn run(&self) {
        let tiles = self.d.div_ceil(TILE);
        (0..self.packed.sequences() * tiles).into_par_iter().for_each(|piece| {
            let first = piece % tiles * TILE;
            self.run_tile(piece / tiles, first..(first + TILE).min(self.d));
        });
    }

    /// Channels `tile` of sequence `s`.
    fn run_tile(&self, s: usize, tile: std::ops::Range<usize>) {
        let n = self.variant.state as usize;
        let chunk = self.variant.chunk as usize;
        let a2: Vec<f32> = tile.clone().flat_map(|d| self.a.row(d)).map(|a| a * std::f32::consts::LOG2_E).collect();
        let mut h = vec![0.0f32; a2.len()];
        let states = tile.start * n..tile.end * n;
        let mut fresh = true;
        if let (true, Some(initial)) = (self.packed.continued()[s], self.initial_state) {
            h.copy_from_slice(&initial.row(s)[states.clone()]);
            fresh = false;
        }
        let save = |to: Rows<'_, f32>, row: usize, h: &[f32]| {
            // SAFETY: these states of this sequence are this piece's alone.
            unsafe { to.row_mut(row, states.clone()) }.copy_from_slice(h);
        };
        let mut b = vec![0.0f32; n];
        let mut c = vec![0.0f32; n];
        for t in self.packed.range(s) {
            if let (true, Some(checkpoints)) = (t % chunk == 0, self.checkpoints) {
                save(checkpoints, t / chunk, &h);
            }
            widen(self.b.row(t), &mut b);
            widen(self.c.row(t), &mut c);
            // SAFETY: these channels of this token are this piece's alone.
            let out = unsafe { self.out.row_mut(t, tile.clone()) };
            for ((out, d), (a2, h)) in
                out.iter_mut().zip(tile.clone()).zip(a2.chunks_exact(n).zip(h.chunks_exact_mut(n)))
            {
                let delta = self.step_size(t, d);
                let u = self.u.row(t)[d].to_f32();
                let y = if fresh {
                    step::<true>(delta, delta * u, a2, &b, &c, h)
                } else {
                    step::<false>(delta, delta * u, a2, &b, &c, h)
                };
                *out = T::from_f32(self.finish(t, d, u, y));
            }
            fresh = false;
        }
        if let Some(final_state) = self.final_state {
            save(final_state, s, &h);
        }
    }

    fn step_size(&self, t: usize, d: usize) -> f32 {
        let raw = self.delta.row(t)[d].to_f32() + self.delta_bias.map_or(0.0, |bias| bias.row(0)[d]);
        if self.variant.softplus { softplus(raw) } else { raw }
    }

    fn finish(&self, t: usize, d: usize, u: f32, y: f32) -> f32 {
        let y = y + self.d_skip.map_or(0.0, |skip| skip.row(0)[d] * u);
        self.z.map_or(y, |z| y * silu(z.row(t)[d].to_f32()))
    }
}

fn widen<T: Element>(from: &[T], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}

/// One token of one channel: updates the states, returns y.
#[inline(always)]
fn step<const FRESH: bool>(delta: f32, delta_u: f32, a2: &[f32], b: &[f32], c: &[f32], h: &mut [f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    let state = |a2: f32, b: f32, h: &mut f32| {
        let x = delta_u * b;
        *h = if FRESH { x } else { exp2(delta * a2) * *h + x };
        *h
    };
    let whole = a2.len() - a2.len() % SUMS;
    for i in (0..whole).step_by(SUMS) {
        let (a2, b, c, h) = (&a2[i..i + SUMS], &b[i..i + SUMS], &c[i..i + SUMS], &mut h[i..i + SUMS]);
        for j in 0..SUMS {
            sums[j] += c[j] * state(a2[j], b[j], &mut h[j]);
        }
    }
    for i in whole..a2.len() {
        sums[i - whole] += c[i] * state(a2[i], b[i], &mut h[i]);
    }
    sums.iter().sum()
}
