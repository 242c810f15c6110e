//! The state matrix of a Mamba block from its logarithm, and the gradient of that.
//!
//! ```text
//! A      = -exp(A_log)                    negative whatever A_log is, so that every state decays
//! dA_log = dA * A                         since A is its own derivative
//! ```
//!
//! The gradient is multiplied in place: a trainer sums dA over all packs of a step first, then calls [`backward`] once.

pub mod cpu;
mod faults;

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Result, View};

pub use faults::faults;

packscan_macros::kernel! {
    /// `a = -exp(a_log)`
    pub kernel Forward = "neg_exp_fwd" in "kernels/src/neg_exp" from ["forward.cuh"] {
        variant {
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring elements of a thread.
            vec: "v" in [1, 2, 4],
        }
        dims {
            /// Elements.
            n: "N",
        }
        tensors {
            /// Logarithms of the decay.
            a_log: in f32 [N],
            /// The state matrix.
            a: out f32 [N],
        }
        launch { grid: [N.div_ceil(block * vec)], threads: block }
    }
}

packscan_macros::kernel! {
    /// `g = g * a`
    pub kernel Backward = "neg_exp_bwd" in "kernels/src/neg_exp" from ["backward.cuh"] {
        variant {
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring elements of a thread.
            vec: "v" in [1, 2, 4],
        }
        dims {
            /// Elements.
            n: "N",
        }
        tensors {
            /// The state matrix, as the forward pass wrote it.
            a: in f32 [N],
            /// The gradient of `a`, which becomes that of `a_log`.
            g: inout f32 [N],
        }
        launch { grid: [N.div_ceil(block * vec)], threads: block }
    }
}

/// A hand-picked variant: four elements a thread. The largest model has a few hundred thousand, so there is little to pick.
pub fn default_variant() -> Forward {
    Forward { block: 256, vec: 4 }
}

/// A hand-picked variant of the backward pass.
pub fn default_backward() -> Backward {
    Backward { block: 256, vec: 4 }
}

/// Writes `-exp(a_log)` of `a_log (N)` f32 to `a (N)` f32, on the device that `packed` names, for which [`DevicePacked::empty`] will do.
///
/// # Errors
/// [`Error::Tensor`](packscan_runtime::Error::Tensor) for an argument that does not fit, and whatever launching fails with.
pub fn forward(packed: &DevicePacked, variant: &Forward, a_log: View<'_>, a: View<'_>) -> Result<Launched> {
    let args = ForwardArgs { n: a_log.shape().0 * a_log.shape().1, a_log, a };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(&args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}

/// Multiplies `g (N)` f32, the gradient of `a (N)` f32, with `a` in place: it becomes the gradient of `a_log`. A second call would
/// multiply once more.
///
/// # Errors
/// As [`forward`].
pub fn backward(packed: &DevicePacked, variant: &Backward, a: View<'_>, g: View<'_>) -> Result<Launched> {
    let args = BackwardArgs { n: g.shape().0 * g.shape().1, a, g };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::backward(&args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
