//! Copies of rows in another type: f32 to f16 or bf16, rounded to nearest, ties to even, and back, exactly.
//!
//! Rows may lie apart on both sides, so that a cast also cuts columns out of a tensor, or puts them into one.

pub mod cpu;
mod faults;

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Dtype, Result, View};

pub use faults::faults;

packscan_macros::kernel! {
    /// Copies rows in another type.
    pub kernel Forward = "cast" in "kernels/src/cast" from ["forward.cuh"] {
        variant {
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring elements that a thread copies.
            vec: "v" in [1, 2, 4, 8],
            /// Type of what is read.
            from: dtype in [F32, F16, Bf16],
            /// Type of what is written.
            to: dtype in [F32, F16, Bf16],
        }
        rules {
            vec * from.bytes().max(to.bytes()) <= 16, vec: "one load or store moves at most 16 bytes, of {from} and of {to}", "take {}", 16 / from.bytes().max(to.bytes());
        }
        dims {
            /// Columns.
            columns: "C",
        }
        tensors {
            /// What is copied.
            x: in from [T, C] strided by vec,
            /// The copy.
            out: out to [T, C] strided by vec,
        }
        launch { grid: [(T * C.div_ceil(vec)).div_ceil(block)], threads: block }
    }
}

/// A hand-picked variant: as many elements a thread as one load or store may move and the columns allow.
pub fn default_variant(columns: usize, from: Dtype, to: Dtype) -> Forward {
    let most = 16 / from.bytes().max(to.bytes());
    let fits = |vec: &u32| *vec as usize <= most && columns.is_multiple_of(*vec as usize);
    Forward { block: 256, vec: [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1), from, to }
}

/// Copies `x (T, C)` to `out (T, C)` in the type of `out`, on the device of `packed`. Rows that are not tokens are those of a pack of one
/// sequence.
///
/// # Errors
/// [`Error::Tensor`](packscan_runtime::Error::Tensor) for an argument that does not fit, and whatever launching fails with.
pub fn forward(packed: &DevicePacked, variant: &Forward, x: View<'_>, out: View<'_>) -> Result<Launched> {
    let args = ForwardArgs { columns: x.shape().1, x, out };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(packed.packed(), variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
