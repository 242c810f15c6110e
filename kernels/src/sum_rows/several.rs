//! Sums that operators leave to be made, and several of them in one launch.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Device, DevicePacked, Error, Result, View};

use super::{Sizes, cpu, mapping};

packscan_macros::kernel! {
    /// Sums of rows that belong to nobody, each with rows and columns of its own.
    pub kernel Several = "sum_rows_several" in "kernels/src/sum_rows" from ["several.cuh"] {
        variant {
            /// Threads of a block.
            block: "b" in [32, 64, 128, 256, 512, 1024],
            /// Neighbouring columns that one load moves.
            vec: "v" in [1, 2, 4],
            /// Add to what the outputs hold.
            add: flag "add",
        }
        derived {
            threads = block,
            shared_bytes = 4 * threads * vec,
        }
        rules {}
        dims {
            /// Rows of the first sum.
            rows0: "R0",
            /// Its columns.
            columns0: "C0",
            /// Threads that share a column's rows.
            ways0: "W0",
            /// Rows of the second sum.
            rows1: "R1",
            /// Its columns.
            columns1: "C1",
            /// Threads that share a column's rows.
            ways1: "W1",
            /// Rows of the third sum.
            rows2: "R2",
            /// Its columns.
            columns2: "C2",
            /// Threads that share a column's rows.
            ways2: "W2",
            /// Rows of the fourth sum.
            rows3: "R3",
            /// Its columns.
            columns3: "C3",
            /// Threads that share a column's rows.
            ways3: "W3",
            /// Rows of the fifth sum.
            rows4: "R4",
            /// Its columns.
            columns4: "C4",
            /// Threads that share a column's rows.
            ways4: "W4",
            /// Rows of the sixth sum.
            rows5: "R5",
            /// Its columns.
            columns5: "C5",
            /// Threads that share a column's rows.
            ways5: "W5",
        }
        tensors {
            /// What the first sum adds up.
            parts0: in f32 [R0, C0],
            /// What the second adds up.
            parts1: in f32 [R1, C1],
            /// What the third adds up.
            parts2: in f32 [R2, C2],
            /// What the fourth adds up.
            parts3: in f32 [R3, C3],
            /// What the fifth adds up.
            parts4: in f32 [R4, C4],
            /// What the sixth adds up.
            parts5: in f32 [R5, C5],
            /// The first sum; read only by a variant that adds, as are the others.
            out0: inout f32 [C0],
            /// The second sum.
            out1: inout f32 [C1],
            /// The third sum.
            out2: inout f32 [C2],
            /// The fourth sum.
            out3: inout f32 [C3],
            /// The fifth sum.
            out4: inout f32 [C4],
            /// The sixth sum.
            out5: inout f32 [C5],
        }
        launch {
            grid: [(C0 * W0).div_ceil(vec * block) + (C1 * W1).div_ceil(vec * block) + (C2 * W2).div_ceil(vec * block) + (C3 * W3).div_ceil(vec * block) + (C4 * W4).div_ceil(vec * block) + (C5 * W5).div_ceil(vec * block)],
            threads: threads,
            shared: shared_bytes
        }
    }
}

/// A sum that an operator leaves to be made: `out[c] (+)= sum over r of parts[r, c]`.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    /// What it is the gradient of, for whoever gave room of another size: "da".
    pub name: &'static str,
    /// `(R, C)` f32, contiguous: what is added up.
    pub parts: View<'a>,
    /// R
    pub rows: usize,
    /// C
    pub columns: usize,
    /// `(C)` f32, contiguous: where to.
    pub out: View<'a>,
}

impl Sum<'_> {
    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        Sizes { groups: 1, rows: self.rows, columns: self.columns }
    }
}

/// Sums of one launch, at most.
const MOST: usize = 6;
/// Threads of a block of the hand-picked variant.
const BLOCK: u32 = 256;

/// The hand-picked variant: as wide loads as the columns of all sums allow.
pub fn default_several(sums: &[Sum<'_>], add: bool) -> Several {
    let fits = |vec: u32| sums.iter().all(|sum| sum.columns.is_multiple_of(vec as usize));
    Several { block: BLOCK, vec: [4, 2].into_iter().find(|&vec| fits(vec)).unwrap_or(1), add }
}

/// Makes up to six sums in one launch of the hand-picked variant, added to what is there or written over it.
///
/// # Errors
/// As [`several`].
pub fn all(packed: &DevicePacked, sums: &[Sum<'_>], add: bool) -> Result<Launched> {
    several(packed, &default_several(sums, add), sums)
}

/// Makes up to six sums in one launch, with the bits that each has from [`super::forward`] in its hand-picked variant.
///
/// # Errors
/// [`Error::Argument`] for more sums, [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn several(packed: &DevicePacked, variant: &Several, sums: &[Sum<'_>]) -> Result<Launched> {
    let Some(&first) = sums.first() else { return Ok(Launched::default()) };
    if sums.len() > MOST {
        let (got, rule) =
            (sums.len().to_string(), format!("one launch makes {MOST} at most; make the others in another"));
        return Err(Error::Argument { argument: "sums", got, rule });
    }
    if let Some(sum) = sums.iter().find(|sum| !sum.columns.is_multiple_of(variant.vec as usize)) {
        return Err(Error::Tensor {
            id: variant.to_string(),
            tensor: sum.name,
            shape: "[C]",
            got: format!("it has {} columns", sum.columns),
            rule: format!("this variant moves {} at a time; take one with a smaller vec", variant.vec),
        });
    }
    if let Some(sum) = sums.iter().find(|sum| sum.out.len() != sum.columns) {
        return Err(Error::Tensor {
            id: variant.to_string(),
            tensor: sum.name,
            shape: "[C]",
            got: format!("it has {} numbers", sum.out.len()),
            rule: format!("its sum has {}", sum.columns),
        });
    }
    let nothing =
        Sum { name: "", parts: first.parts.rows_at(0, 0)?, rows: 0, columns: 0, out: first.out.rows_at(0, 0)? };
    let at = |i: usize| sums.get(i).copied().unwrap_or(nothing);
    let ways = |i: usize| mapping(&at(i).sizes()).ways as usize;
    let columns = |i: usize| at(i).columns;
    let args = SeveralArgs {
        rows0: at(0).rows,
        columns0: columns(0),
        ways0: ways(0),
        rows1: at(1).rows,
        columns1: columns(1),
        ways1: ways(1),
        rows2: at(2).rows,
        columns2: columns(2),
        ways2: ways(2),
        rows3: at(3).rows,
        columns3: columns(3),
        ways3: ways(3),
        rows4: at(4).rows,
        columns4: columns(4),
        ways4: ways(4),
        rows5: at(5).rows,
        columns5: columns(5),
        ways5: ways(5),
        parts0: at(0).parts,
        parts1: at(1).parts,
        parts2: at(2).parts,
        parts3: at(3).parts,
        parts4: at(4).parts,
        parts5: at(5).parts,
        out0: at(0).out,
        out1: at(1).out,
        out2: at(2).out,
        out3: at(3).out,
        out4: at(4).out,
        out5: at(5).out,
    };
    match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            sums.iter().for_each(|sum| cpu::several(variant, sum));
            Ok(Launched::default())
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args),
    }
}
