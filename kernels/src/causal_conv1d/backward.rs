//! The backward pass: its kernel and its function.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Error, Result, View};

use super::{Inputs, check_continued, cpu};
use crate::sum_rows::{self, Sum};
use crate::workspace;

packscan_macros::kernel! {
    /// Backward pass of the packed causal convolution.
    pub kernel Backward = "causal_conv1d_bwd" in "kernels/src/causal_conv1d" from ["taps.cuh", "backward.cuh"] {
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
            /// Type of the activations and their gradients; sums are always f32.
            io: dtype in [F32, F16, Bf16],
            /// Forward took the silu of the sum.
            silu: flag "silu",
            /// There is a bias.
            bias: flag "bias",
            /// There are histories, whose gradients are wanted.
            initial: flag "initial",
            /// There are gradients of the histories that forward wrote.
            last: flag "final",
        }
        derived {
            threads = packets * ways,
            // Tokens and channels of a block.
            tile = ways * run,
            channels = packets * vec,
            shared_bytes = 4 * ways * channels * (width + if bias { 1 } else { 0 }),
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
            /// Tiles of tokens.
            parts: "R",
        }
        tensors {
            /// Gradient of the result.
            g: in io [T, D] strided by vec,
            /// Input of the convolution.
            x: in io [T, D] strided by vec,
            /// Weights, the one of the oldest token first.
            w: in f32 [D, width],
            /// Bias.
            b: in f32 [D] if bias,
            /// What continued sequences saw last, the oldest first; other rows are not read.
            history: in io [S, width - 1, D] if initial,
            /// Gradient of the histories that forward wrote.
            d_history_out: in io [S, width - 1, D] if last,
            /// Boundaries of the sequences.
            cu_seqlens: structure u32 [S + 1],
            /// 1 for each continued sequence.
            continued: structure u32 [S],
            /// Gradient of x.
            dx: out io [T, D] strided by vec,
            /// Gradient of the histories; zero for a fresh sequence.
            d_history: out io [S, width - 1, D] if initial,
            /// Gradient of the weights, summed over each tile of tokens.
            dw_parts: out f32 [R, D, width],
            /// Gradient of the bias, summed over each tile of tokens.
            db_parts: out f32 [R, D] if bias,
        }
        launch { grid: [P * (R + if initial { S.div_ceil(ways) } else { 0 })], threads: threads, shared: shared_bytes, resident: resident }
    }
}

/// What the backward pass is given besides the inputs of forward.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// `(T, D)` io: gradient of the result.
    pub out: View<'a>,
    /// `(S, K - 1, D)` io: gradient of the histories that forward wrote.
    pub history: Option<View<'a>>,
}

/// What the backward pass writes.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// `(T, D)` io: gradient of `x`.
    pub x: View<'a>,
    /// `(D, K)` f32: gradient of `w`.
    pub w: View<'a>,
    /// `(D)` f32: gradient of `b`.
    pub b: Option<View<'a>>,
    /// Whether those of parameters are added to what is there, or written over it.
    pub add: bool,
    /// `(S, K - 1, D)` io: gradient of the histories, zero for fresh sequences.
    pub history: Option<View<'a>>,
}

/// Partial sums of one call, to be kept for the next, which may have fewer tokens: `ceil(T / (W * L)) * D * (K + 1)` floats.
#[derive(Debug)]
pub struct Workspace {
    w: Buffer,
    b: Buffer,
}

impl Workspace {
    /// Room for calls of `variant` with `d` channels on packs of up to as many tokens as `packed`.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(packed: &DevicePacked, variant: &Backward, d: usize) -> Result<Workspace> {
        packed.device().check(variant)?;
        let parts = parts_of(packed, variant);
        let floats = |len| Buffer::unwritten(packed.device(), Dtype::F32, len);
        let width = variant.width as usize;
        Ok(Workspace { w: floats(parts * d * width)?, b: floats(parts * d)? })
    }
}

/// Runs the backward pass on the device of `packed`, as `variant`, whose options must be those of the arguments.
///
/// Gradients of tokens do not depend on the places of sequences; those of parameters are sums over all tokens in an order that
/// depends on the variant's tile alone.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn backward(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'_>,
    workspace: &mut Workspace,
) -> Result<Launched> {
    let (launched, sums) = backward_unsummed(packed, variant, inputs, upstream, gradients, workspace)?;
    sum_rows::all(packed, &sums, gradients.add)?;
    Ok(launched)
}

/// As [`backward`], but leaves the sums of the gradients of parameters to be made, before the workspace is used again.
///
/// # Errors
/// As [`backward`].
pub fn backward_unsummed<'a>(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'a>,
    workspace: &'a Workspace,
) -> Result<(Launched, Vec<Sum<'a>>)> {
    packed.device().check(variant)?;
    check_continued(packed, inputs)?;
    check_bias(variant, gradients)?;
    let d = inputs.w.shape().0;
    let parts = parts_of(packed, variant);
    let dw_parts = workspace::part(&workspace.w, parts * d, variant.width as usize)?;
    let db_parts = variant.bias.then(|| workspace::part(&workspace.b, parts, d)).transpose()?;
    let args = BackwardArgs {
        d,
        tiles: d.div_ceil((variant.packets * variant.vec) as usize),
        parts,
        g: upstream.out,
        x: inputs.x,
        w: inputs.w,
        b: inputs.b,
        history: inputs.history,
        d_history_out: upstream.history,
        cu_seqlens: packed.cu_seqlens().view(),
        continued: packed.continued().view(),
        dx: gradients.x,
        d_history: gradients.history,
        dw_parts,
        db_parts,
    };
    let launched = match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::backward(packed.packed(), variant, &args);
            Launched::default()
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args)?,
    };
    let sum = |name, of, columns, out| Sum { name, parts: of, rows: parts, columns, out };
    let mut sums = vec![sum("dw", dw_parts, d * variant.width as usize, gradients.w)];
    sums.extend(std::iter::zip(db_parts, gradients.b).map(|(of, out)| sum("db", of, d, out)));
    Ok((launched, sums))
}

/// Tiles of tokens.
fn parts_of(packed: &DevicePacked, variant: &Backward) -> usize {
    packed.packed().tokens().div_ceil((variant.ways * variant.run) as usize)
}

/// The gradient of the bias is given exactly if forward added one.
fn check_bias(variant: &Backward, gradients: &Gradients<'_>) -> Result<()> {
    let (got, rule) = match (variant.bias, gradients.b.is_some()) {
        (true, false) => ("its gradient was left out", "the variant has the option that needs it"),
        (false, true) => ("its gradient was given", "the variant does not have the option that makes it; leave it out"),
        _ => return Ok(()),
    };
    let (id, got, rule) = (variant.to_string(), got.to_owned(), rule.to_owned());
    Err(Error::Tensor { id, tensor: "b", shape: "[D]", got, rule })
}
