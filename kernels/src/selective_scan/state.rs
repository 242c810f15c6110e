//! What each segment of a cut sequence does by itself, and how states pass between segments: the two small kernels of [`super::split`].

use super::{Backward, Forward, Problem, default_variant};

packscan_macros::kernel! {
    /// The state that each segment of a sequence leaves with nothing before it, and its sum of delta; or the same of gradients.
    pub kernel State = "selective_scan_state" in "kernels/src/selective_scan" from ["common.cuh", "state.cuh"] {
        variant {
            /// State size, N.
            state: "n" in 1..=1024,
            /// Chunk length, L: tokens that a block stages at a time.
            chunk: "l" in 8..=1024,
            /// Lanes of a warp that share a channel.
            lanes: "s" in [1, 2, 4, 8, 16, 32],
            /// Channels of a block.
            channels: "c" in 1..=1024,
            /// Blocks of a multiprocessor at least: the compiler leaves registers for as many.
            resident: "b" in 1..=32,
            /// Neighbouring channels that one load moves; of states of the projection at most as many, where N allows.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations; states and sums are always f32.
            io: dtype in [F32, F16, Bf16],
            /// Take the softplus of delta.
            softplus: flag "softplus",
            /// Add a bias to delta first.
            bias: flag "bias",
            /// Multiply u by silu(z); of gradients only.
            gate: flag "gate",
            /// Of gradients: u is the gradient of the result, the projection is C, and tokens are walked from the last to the first.
            reverse: flag "reverse",
            /// Of the segment at the end of a sequence too, which hands nothing on: for what leaves the sequence.
            ends: flag "ends",
        }
        derived {
            threads = channels * lanes,
            lane_states = state.div_ceil(lanes),
            row = lanes * lane_states,
            // Neighbouring states that a lane has of a channel.
            run = if lane_states.is_multiple_of(4) { 4 } else if lane_states.is_multiple_of(2) { 2 } else { 1 },
            walk = 1,
            turns = 1,
            state_vec = super::packet_width(state, vec, chunk, threads),
            shared_bytes = (4 * chunk * (2 * channels + row)).next_multiple_of(16),
        }
        rules {
            lanes <= state, lanes: "a channel has only {state} states to share among lanes", "take at most {state} lanes";
            lane_states <= 64, lanes: "a lane keeps its {lane_states} states in registers, 64 at most", "take at least {} lanes", state.div_ceil(64).next_power_of_two();
            chunk.is_multiple_of(2), chunk: "a chunk is even, so that what is staged stays aligned", "take {}", chunk + 1;
            channels.is_multiple_of(vec), channels: "a block's channels are a whole number of loads of {vec}", "take {}", channels.next_multiple_of(vec);
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            threads.is_multiple_of(32), channels: "a block has whole warps, so channels * lanes is a multiple of 32", "take {}", channels.next_multiple_of(32 / lanes);
            threads <= 1024, channels: "a block has at most 1024 threads, channels * lanes", "take {}", 1024 / lanes;
            !gate || reverse, gate: "forward's states do not see the gate", "leave it out, or take reverse";
        }
        dims {
            /// Channels, D.
            d: "D",
        }
        tensors {
            /// Input of the scan; or gradient of the result.
            u: in io [T, D] strided by vec,
            /// Step size before bias and softplus.
            delta: in io [T, D] strided by vec,
            /// Decay rates.
            a: in f32 [D, state],
            /// B; or C.
            projection: in io [T, state] strided by state_vec,
            /// Bias of delta.
            delta_bias: in f32 [D] if bias,
            /// Gate, before silu.
            z: in io [T, D] strided by vec if gate,
            /// Boundaries of the segments.
            cu_seqlens: structure u32 [S + 1],
            /// The sequence of each segment.
            sequence_of: structure u32 [S],
            /// State after each segment from nothing before it; or carry that leaves it with nothing behind it.
            states: out f32 [S, D, state],
            /// Sum of the segment's step sizes.
            delta_sums: out f32 [S, D],
        }
        launch { grid: [D.div_ceil(channels), S], threads: threads, shared: shared_bytes, resident: resident }
    }
}

packscan_macros::kernel! {
    /// What enters each segment of a sequence, from what each does by itself.
    pub kernel Join = "selective_scan_join" in "kernels/src/selective_scan" from ["join.cuh"] {
        variant {
            /// State size, N.
            state: "n" in 1..=1024,
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// From the last segment to the first: gradients.
            reverse: flag "reverse",
            /// Something enters sequences: initial states, or gradients of final states.
            given: flag "given",
            /// What leaves sequences is wanted: final states, or gradients of initial states.
            left: flag "left",
        }
        dims {
            /// Channels, D.
            d: "D",
            /// Sequences that were cut; S counts segments.
            whole: "Q",
        }
        tensors {
            /// What each segment leaves by itself.
            states: in f32 [S, D, state],
            /// Sum of each segment's step sizes.
            delta_sums: in f32 [S, D],
            /// Decay rates.
            a: in f32 [D, state],
            /// What enters each sequence. Of initial states only rows of continued sequences are read.
            given: in f32 [Q, D, state] if given,
            /// First segment of each sequence.
            firsts: structure u32 [Q + 1],
            /// 1 for each continued sequence.
            continued: structure u32 [Q],
            /// What enters each segment.
            entering: out f32 [S, D, state],
            /// What leaves each sequence; of gradients zero for a fresh one.
            left: out f32 [Q, D, state] if left,
        }
        launch { grid: [(D * state).div_ceil(block), Q], threads: block }
    }
}

/// Shared memory that a hand-picked variant stays under, so that four blocks fit a multiprocessor beside its first-level cache.
const SHARED_BYTES: usize = 40 * 1024;

/// A variant that is sensible everywhere, for a pass that moves `vec` neighbouring channels a load: forward's lanes and channels, in chunks up to
/// 64, for fewer barriers keep the special functions busier. What is computed does not depend on it.
pub fn default_state(problem: &Problem, vec: u32, reverse: bool) -> State {
    use packscan_runtime::kernel::Variant as _;
    let like = default_variant(problem);
    let variant = |chunk| State {
        state: like.state,
        chunk,
        lanes: like.lanes,
        channels: like.channels.next_multiple_of(vec),
        resident: like.resident,
        vec,
        io: like.io,
        softplus: problem.softplus,
        bias: problem.bias,
        gate: reverse && problem.gate,
        reverse,
        ends: if reverse { problem.initial } else { problem.last },
    };
    let chunks = [64, 32, 16, 8].map(variant);
    *chunks.iter().find(|v| v.shared_bytes() <= SHARED_BYTES).unwrap_or(&chunks[3])
}

/// A variant that is sensible everywhere: there is little to pick.
pub fn default_join(state: u32) -> Join {
    Join { state, block: 128, reverse: false, given: false, left: false }
}

impl State {
    /// The hand-picked variant for a forward pass over segments.
    pub fn for_forward(v: &Forward, d: usize) -> State {
        let Forward { state, io, softplus, bias, skip, gate, initial, last, checkpoints, vec, .. } = *v;
        let state = state as usize;
        let problem = Problem { channels: d, state, io, softplus, bias, skip, gate, initial, last, checkpoints };
        default_state(&problem, vec, false)
    }

    /// The hand-picked variant for a backward pass over segments.
    pub fn for_backward(v: &Backward, d: usize) -> State {
        let Backward { state, io, softplus, bias, skip, gate, initial, last, vec, .. } = *v;
        let state = state as usize;
        let problem = Problem { channels: d, state, io, softplus, bias, skip, gate, initial, last, checkpoints: true };
        default_state(&problem, vec, true)
    }
}
