//! Whether passes over a pack are done sooner if its sequences are cut along time, and into segments of how many tokens.
//!
//! A model of two facts: a GPU runs so many blocks at once, each a tile of channels of some tokens, and is done when the last block is
//! ([`Slots::makespan`]); and what a cut adds is counted by what it costs for each token. Nothing is measured for a pack, so the same GPU says the same of it in every run.
//!
//! The constants are fitted to what 4096 x 4096 in five and in seven sequences and one sequence of 65,536 x 1536 take on an H200, whole and cut, to a
//! seventh of most; of a few blocks on a large GPU, one sequence uncut, it expects a third more than a forward pass takes.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use packscan_runtime::{Device, Packed, Result, Slots};

use super::{Backward, Forward, State, blocks_at_once};

/// What each kernel takes for a token and channel of 16 states where it fills a GPU, in forward passes: 65,536 x 4096 in 1.66 ms on an H200.
const FORWARD: f64 = 1.0;
/// Of the backward pass.
const BACKWARD: f64 = 2.95;
/// Of what finds the states that segments leave.
const FORWARD_STATE: f64 = 0.78;
/// The same of gradients.
const BACKWARD_STATE: f64 = 0.82;
/// Tokens times channels of a forward pass that take as long as the two launches that a cut adds to a pass, some 12 us.
const LAUNCHES: f64 = (2 << 20) as f64;
/// What a block takes beside its tokens, in tokens: its first loads and its last sums.
const BLOCK_TOKENS: f64 = 32.0;
/// What a sequence or segment takes beside its tokens: chunks of which it fills a part.
const PIECE_TOKENS: u64 = 16;

/// The shortest and the longest segments that are considered.
const SEGMENTS: [usize; 2] = [256, 8192];
/// Tokens of which the length of a segment is a multiple. Results depend on the length by rounding.
const STEP: usize = 16;
/// So often, at most, blocks of equal segments fill the GPU.
const WAVES: usize = 8;
/// Blocks of all segments of a pack, of tiles of [`TILE`] channels, at most: several for each that any GPU runs at once, and more would share
/// the work out no better.
const MOST_BLOCKS: usize = 2048;
/// Channels of such a block.
const TILE: usize = 64;
/// Tokens of a segment on average, at least, whole sequences included.
const FEWEST_TOKENS: usize = 16;
/// Times within this ratio are equal.
const EQUALLY_SOON: f64 = 1.01;
/// A cut pays if it takes no more than this share of the time of whole sequences: for less, the model is too rough.
const WORTH: f64 = 0.9;

/// Both passes over a pack on a GPU, whose times are added.
#[derive(Clone, Debug)]
pub struct Balance {
    passes: [Pass; 2],
    /// Channels.
    d: usize,
    /// The same, where there are 16 states.
    elements: f64,
}

/// A pass, and what finds the states of its segments.
#[derive(Clone, Copy, Debug)]
struct Pass {
    whole: Grid,
    state: Grid,
}

/// How a GPU takes up the blocks of a kernel.
#[derive(Clone, Copy, Debug)]
struct Grid {
    /// Blocks of a sequence.
    tiles: usize,
    /// Blocks that run at once.
    slots: Slots,
    /// What a token and channel costs, in forward passes.
    cost: f64,
}

/// The most segments into which a pack of so many tokens and channels is cut: what to make room for.
pub const fn most_segments(tokens: usize, d: usize) -> usize {
    let tiles = if d > TILE { d.div_ceil(TILE) } else { 1 };
    let (by_blocks, by_tokens) = (MOST_BLOCKS / tiles, tokens.div_ceil(FEWEST_TOKENS));
    if by_blocks < by_tokens { by_blocks } else { by_tokens }
}

impl Balance {
    /// No sequence is cut of a pack without a longer one.
    pub const SHORTEST: usize = SEGMENTS[0];

    /// Of these variants for `d` channels. None where there is no GPU, and nothing is cut.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn new(device: &Device, d: usize, forward: &Forward, backward: &Backward) -> Result<Option<Balance>> {
        let Device::Cuda(cuda) = device else { return Ok(None) };
        let multiprocessors = cuda.multiprocessors()?;
        let grid = |channels: u32, slots, cost| Grid { tiles: d.div_ceil(channels as usize).max(1), slots, cost };
        let limited = |resident: u32| Slots { multiprocessors, blocks: resident as usize };
        // As many as their registers are limited for: nothing is compiled that may not run.
        let state = |v: State, cost| grid(v.channels, limited(v.resident), cost);
        let slots = [blocks_at_once(device, forward)?, blocks_at_once(device, backward)?];
        let [forward_slots, backward_slots] = slots.map(|slots| slots.unwrap_or_else(|| limited(1)));
        let passes = [
            Pass {
                whole: grid(forward.channels, forward_slots, FORWARD),
                state: state(State::for_forward(forward, d), FORWARD_STATE),
            },
            Pass {
                whole: grid(backward.channels, backward_slots, BACKWARD),
                state: state(State::for_backward(backward, d), BACKWARD_STATE),
            },
        ];
        Ok(Some(Balance { passes, d, elements: d as f64 * f64::from(forward.state) / 16.0 }))
    }

    /// Tokens of a segment with which the passes are done soonest; none if that is with whole sequences.
    pub fn segment(&self, packed: &Packed) -> Option<usize> {
        let lengths = packed.lengths();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let whole = self.time(&lengths, None);
        // If every slot is busy to the end, nothing is to be gained.
        let least: f64 = self.passes.iter().map(|pass| pass.whole.cost * packed.tokens() as f64 * self.elements).sum();
        if least >= WORTH * whole {
            return None;
        }
        let fits = |segment: usize| lengths.iter().map(|length| pieces(*length, segment)).sum::<usize>();
        let most = most_segments(packed.tokens(), self.d);
        let tried =
            self.considered(packed.tokens()).into_iter().filter(|&segment| segment < longest && fits(segment) <= most);
        let timed: Vec<(usize, f64)> = tried.map(|segment| (segment, self.time(&lengths, Some(segment)))).collect();
        let best = timed.iter().map(|&(_, time)| time).fold(f64::INFINITY, f64::min);
        // Of those that are done equally soon the shortest, which share the work out most evenly.
        let equal = timed.into_iter().find(|&(_, time)| time <= EQUALLY_SOON * best);
        equal.filter(|&(_, time)| time <= WORTH * whole).map(|(segment, _)| segment)
    }

    /// Lengths of segments, the shortest first: powers of two, and those of which the blocks of one pass or the other just fill the GPU once,
    /// twice, and so on; what is left over is a segment of a few tokens.
    fn considered(&self, tokens: usize) -> BTreeSet<usize> {
        let [shortest, longest] = SEGMENTS;
        let fill = |grid: Grid| {
            (1..=WAVES).map(move |waves| tokens * grid.tiles / (waves * grid.slots.count()).max(1) / STEP * STEP)
        };
        let filling = self.passes.iter().flat_map(|pass| fill(pass.whole));
        let powers = (0..).map(|k| shortest << k).take_while(|&segment| segment <= longest);
        powers.chain(filling).filter(|segment| (shortest..=longest).contains(segment)).collect()
    }

    /// What the passes take over sequences of these lengths, cut or not: in tokens times channels of a forward pass that fills the GPU.
    fn time(&self, lengths: &[usize], segment: Option<usize>) -> f64 {
        let Some(segment) = segment else {
            return self.passes.iter().map(|pass| pass.whole.time(lengths.to_vec()) * self.elements).sum();
        };
        let (mut all, mut inner) = (Vec::new(), Vec::new());
        for &length in lengths {
            let pieces = pieces(length, segment);
            // The segment at the end of a sequence hands nothing on.
            inner.extend(std::iter::repeat_n(segment, pieces - 1));
            all.extend(std::iter::repeat_n(segment, pieces - 1));
            all.push(length - (pieces - 1) * segment);
        }
        let of_pass = |pass: &Pass| {
            let kernels = pass.whole.time(all.clone()) + pass.state.time(inner.clone());
            kernels * self.elements + LAUNCHES
        };
        self.passes.iter().map(of_pass).sum()
    }
}

/// Segments of a sequence.
fn pieces(length: usize, segment: usize) -> usize {
    length.div_ceil(segment).max(1)
}

impl Grid {
    /// What the kernel takes for pieces of these lengths, the longest first, in tokens of a forward pass that fills the GPU.
    fn time(&self, mut lengths: Vec<usize>) -> f64 {
        lengths.sort_unstable_by_key(|&length| Reverse(length));
        let pieces = lengths.into_iter().filter(|&length| length > 0).map(|length| length as u64 + PIECE_TOKENS);
        let tokens = match self.slots.makespan(self.tiles, pieces) {
            0.0 => 0.0,
            tokens => tokens + BLOCK_TOKENS,
        };
        self.cost * tokens * self.slots.count() as f64 / self.tiles as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of 64 channels on 132 multiprocessors, four blocks of the forward pass on each and two of the backward pass.
    fn h200(d: usize) -> Balance {
        let slots = |blocks| Slots { multiprocessors: 132, blocks };
        let grid = |blocks: usize, cost| Grid { tiles: d.div_ceil(64), slots: slots(blocks), cost };
        let state = |cost| grid(4, cost);
        let forward = Pass { whole: grid(4, FORWARD), state: state(FORWARD_STATE) };
        let backward = Pass { whole: grid(2, BACKWARD), state: state(BACKWARD_STATE) };
        Balance { passes: [forward, backward], d, elements: d as f64 }
    }

    fn segment(d: usize, lengths: &[usize]) -> Option<usize> {
        h200(d).segment(&Packed::from_lengths(lengths).unwrap())
    }

    #[test]
    fn few_long_sequences_are_cut() {
        assert_eq!(segment(1536, &[65_536]), Some(1488), "as long as measured best: one sequence keeps 24 blocks busy");
        assert!(segment(1536, &[60_000, 512, 0, 5_024]).is_some());
        assert_eq!(segment(4096, &[617, 477, 685, 1827, 490]), Some(512), "the longest is almost half of the pack");
        assert_eq!(segment(4096, &[544, 443, 822, 535, 321, 658, 773]), None, "seven fill the GPU better whole");
    }

    #[test]
    fn what_fills_the_gpu_is_left_whole() {
        assert_eq!(segment(64 * 400, &[65_536]), None, "the channels alone fill the GPU");
        assert_eq!(segment(1536, &[1000; 160]), None, "each block has its sequences");
        assert_eq!(segment(1536, &[150]), None, "there is little to share out");
        assert_eq!(segment(1536, &[0]), None);
        assert_eq!(segment(1536, &[vec![40_000], vec![10; 2_500]].concat()), None, "there would be no room");
    }
}
