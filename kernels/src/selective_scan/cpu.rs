//! The native CPU path: f32, threads over pieces of channels and sequences, for machines without a GPU.
//!
//! Neighbouring channels are the lanes of vector registers, since nothing passes between them: [`LANES`] channels do the same at once,
//! and only dB and dC are sums over lanes. Lanes without a channel compute with zeros, and what they find is not used.

use std::iter::zip;
use std::ops::Range;

use packscan_runtime::Element;

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;

/// Channels that are computed at once.
const LANES: usize = 16;

/// A number of each of [`LANES`] neighbouring channels.
type Lanes = [f32; LANES];

const ZEROS: Lanes = [0.0; LANES];

/// Channels of a row, in f32.
#[inline(always)]
fn load<T: Element>(row: &[T], channels: &Range<usize>) -> Lanes {
    let from = &row[channels.clone()];
    let Some(whole) = from.first_chunk::<LANES>() else { return load_rest(from) };
    let mut lanes = ZEROS;
    (0..LANES).for_each(|i| lanes[i] = whole[i].to_f32());
    lanes
}

/// Fewer channels than lanes: apart, or the compiler makes one call of `memcpy` of both cases.
#[cold]
#[inline(never)]
fn load_rest<T: Element>(from: &[T]) -> Lanes {
    let mut lanes = ZEROS;
    zip(&mut lanes, from).for_each(|(lane, x)| *lane = x.to_f32());
    lanes
}

/// Writes the lanes that have a channel.
#[inline(always)]
fn store<T: Element>(lanes: &Lanes, to: &mut [T]) {
    match to.first_chunk_mut::<LANES>() {
        Some(whole) => (0..LANES).for_each(|i| whole[i] = T::from_f32(lanes[i])),
        None => store_rest(lanes, to),
    }
}

/// As [`load_rest`].
#[cold]
#[inline(never)]
fn store_rest<T: Element>(lanes: &Lanes, to: &mut [T]) {
    zip(to, lanes).for_each(|(to, lane)| *to = T::from_f32(*lane));
}

/// `of` each lane. `array::map` would not be inlined, and so not be compiled for wide registers.
#[inline(always)]
fn map(mut lanes: Lanes, of: impl Fn(f32) -> f32) -> Lanes {
    lanes.iter_mut().for_each(|lane| *lane = of(*lane));
    lanes
}

/// `(channels, N)` as it lies in memory, a channel a lane: `(N)` of lanes.
#[inline(always)]
fn load_states(from: &[f32], to: &mut [Lanes]) {
    for (lane, channel) in from.chunks_exact(to.len()).enumerate() {
        zip(to.iter_mut(), channel).for_each(|(to, x)| to[lane] = *x);
    }
}

/// The way back from [`load_states`].
#[inline(always)]
fn store_states(from: &[Lanes], to: &mut [f32]) {
    for (lane, channel) in to.chunks_exact_mut(from.len()).enumerate() {
        zip(channel, from).for_each(|(x, from)| *x = from[lane]);
    }
}
