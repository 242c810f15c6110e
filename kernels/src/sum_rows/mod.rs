//! Sums of rows in a fixed order: how partial sums of many blocks become one gradient, without float atomics.
//!
//! ```text
//! out[b, c] (+)= sum over r of parts[b, r, c]
//! ```
//!
//! [`Forward`] sums what belongs to nobody, gradients of parameters, and may add to what is there. [`Tokens`] sums rows of a token,
//! whose sequence the emulator follows, into rows that may lie apart, of two tensors at once: the gradients of `B` and `C`, from partial sums over
//! channels.
//! [`Several`] makes the sums in one launch that the operators of a block leave: [`Sum`].

pub mod cpu;
mod faults;
mod several;

use packscan_runtime::kernel::Variant;
use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Dtype, Error, Result, View};

pub use faults::faults;
pub use several::{Several, Sum, all, default_several, several};

packscan_macros::kernel! {
    /// Sums of rows that belong to nobody.
    pub kernel Forward = "sum_rows" in "kernels/src/sum_rows" from ["forward.cuh"] {
        variant {
            /// Threads that share a column's rows.
            ways: "w" in [1, 2, 4, 8, 16, 32],
            /// Loads that a block makes side by side.
            packets: "p" in 1..=1024,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4],
            /// Type of the sums as stored; parts and sums are f32.
            io: dtype in [F32, F16, Bf16],
            /// Add to what `out` holds.
            add: flag "add",
        }
        derived {
            threads = packets * ways,
            shared_bytes = if ways > 1 { 4 * threads * vec } else { 0 },
        }
        rules {
            threads.is_multiple_of(32), packets: "a block has whole warps, so packets * ways is a multiple of 32", "take {}", packets.next_multiple_of(32 / ways);
            threads <= 1024, packets: "a block has at most 1024 threads, packets * ways", "take {}", 1024 / ways;
            !add || io.bytes() == 4, io: "a running sum is f32", "take f32";
        }
        dims {
            /// Groups of rows, each summed by itself.
            groups: "B",
            /// Rows of a group.
            rows: "R",
            /// Columns.
            columns: "C",
        }
        tensors {
            /// What is summed.
            parts: in f32 [B, R, C],
            /// The sums; read only by a variant that adds.
            out: inout io [B, C],
        }
        launch { grid: [(B * C).div_ceil(vec * packets)], threads: threads, shared: shared_bytes }
    }
}

packscan_macros::kernel! {
    /// Sums of rows that belong to the sequence of their token, of two tensors of one shape.
    pub kernel Tokens = "sum_rows_tokens" in "kernels/src/sum_rows" from ["forward.cuh"] {
        variant {
            /// Threads that share a column's rows.
            ways: "w" in [1, 2, 4, 8, 16, 32],
            /// Loads that a block makes side by side.
            packets: "p" in 1..=1024,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4],
            /// Type of the sums as stored; parts and sums are f32.
            io: dtype in [F32, F16, Bf16],
        }
        derived {
            threads = packets * ways,
            shared_bytes = if ways > 1 { 4 * threads * vec } else { 0 },
            // The text is that of `Forward`; these sums are written.
            add = 0,
        }
        rules {
            threads.is_multiple_of(32), packets: "a block has whole warps, so packets * ways is a multiple of 32", "take {}", packets.next_multiple_of(32 / ways);
            threads <= 1024, packets: "a block has at most 1024 threads, packets * ways", "take {}", 1024 / ways;
        }
        dims {
            /// Rows of a token.
            rows: "R",
            /// Columns.
            columns: "C",
        }
        tensors {
            /// What is summed.
            first_parts: in f32 [T, R, C],
            /// And of the second tensor.
            second_parts: in f32 [T, R, C],
            /// The sums.
            first: out io [T, C] strided by vec,
            /// And of the second tensor.
            second: out io [T, C] strided by vec,
        }
        launch { grid: [(T * C).div_ceil(vec * packets), 2], threads: threads, shared: shared_bytes }
    }
}

/// The sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Groups of rows, B: 1 for the gradient of one parameter.
    pub groups: usize,
    /// Rows of a group, R.
    pub rows: usize,
    /// Columns, C.
    pub columns: usize,
}

/// A hand-picked variant: as many threads share a column as fill a GPU when there are few columns.
pub fn default_variant(sizes: &Sizes, io: Dtype, add: bool) -> Forward {
    let Mapping { ways, packets, vec } = mapping(sizes);
    Forward { ways, packets, vec, io, add }
}

/// A hand-picked variant for rows of tokens; `columns` as [`Sizes`]. Its ways are always as many, so that the sum of a token's rows has one order,
/// however many tokens there are.
pub fn default_token_variant(columns: usize, vec: u32, io: Dtype) -> Tokens {
    let vec = if columns.is_multiple_of(vec as usize) { vec.min(4) } else { 1 };
    Tokens { ways: TOKEN_WAYS, packets: THREADS / TOKEN_WAYS, vec, io }
}

struct Mapping {
    ways: u32,
    packets: u32,
    vec: u32,
}

/// Threads that share a column of a token's rows: with one, few tokens leave a GPU waiting for chains of loads.
const TOKEN_WAYS: u32 = 4;
/// Threads of a block.
const THREADS: u32 = 256;
/// Columns, all groups together, that occupy a large GPU with one thread each.
const MANY: usize = 1 << 18;

fn mapping(sizes: &Sizes) -> Mapping {
    let sums = (sizes.groups * sizes.columns).max(1);
    let few_rows = sizes.rows.div_ceil(4).next_power_of_two();
    let ways = MANY.div_ceil(sums).next_power_of_two().min(few_rows).clamp(1, 32) as u32;
    let vec = [4, 2, 1].into_iter().find(|&vec| sizes.columns.is_multiple_of(vec as usize)).unwrap_or(1);
    // Narrow loads where wide ones would leave most of the GPU idle.
    let vec = if sums * ways as usize / vec as usize >= MANY / 8 { vec } else { 1 };
    Mapping { ways, packets: THREADS / ways, vec }
}

/// Sums the rows of `parts (B, R, C)` f32 into `out (B, C)` io, both contiguous, on the device of `packed`.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    sizes: &Sizes,
    parts: View<'_>,
    out: View<'_>,
) -> Result<Launched> {
    if !sizes.columns.is_multiple_of(variant.vec as usize) {
        return Err(Error::Tensor {
            id: variant.to_string(),
            tensor: "out",
            shape: Forward::SPEC.tensors[1].shape,
            got: format!("its rows have {} columns", sizes.columns),
            rule: format!("this variant moves {} at a time; take one with a smaller vec", variant.vec),
        });
    }
    let Sizes { groups, rows, columns } = *sizes;
    let args = ForwardArgs { groups, rows, columns, parts, out };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}

/// Sums the rows of each token of two tensors, `parts (T, R, C)` f32 each, into `out (T, C)` io.
///
/// # Errors
/// As [`forward`].
pub fn tokens(
    packed: &DevicePacked,
    variant: &Tokens,
    rows: usize,
    columns: usize,
    parts: [View<'_>; 2],
    out: [View<'_>; 2],
) -> Result<Launched> {
    let ([first_parts, second_parts], [first, second]) = (parts, out);
    let args = TokensArgs { rows, columns, first_parts, second_parts, first, second };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::tokens(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
