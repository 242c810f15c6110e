//! The native CPU path of the forward pass: f32, one thread a piece of channels of a sequence.

use std::iter::zip;
use std::ops::Range;

use half::{bf16, f16};
use packscan_runtime::host::Rows;
use packscan_runtime::{Dtype, Element, Packed};
use rayon::prelude::*;

use super::{LANES, Lanes, ZEROS, load, load_states, map, store, store_states};
use crate::cpu::{exp2, silu, softplus, vectorised};
use crate::selective_scan::forward::{Forward, ForwardArgs};

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
        let tiles = self.d.div_ceil(LANES);
        (0..self.packed.sequences() * tiles).into_par_iter().for_each(|piece| {
            let first = piece % tiles * LANES;
            let channels = first..(first + LANES).min(self.d);
            vectorised(
                #[inline(always)]
                || self.run_tile(piece / tiles, channels),
            );
        });
    }

    /// Some channels of sequence `s`.
    #[inline(always)]
    fn run_tile(&self, s: usize, channels: Range<usize>) {
        let n = self.variant.state as usize;
        let distance = self.variant.distance as usize;
        let states = channels.start * n..channels.end * n;
        let (mut a2, mut h) = (vec![ZEROS; n], vec![ZEROS; n]);
        for (lane, d) in channels.clone().enumerate() {
            zip(&mut a2, self.a.row(d)).for_each(|(a2, a)| a2[lane] = a * std::f32::consts::LOG2_E);
        }
        let mut fresh = true;
        if let (true, Some(initial)) = (self.packed.continued()[s], self.initial_state) {
            load_states(&initial.row(s)[states.clone()], &mut h);
            fresh = false;
        }
        let save = |to: Rows<'_, f32>, row: usize, h: &[Lanes]| {
            // SAFETY: these states of this sequence are this piece's alone.
            store_states(h, unsafe { to.row_mut(row, states.clone()) });
        };
        let vector = |row: Option<Rows<'_, f32>>| row.map_or(ZEROS, |row| load(row.row(0), &channels));
        let (bias, skip) = (vector(self.delta_bias), vector(self.d_skip));
        for t in self.packed.range(s) {
            if let (true, Some(checkpoints)) = (t % distance == 0, self.checkpoints) {
                save(checkpoints, t / distance, &h);
            }
            let (mut delta, u) = (load(self.delta.row(t), &channels), load(self.u.row(t), &channels));
            zip(&mut delta, &bias).for_each(|(delta, bias)| *delta += bias);
            if self.variant.softplus {
                delta = map(delta, softplus);
            }
            let (b, c) = (self.b.row(t), self.c.row(t));
            let mut y = match fresh {
                true => step::<true, T>(&delta, &u, &a2, b, c, &mut h),
                false => step::<false, T>(&delta, &u, &a2, b, c, &mut h),
            };
            fresh = false;
            for i in 0..LANES {
                y[i] += skip[i] * u[i];
            }
            if let Some(z) = self.z {
                let z = load(z.row(t), &channels);
                (0..LANES).for_each(|i| y[i] *= silu(z[i]));
            }
            // SAFETY: these channels of this token are this piece's alone.
            store(&y, unsafe { self.out.row_mut(t, channels.clone()) });
        }
        if let Some(final_state) = self.final_state {
            save(final_state, s, &h);
        }
    }
}

/// One token: updates the states `(N)`, returns y.
#[inline(always)]
fn step<const FRESH: bool, T: Element>(
    delta: &Lanes,
    u: &Lanes,
    a2: &[Lanes],
    b: &[T],
    c: &[T],
    h: &mut [Lanes],
) -> Lanes {
    let mut y = ZEROS;
    for ((a2, h), (b, c)) in zip(zip(a2, h), zip(b, c)) {
        let (b, c) = (b.to_f32(), c.to_f32());
        for i in 0..LANES {
            let x = delta[i] * u[i] * b;
            h[i] = if FRESH { x } else { exp2(delta[i] * a2[i]) * h[i] + x };
            y[i] += c * h[i];
        }
    }
    y
}
