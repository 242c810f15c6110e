//! The L2 norm of all gradients and the factor that clips them (Pascanu et al., arXiv 1211.5063, algorithm 1).
//!
//! ```text
//! norm   = sqrt(sum of g*g)                                over every gradient of the model
//! factor = min(1, max_norm / (norm + 1e-6))                0 where the norm is not finite
//! ```
//!
//! Two kernels: [`forward`] writes a sum of squares for each part of a range of gradients, [`clip`] adds them up. The parts of several
//! ranges may lie side by side in one tensor, whose sums `clip` then takes together. Sums are f32: a norm beyond 1.8e19 counts as not finite.

pub mod cpu;
mod faults;

use packscan_runtime::kernel::broken;
use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Dtype, Error, Result, View};

pub use faults::faults;

packscan_macros::kernel! {
    /// Sums of the squares of parts of a range of gradients.
    pub kernel Forward = "grad_norm" in "kernels/src/grad_norm" from ["forward.cuh"] {
        variant {
            /// Gradients of a part: consecutive ones.
            part: "l" in 32..=16_777_216,
            /// Threads of a block, which sums one part.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring gradients that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the gradients.
            io: dtype in [F32, F16, Bf16],
        }
        rules {
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            part.is_multiple_of(block * vec), part: "a part is a whole number of the block's loads, block * vec", "take {}", part.next_multiple_of(block * vec);
        }
        dims {
            /// Gradients.
            n: "N",
        }
        tensors {
            /// Gradients.
            g: in io [N],
            /// Sum of squares of each part.
            parts: out f32 [N.div_ceil(part)],
        }
        launch { grid: [N.div_ceil(part)], threads: block, shared: 128 }
    }
}

packscan_macros::kernel! {
    /// The norm from the sums of parts, and what gradients are to be multiplied with.
    pub kernel Clip = "grad_norm_clip" in "kernels/src/grad_norm" from ["clip.cuh"] {
        variant {
            /// Threads of the one block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
        }
        dims {
            /// Parts.
            n: "P",
        }
        tensors {
            /// Sum of squares of each part.
            parts: in f32 [P],
            /// The limit, by `limit`.
            max_norm: in f32 [1],
            /// The factor, the norm, and 1 where the norm is not finite.
            result: out f32 [3],
        }
        launch { grid: [1], threads: block, shared: 128 }
    }
}

/// A hand-picked variant: parts of 65,536, so that a model of a hundred million parameters fills every GPU, four 16-byte loads of a
/// warp in flight for each thread.
pub fn default_variant(io: Dtype) -> Forward {
    Forward { part: 65_536, block: 256, vec: (16 / io.bytes()) as u32, io }
}

/// Every variant worth timing; parts stay as long as they are, for what is made once fits them.
pub fn variants(io: Dtype) -> Vec<Forward> {
    let picked = default_variant(io);
    let of = |block| [1, 2, 4, 8].map(|vec| Forward { block, vec, ..picked });
    [128, 256, 512, 1024].into_iter().flat_map(of).filter(|variant| broken(variant).is_empty()).collect()
}

/// The variant of [`clip`] that suits every model: one block adds 64 thousand sums in some ten microseconds.
pub const CLIP: Clip = Clip { block: 1024 };

/// Parts of `n` gradients: the length of what [`forward`] writes.
pub fn parts(variant: &Forward, n: usize) -> usize {
    n.div_ceil((variant.part as usize).max(1))
}

/// What [`clip`] is given for a limit.
///
/// # Errors
/// [`Error::Argument`] for a limit that is NaN, infinite or not above 0.
pub fn limit(max_norm: f32) -> Result<[f32; 1]> {
    if max_norm > 0.0 && max_norm.is_finite() {
        return Ok([max_norm]);
    }
    let rule = "the largest norm is a finite number above 0, usually 1; to clip nothing, leave clipping out".to_owned();
    Err(Error::Argument { argument: "max_norm", got: max_norm.to_string(), rule })
}

/// Sums the squares of each part of `g (n)` io into `parts`, `(ceil(n / part))` f32, on the device that `packed` names, for which
/// [`DevicePacked::empty`] will do.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn forward(packed: &DevicePacked, variant: &Forward, g: View<'_>, parts: View<'_>) -> Result<Launched> {
    let args = ForwardArgs { n: g.shape().0 * g.shape().1, g, parts };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}

/// Adds up `parts (P)` f32 and writes the factor, the norm and whether it is not finite to `result (3)` f32; `max_norm (1)` f32 is
/// [`limit`]'s.
///
/// # Errors
/// As [`forward`].
pub fn clip(
    packed: &DevicePacked,
    variant: &Clip,
    parts: View<'_>,
    max_norm: View<'_>,
    result: View<'_>,
) -> Result<Launched> {
    let args = ClipArgs { n: parts.shape().0 * parts.shape().1, parts, max_norm, result };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::clip(&args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
