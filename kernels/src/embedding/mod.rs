//! The embedding: a row of a table for each token, and the gradient of the table without float atomics.
//!
//! ```text
//! out[t]    = table[ids[t]]
//! dtable[v] += sum over the t with ids[t] = v, in order, of dout[t]
//! ```
//!
//! Ids are checked where they enter, on the host: [`Ids`] is the only way in. To the kernels they are *structure*, like the boundaries of
//! sequences: an address depends on them, and must. That declares away the emulator's complaint about addresses that depend on
//! data, and nothing else: the rows that are moved keep their owners, and the isolation suite replaces ids like any other data.

pub mod cpu;
mod faults;
mod ids;

use packscan_runtime::kernel::broken;
use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Dtype, Result, View};

pub use faults::faults;
pub use ids::{ById, Ids};

packscan_macros::kernel! {
    /// A row of the table for each token.
    pub kernel Forward = "embedding_fwd" in "kernels/src/embedding" from ["forward.cuh"] {
        variant {
            /// Threads that share a row.
            lanes: "s" in 1..=1024,
            /// Rows of a block.
            rows: "r" in 1..=1024,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the table and of the activations.
            io: dtype in [F32, F16, Bf16],
        }
        derived { threads = lanes * rows, }
        rules {
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            threads.is_multiple_of(32), rows: "a block has whole warps, so lanes * rows is a multiple of 32", "take {}", rows.next_multiple_of(32);
            threads <= 1024, rows: "a block has at most 1024 threads, lanes * rows", "take {}", 1024 / lanes;
        }
        dims {
            /// Entries of the vocabulary, V.
            vocabulary: "V",
            /// Model width, M.
            width: "M",
        }
        tensors {
            /// A row for each id.
            table: in io [V, M] strided by vec,
            /// The id of each token.
            ids: structure u32 [T],
            /// The rows of the ids.
            out: out io [T, M] strided by vec,
        }
        launch { grid: [T.div_ceil(rows)], threads: threads }
    }
}

packscan_macros::kernel! {
    /// The gradient of the table.
    pub kernel Backward = "embedding_bwd" in "kernels/src/embedding" from ["backward.cuh"] {
        variant {
            /// Threads of a block: loads that it makes side by side.
            packets: "p" in 32..=1024,
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations; the gradient of the table is f32.
            io: dtype in [F32, F16, Bf16],
        }
        rules {
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            packets.is_multiple_of(32), packets: "a block has whole warps", "take {}", packets.next_multiple_of(32);
        }
        dims {
            /// Entries of the vocabulary, V.
            vocabulary: "V",
            /// Model width, M.
            width: "M",
            /// Ids that occur.
            distinct: "U",
        }
        tensors {
            /// Gradient of the rows.
            dout: in io [T, M] strided by vec,
            /// The ids that occur, most frequent first.
            distinct_ids: structure u32 [U],
            /// Where the tokens of each of them begin in `order`.
            starts: structure u32 [U + 1],
            /// The tokens, those of one id side by side and in order.
            order: structure u32 [T],
            /// Gradient of the table.
            dtable: inout f32 [V, M] strided by vec,
        }
        launch { grid: [U, M.div_ceil(packets * vec)], threads: packets }
    }
}

/// The hand-picked variant of the forward pass.
pub fn default_variant(width: usize, io: Dtype) -> Forward {
    let vec = vec_for(width, io);
    let lanes = (width / vec as usize).next_power_of_two().clamp(1, 128) as u32;
    Forward { lanes, rows: 256 / lanes, vec, io }
}

/// The hand-picked variant of the backward pass.
pub fn default_backward(width: usize, io: Dtype) -> Backward {
    let vec = vec_for(width, io).min(4);
    Backward { packets: (width / vec as usize).next_multiple_of(32).clamp(32, 128) as u32, vec, io }
}

/// Every variant of the forward pass worth timing.
pub fn variants(width: usize, io: Dtype) -> Vec<Forward> {
    let mut out = Vec::new();
    for vec in [1, 2, 4, 8].into_iter().filter(|&vec| width.is_multiple_of(vec as usize)) {
        for lanes in [32, 64, 128, 256].into_iter().filter(|lanes| width.div_ceil(vec as usize) * 2 > *lanes as usize) {
            out.extend([128, 256, 512].map(|threads: u32| Forward { lanes, rows: (threads / lanes).max(1), vec, io }));
        }
    }
    out.retain(|variant| broken(variant).is_empty());
    out.dedup();
    out
}

/// Every variant of the backward pass worth timing.
pub fn backward_variants(width: usize, io: Dtype) -> Vec<Backward> {
    let of = |vec| [32, 64, 128, 256, 512].map(|packets| Backward { packets, vec, io });
    let mut out: Vec<Backward> = [1, 2, 4, 8].into_iter().flat_map(of).collect();
    let wasteful = |v: &Backward| v.packets > 32 && (v.packets * v.vec) as usize >= 2 * width;
    out.retain(|v| width.is_multiple_of(v.vec as usize) && !wasteful(v) && broken(v).is_empty());
    out
}

/// The widest loads that rows of this length allow.
fn vec_for(width: usize, io: Dtype) -> u32 {
    let most = 16 / io.bytes();
    [8, 4, 2, 1].into_iter().find(|&vec| vec <= most && width.is_multiple_of(vec)).unwrap_or(1) as u32
}

/// Writes to `out (T, M)` io the rows of `table (V, M)` io that the tokens' ids name, on the device of `packed`.
///
/// # Errors
/// [`packscan_runtime::Error::Tensor`] for an argument that does not fit, ids of another number of tokens among them, and whatever
/// launching fails with.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    table: View<'_>,
    ids: &Ids,
    out: View<'_>,
) -> Result<Launched> {
    let (vocabulary, width) = (ids.vocabulary(), table.shape().1);
    let args = ForwardArgs { vocabulary, width, table, ids: ids.view(), out };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::forward(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}

/// Adds to each row of `dtable (V, M)` f32 the rows of `dout (T, M)` io of the tokens with its id, on the device of `packed`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    packed: &DevicePacked,
    variant: &Backward,
    dout: View<'_>,
    ids: &ById,
    dtable: View<'_>,
) -> Result<Launched> {
    let args = BackwardArgs {
        vocabulary: ids.vocabulary(),
        width: dtable.shape().1,
        distinct: ids.distinct(),
        dout,
        distinct_ids: ids.distinct_ids(),
        starts: ids.starts(),
        order: ids.order(),
        dtable,
    };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::backward(variant, &args);
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
