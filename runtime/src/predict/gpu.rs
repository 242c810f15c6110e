//! The GPUs for which costs are predicted.

use crate::nvrtc::Arch;
use crate::{Error, Result};

/// One GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// As the command line takes it.
    pub name: &'static str,
    /// As its maker calls it.
    pub title: &'static str,
    /// Architecture.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Clock under load, in GHz.
    pub clock_ghz: f64,
    /// Bytes that a copy reads and writes, in TB/s.
    pub memory_tb_s: f64,
    /// What a multiprocessor does in one clock.
    pub rates: Rates,
}

/// What one multiprocessor does in one clock: results of lanes for arithmetic, as the table "Throughput of Native Arithmetic
/// Instructions" of the CUDA C++ Programming Guide has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Instructions of warps, of any kind: one for each scheduler.
    pub issue: f64,
    /// Additions, multiplications, fused ones of f32.
    pub float: f64,
    /// Integer additions, logic, selects.
    pub integer: f64,
    /// Exponentials, reciprocals and the like.
    pub special: f64,
    /// Conversions between f32 and 16-bit types.
    pub convert: f64,
    /// Shuffles, which take the way to shared memory.
    pub shuffle: f64,
    /// Passes through the 32 banks of shared memory.
    pub wavefronts: f64,
    /// 32-byte sectors between a multiprocessor and the L2.
    pub sectors: f64,
}

/// Compute capabilities 8.9 and 9.0.
const RATES: Rates = Rates {
    issue: 4.0,
    float: 128.0,
    integer: 64.0,
    special: 16.0,
    convert: 64.0,
    shuffle: 32.0,
    wavefronts: 1.0,
    sectors: 2.0,
};

/// The GPUs that are known. A copy on an H200 was measured to reach 0.89 of the bandwidth in its data sheet; the others' bandwidth is that
/// share of theirs, since none was at hand.
pub const GPUS: [Gpu; 3] = [
    Gpu {
        name: "h200",
        title: "NVIDIA H200",
        arch: Arch::new(90),
        multiprocessors: 132,
        clock_ghz: 1.98,
        memory_tb_s: 4.28,
        rates: RATES,
    },
    Gpu {
        name: "a100",
        title: "NVIDIA A100 80GB",
        arch: Arch::new(80),
        multiprocessors: 108,
        clock_ghz: 1.41,
        memory_tb_s: 1.81,
        rates: Rates { float: 64.0, ..RATES },
    },
    Gpu {
        name: "rtx4090",
        title: "NVIDIA GeForce RTX 4090",
        arch: Arch::new(89),
        multiprocessors: 128,
        clock_ghz: 2.52,
        memory_tb_s: 0.90,
        rates: RATES,
    },
];

impl Gpu {
    /// The GPU with this name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the names that there are.
    pub fn named(name: &str) -> Result<&'static Gpu> {
        let known = || GPUS.map(|gpu| gpu.name).join(", ");
        let unknown = || Error::Unknown { what: "GPU", got: name.to_owned(), known: known() };
        GPUS.iter().find(|gpu| gpu.name == name).ok_or_else(unknown)
    }
}
