//! The residual addition and the root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), one kernel each way.
//!
//! ```text
//! r    = residual + x                      one of them optional
//! rstd = 1 / sqrt(mean over M of r^2 + epsilon)
//! y    = r * rstd * weight
//! ```
//!
//! A row is a token; nothing looks along the sequence. `r` may be written as the residual of the next block, and with `rstd` it is all that
//! the backward pass needs of the forward pass.

mod backward;
pub mod cpu;
mod faults;
mod problem;

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Result, View};

pub use backward::{
    Backward, BackwardArgs, Gradients, Incoming, backward, backward_unsummed, backward_variants, default_backward,
    parts_rows,
};
pub use faults::faults;
pub use problem::{Problem, default_variant, variants};

packscan_macros::kernel! {
    /// Residual addition and norm, forward.
    pub kernel Forward = "rms_norm_fwd" in "kernels/src/rms_norm" from ["rows.cuh", "forward.cuh"] {
        variant {
            /// Model width, M.
            width: "m" in 1..=65536,
            /// Threads that share a row.
            lanes: "s" in [32, 64, 128, 256, 512, 1024],
            /// Rows of a block.
            rows: "r" in 1..=32,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations; the residual stream, the weight and the sums are f32.
            io: dtype in [F32, F16, Bf16],
            /// There is a residual to add to.
            residual: flag "residual",
            /// Write r, the residual of the next block.
            sum: flag "sum",
            /// Write rstd, for the backward pass.
            stats: flag "stats",
            /// The residual is all there is: nothing is added to it.
            alone: flag "alone",
        }
        derived {
            threads = lanes * rows,
            kept = width.div_ceil(vec * lanes) * vec,
            shared_bytes = if lanes > 32 { 4 * rows * (lanes / 32) } else { 0 },
        }
        rules {
            width.is_multiple_of(vec), vec: "a row of {width} is a whole number of loads", "take {}", 1 << width.trailing_zeros().min(3);
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            kept <= 64, lanes: "a thread keeps its {kept} numbers of a row in registers, 64 at most", "take at least {}", width.div_ceil(64).next_power_of_two();
            threads <= 1024, rows: "a block has at most 1024 threads, lanes * rows", "take {}", 1024 / lanes;
            residual || !alone, residual: "a norm of the residual alone has one", "take residual";
        }
        dims {}
        tensors {
            /// What is added to the residual stream.
            x: in io [T, width] strided by vec if !alone,
            /// The residual stream so far.
            residual: in f32 [T, width] if residual,
            /// Weight of the norm.
            weight: in f32 [width],
            /// Added to the mean square.
            epsilon: in f32 [1],
            /// The norm of r.
            y: out io [T, width] strided by vec,
            /// r.
            residual_out: out f32 [T, width] if sum,
            /// 1 / sqrt(mean(r^2) + epsilon).
            rstd: out f32 [T] if stats,
        }
        launch { grid: [T.div_ceil(rows)], threads: threads, shared: shared_bytes }
    }
}

/// What the forward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `(T, M)` io: what is added to the residual stream; none where that is normed as it is.
    pub x: Option<View<'a>>,
    /// `(T, M)` f32: the residual stream so far; none before the first block.
    pub residual: Option<View<'a>>,
    /// `(M)` f32: weight of the norm.
    pub weight: View<'a>,
    /// `(1)` f32: added to the mean square.
    pub epsilon: View<'a>,
}

/// What the forward pass writes, every element of it.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// `(T, M)` io: the norm of r.
    pub y: View<'a>,
    /// `(T, M)` f32: r, the residual of the next block.
    pub residual: Option<View<'a>>,
    /// `(T)` f32: 1 / sqrt(mean(r^2) + epsilon).
    pub rstd: Option<View<'a>>,
}

/// Runs the forward pass on the device of `packed`, as `variant`, whose options must be those of `inputs` and `outputs`.
///
/// # Errors
/// [`packscan_runtime::Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
) -> Result<Launched> {
    let args = ForwardArgs {
        x: inputs.x,
        residual: inputs.residual,
        weight: inputs.weight,
        epsilon: inputs.epsilon,
        y: outputs.y,
        residual_out: outputs.residual,
        rstd: outputs.rstd,
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
