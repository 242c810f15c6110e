//! The forward pass: its kernel and its function.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Result, View};

use super::{Inputs, check_continued, cpu};

packscan_macros::kernel! {
    /// Forward pass of the packed causal convolution.
    pub kernel Forward = "causal_conv1d_fwd" in "kernels/src/causal_conv1d" from ["taps.cuh", "forward.cuh"] {
        variant {
            /// Taps of a channel, K.
            width: "k" in 2..=8,
            /// Tokens of a thread's run.
            run: "l" in 1..=1024,
            /// Tokens of a group, which are on their way while those of the group before are computed.
            ahead: "a" in [1, 2, 4, 8],
            /// Threads behind each other in time, each with a run of its own.
            ways: "w" in 1..=32,
            /// Loads that a block makes side by side.
            packets: "p" in 1..=1024,
            /// Neighbouring channels that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Blocks of a multiprocessor at least: the compiler leaves registers for as many.
            resident: "b" in 1..=32,
            /// Type of the activations; sums are always f32.
            io: dtype in [F32, F16, Bf16],
            /// Take the silu of the sum.
            silu: flag "silu",
            /// Add a bias to the sum.
            bias: flag "bias",
            /// Take what continued sequences saw last from a history.
            initial: flag "initial",
            /// Write what each sequence saw last.
            last: flag "final",
        }
        derived {
            threads = packets * ways,
            // Tokens and channels of a block.
            tile = ways * run,
            channels = packets * vec,
        }
        rules {
            run.is_multiple_of(ahead), run: "a run is a whole number of the {ahead} tokens that are loaded at a time", "take {}", run.next_multiple_of(ahead);
            ahead >= width, ahead: "a thread keeps the last {ahead} tokens, no fewer than the {width} that an output sees", "take {}", width.next_power_of_two();
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            threads.is_multiple_of(32), packets: "a block has whole warps, so packets * ways is a multiple of 32", "take {}", packets.next_multiple_of(32);
            threads <= 1024, packets: "a block has at most 1024 threads, packets * ways", "take {}", 1024 / ways;
        }
        dims {
            /// Channels, D.
            d: "D",
            /// Tiles of channels.
            tiles: "P",
        }
        tensors {
            /// Input of the convolution.
            x: in io [T, D] strided by vec,
            /// Weights, the one of the oldest token first.
            w: in f32 [D, width],
            /// Bias.
            b: in f32 [D] if bias,
            /// What continued sequences saw last, the oldest first; other rows are not read.
            history: in io [S, width - 1, D] if initial,
            /// Boundaries of the sequences.
            cu_seqlens: structure u32 [S + 1],
            /// 1 for each continued sequence.
            continued: structure u32 [S],
            /// Result.
            out: out io [T, D] strided by vec,
            /// The last inputs of each sequence, its own history included; zeros where a fresh one has too few.
            history_out: out io [S, width - 1, D] if last,
        }
        launch { grid: [P * (T.div_ceil(tile) + if last { S.div_ceil(ways) } else { 0 })], threads: threads, resident: resident }
    }
}

/// What the forward pass writes, every element of it.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// `(T, D)` io: result.
    pub out: View<'a>,
    /// `(S, K - 1, D)` io: the last inputs of each sequence, the history of its next piece.
    pub history: Option<View<'a>>,
}

/// Runs the forward pass on the device of `packed`, as `variant`, whose options must be those of `inputs` and `outputs`.
///
/// `x` may be columns of a wider tensor, such as the first half of `xz (T, 2D)`; so may `out`, of another one.
///
/// # Errors
/// [`Error::Tensor`](packscan_runtime::Error::Tensor) for an argument that does not fit, [`Error::Packed`](packscan_runtime::Error::Packed) for continued sequences without histories, and whatever
/// launching fails with.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
) -> Result<Launched> {
    packed.device().check(variant)?;
    check_continued(packed, inputs)?;
    let d = inputs.w.shape().0;
    let args = ForwardArgs {
        d,
        tiles: d.div_ceil((variant.packets * variant.vec) as usize),
        x: inputs.x,
        w: inputs.w,
        b: inputs.b,
        history: inputs.history,
        cu_seqlens: packed.cu_seqlens().view(),
        continued: packed.continued().view(),
        out: outputs.out,
        history_out: outputs.history,
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
