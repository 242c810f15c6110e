//! The forward pass: its kernel and its function.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Result, View};

use super::{Inputs, check_inputs, cpu, groups_for};

packscan_macros::kernel! {
    /// Forward pass of the packed selective scan.
    pub kernel Forward = "selective_scan_fwd" in "kernels/src/selective_scan" from ["common.cuh", "tile.cuh", "forward.cuh"] {
        variant {
            /// State size, N.
            state: "n" in 1..=1024,
            /// Chunk length, L: tokens that a block stages at a time.
            chunk: "l" in 8..=1024,
            /// Distance of checkpoints: a state is saved each so many tokens. The chunk where none are saved.
            distance: "k" in 8..=1024,
            /// Lanes of a warp that share a channel.
            lanes: "s" in [1, 2, 4, 8, 16, 32],
            /// Channels of a block.
            channels: "c" in 1..=1024,
            /// Blocks of a multiprocessor at least: the compiler leaves registers for as many.
            resident: "b" in 1..=32,
            /// Neighbouring channels that one load moves; of states of B and C at most as many, where N allows.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations; states and sums are always f32.
            io: dtype in [F32, F16, Bf16],
            /// Take the softplus of delta.
            softplus: flag "softplus",
            /// Add a bias to delta first.
            bias: flag "bias",
            /// Add D_skip * u to y.
            skip: flag "skip",
            /// Multiply y by silu(z).
            gate: flag "gate",
            /// Start continued sequences from a given state.
            initial: flag "initial",
            /// Write the state after each sequence.
            last: flag "final",
            /// Write the state that enters each distance, for the backward pass.
            checkpoints: flag "checkpoints",
        }
        derived {
            threads = channels * lanes,
            lane_states = state.div_ceil(lanes),
            row = lanes * lane_states,
            // Neighbouring states that a lane has of a channel.
            run = if lane_states.is_multiple_of(4) { 4 } else if lane_states.is_multiple_of(2) { 2 } else { 1 },
            walk = 1,
            turns = 1,
            state_vec = super::packet_width(state, vec, 2 * chunk, threads),
            // Tokens summed at once: few where a lane has many states, since each token unrolls them all.
            group = (64 / lane_states).clamp(1, 8).next_power_of_two(),
            sum_pad = if lanes > 1 { 32 / lanes } else { 0 },
            shared_bytes = (4 * chunk * (3 * channels + sum_pad + 2 * row)).next_multiple_of(16),
        }
        rules {
            lanes <= state, lanes: "a channel has only {state} states to share among lanes", "take at most {state} lanes";
            lane_states <= 64, lanes: "a lane keeps its {lane_states} states in registers, 64 at most", "take at least {} lanes", state.div_ceil(64).next_power_of_two();
            chunk.is_multiple_of(2), chunk: "a chunk is even, so that what is staged stays aligned", "take {}", chunk + 1;
            chunk.is_multiple_of(group), chunk: "a chunk is a whole number of the {group} tokens that are summed at once", "take {}", chunk.next_multiple_of(group);
            distance.is_multiple_of(group), distance: "states are saved before a group of the {group} tokens that are summed at once", "take {}", distance.next_multiple_of(group);
            chunk.is_multiple_of(distance), distance: "a chunk of {chunk} tokens is a whole number of distances", "take {}", if chunk.is_multiple_of(8) { 8 } else { chunk };
            checkpoints || distance == chunk, distance: "a variant without checkpoints has the distance of its chunk", "take {chunk}";
            channels.is_multiple_of(vec), channels: "a block's channels are a whole number of loads of {vec}", "take {}", channels.next_multiple_of(vec);
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            threads.is_multiple_of(32), channels: "a block has whole warps, so channels * lanes is a multiple of 32", "take {}", channels.next_multiple_of(32 / lanes);
            threads <= 1024, channels: "a block has at most 1024 threads, channels * lanes", "take {}", 1024 / lanes;
        }
        dims {
            /// Channels, D.
            d: "D",
            /// Groups of sequences, the second grid axis: blocks that walk the pack at once.
            groups: "G",
            /// Runs of neighbouring sequences in all groups.
            run_count: "R",
        }
        tensors {
            /// Input of the scan.
            u: in io [T, D] strided by vec,
            /// Step size before bias and softplus.
            delta: in io [T, D] strided by vec,
            /// Decay rates; the model keeps them negative.
            a: in f32 [D, state],
            /// Input projection.
            b: in io [T, state] strided by state_vec,
            /// Output projection.
            c: in io [T, state] strided by state_vec,
            /// Skip weight.
            d_skip: in f32 [D] if skip,
            /// Bias of delta.
            delta_bias: in f32 [D] if bias,
            /// Gate, before silu.
            z: in io [T, D] strided by vec if gate,
            /// States that continued sequences start from; other rows are not read.
            initial_state: in f32 [S, D, state] if initial,
            /// Boundaries of the sequences.
            cu_seqlens: structure u32 [S + 1],
            /// 1 for each continued sequence.
            continued: structure u32 [S],
            /// First run of each group.
            group_starts: structure u32 [G + 1],
            /// First sequence of each run of sequences, and the one after its last.
            runs: structure u32 [2 * R],
            /// Result.
            out: out io [T, D] strided by vec,
            /// State after the last token of each sequence; of an empty one, what it started from.
            final_state: out f32 [S, D, state] if last,
            /// State that token k * distance receives: zero where it starts a fresh sequence.
            checkpoints: out f32 [T / distance, D, state] if checkpoints,
        }
        launch { grid: [D.div_ceil(channels), G], threads: threads, shared: shared_bytes, resident: resident }
    }
}

/// What the forward pass writes, every element of it.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// `(T, D)` io: result.
    pub out: View<'a>,
    /// `(S, D, N)` f32: state after each sequence.
    pub final_state: Option<View<'a>>,
    /// `(ceil(T / distance), D, N)` f32: state that enters each distance of the variant.
    pub checkpoints: Option<View<'a>>,
}

/// Runs the forward pass on the device of `packed`, as `variant`, whose options must be those of `inputs` and `outputs`.
///
/// `groups` is how many groups of whole sequences are walked side by side; results do not depend on it. `None` fills the GPU.
///
/// # Errors
/// [`Error::Tensor`](packscan_runtime::Error::Tensor) for an argument that does not fit, [`Error::Packed`](packscan_runtime::Error::Packed) for continued sequences without initial states, and whatever
/// launching fails with.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    groups: Option<usize>,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
) -> Result<Launched> {
    check_inputs(packed, inputs)?;
    let d = inputs.a.shape().0;
    let groups = groups_for(packed, variant, d, variant.channels, groups)?;
    let shared_out = packed.groups(groups)?;
    let args = ForwardArgs {
        d,
        groups,
        run_count: shared_out.runs.len() / 2,
        u: inputs.u,
        delta: inputs.delta,
        a: inputs.a,
        b: inputs.b,
        c: inputs.c,
        d_skip: inputs.d_skip,
        delta_bias: inputs.delta_bias,
        z: inputs.z,
        initial_state: inputs.initial_state,
        cu_seqlens: packed.cu_seqlens().view(),
        continued: packed.continued().view(),
        group_starts: shared_out.starts.view(),
        runs: shared_out.runs.view(),
        out: outputs.out,
        final_state: outputs.final_state,
        checkpoints: outputs.checkpoints,
    };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(packed.packed(), variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
