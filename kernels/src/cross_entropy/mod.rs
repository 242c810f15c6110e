//! Cross entropy of the softmax of logits: the loss of each token and, in the place of its logits, their gradient.
//!
//! For a token with logits x and target k, and m the largest of them:
//!
//! ```text
//! loss    = ln(sum_j exp(x[j] - m)) + (m - x[k])
//! dlogits = (exp(x[j] - m) / sum_j exp(x[j] - m) - [j = k]) * scale          both 0 where there is no target
//! ```
//!
//! One kernel for forward and backward, in place: the logits of a pack, `(T, V)`, are by far the largest tensor of a model's training. It
//! never exists in f32, and a trainer that takes its tokens in chunks, product with the output weights, this, and the two products back,
//! needs no more than a chunk of it. Boundaries of sequences do not matter here, so a chunk's pack may be one sequence of its tokens.

pub mod cpu;
mod faults;
mod problem;

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Error, Result, View};

pub use faults::faults;
pub use problem::{Problem, default_variant, variants};

/// The target of a token that has none.
pub const NO_TARGET: u32 = u32::MAX;

packscan_macros::kernel! {
    /// Loss and gradient of logits.
    pub kernel Forward = "cross_entropy" in "kernels/src/cross_entropy" from ["forward.cuh"] {
        variant {
            /// Threads of a block, which takes one token.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Loads of a thread that stay in registers; longer rows are read again, from the cache.
            keep: "k" in 1..=32,
            /// Neighbouring logits that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the logits.
            io: dtype in [F32, F16, Bf16],
        }
        rules {
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            keep * vec * io.bytes() <= 256, keep: "a thread keeps at most 256 bytes in registers, loads of {} bytes", vec * io.bytes(), "take {}", 256 / (vec * io.bytes());
        }
        dims {
            /// Vocabulary, V.
            v: "V",
        }
        tensors {
            /// Logits; afterwards their gradients.
            logits: inout io [T, V] strided by vec,
            /// Target of each token, below V, or 4294967295 for none.
            targets: structure u32 [T],
            /// Gradient of the whole with respect to each token's loss.
            scale: in f32 [1],
            /// Loss of each token.
            loss: out f32 [T],
        }
        launch { grid: [T], threads: block, shared: 256 }
    }
}

/// Checks targets on the host, before they go to a device, and counts the tokens that have one: the mean of the losses has the scale
/// one over that.
///
/// # Errors
/// [`Error::Argument`] for the first target that is neither below `vocabulary` nor [`NO_TARGET`].
pub fn check_targets(targets: &[u32], vocabulary: usize) -> Result<usize> {
    let outside = |&target: &u32| target != NO_TARGET && target as usize >= vocabulary;
    if let Some(t) = targets.iter().position(outside) {
        return Err(Error::Argument {
            argument: "targets",
            got: format!("{} at token {t}", targets[t]),
            rule: format!(
                "a target is below the vocabulary of {vocabulary}, or {NO_TARGET} for none; \
                 check that the text was tokenised for this model"
            ),
        });
    }
    Ok(targets.iter().filter(|&&target| target != NO_TARGET).count())
}

/// What the operator reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    /// `(T, V)` io: logits; afterwards their gradients.
    pub logits: View<'a>,
    /// `(T)` u32: target of each token, as [`check_targets`] wants them. One outside the vocabulary that comes here all the same has a
    /// loss of NaN.
    pub targets: View<'a>,
    /// `(1)` f32: gradient of the whole with respect to each token's loss.
    pub scale: View<'a>,
    /// `(T)` f32: loss of each token, not scaled, 0 where there is no target.
    pub loss: View<'a>,
}

/// Computes the loss of each token of `packed` and replaces its logits by their gradients, on the device of `packed`.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn forward(packed: &DevicePacked, variant: &Forward, tensors: &Tensors<'_>) -> Result<Launched> {
    let Tensors { logits, targets, scale, loss } = *tensors;
    let args = ForwardArgs { v: logits.shape().1, logits, targets, scale, loss };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(packed.packed(), variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
