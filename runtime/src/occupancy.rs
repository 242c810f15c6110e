//! How many blocks of a kernel fit one multiprocessor, computed without a GPU.
//!
//! The limits are those of the CUDA Programming Guide's table of technical specifications for each compute capability; how
//! registers and shared memory are handed out follows NVIDIA's `cuda_occupancy.h`.

use std::fmt;

use crate::nvrtc::Arch;

/// Threads of a warp.
const WARP: usize = 32;
/// Registers of a multiprocessor, from 7.0 to 12.x.
const REGISTERS: usize = 64 * 1024;
/// Parts of a multiprocessor, each with its own scheduler and its own quarter of the registers.
const PARTS: usize = 4;
/// A warp is given registers in units of this many.
const REGISTER_UNIT: usize = 256;

/// What one multiprocessor of an architecture can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Resident warps.
    pub warps: usize,
    /// Resident blocks.
    pub blocks: usize,
    /// Shared memory, in bytes.
    pub shared_bytes: usize,
    /// Shared memory that the driver keeps of each block, in bytes.
    pub reserved_shared_bytes: usize,
    /// A block is given shared memory in units of this many bytes.
    pub shared_unit_bytes: usize,
}

impl Limits {
    /// Those of an architecture; `None` for one that the table does not list.
    pub fn of(arch: Arch) -> Option<Limits> {
        let (warps, blocks, shared_kib) = match arch.number() {
            70 | 72 => (64, 32, 96),
            75 => (32, 16, 64),
            80 => (64, 32, 164),
            86 => (48, 16, 100),
            87 => (48, 16, 164),
            89 => (48, 24, 100),
            90 | 100 | 103 => (64, 32, 228),
            110 => (48, 24, 228),
            120 | 121 => (48, 24, 100),
            _ => return None,
        };
        let (reserved_shared_bytes, shared_unit_bytes) = if arch.number() < 80 { (0, 256) } else { (1024, 128) };
        Some(Limits { warps, blocks, shared_bytes: shared_kib * 1024, reserved_shared_bytes, shared_unit_bytes })
    }
}

/// What one block of a kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its threads.
    pub threads: usize,
    /// Registers of each thread.
    pub registers: usize,
    /// Its shared memory, with a size declared and dynamic together, in bytes.
    pub shared_bytes: usize,
}

/// What keeps another block from fitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::warps`].
    Warps,
    /// [`Limits::blocks`].
    Blocks,
    /// The registers.
    Registers,
    /// [`Limits::shared_bytes`].
    Shared,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Limit::Warps => "warps",
            Limit::Blocks => "blocks",
            Limit::Registers => "registers",
            Limit::Shared => "shared memory",
        })
    }
}

/// How full a multiprocessor can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Resident blocks; 0 if not even one fits.
    pub blocks: usize,
    /// Resident warps.
    pub warps: usize,
    /// Everything that keeps another block from fitting.
    pub limited_by: Vec<Limit>,
}

/// How many blocks fit one multiprocessor.
pub fn occupancy(limits: &Limits, block: &Block) -> Occupancy {
    let warps = block.threads.div_ceil(WARP).max(1);
    let shared_bytes = (block.shared_bytes + limits.reserved_shared_bytes).next_multiple_of(limits.shared_unit_bytes);
    let fits = [
        (Limit::Warps, limits.warps / warps),
        (Limit::Blocks, limits.blocks),
        (Limit::Registers, blocks_by_registers(block.registers, warps)),
        (Limit::Shared, limits.shared_bytes.checked_div(shared_bytes).unwrap_or(usize::MAX)),
    ];
    let blocks = fits.iter().map(|fit| fit.1).min().unwrap_or(0);
    let limited_by = fits.iter().filter(|fit| fit.1 == blocks).map(|fit| fit.0).collect();
    Occupancy { blocks, warps: blocks * warps, limited_by }
}

/// Each part of a multiprocessor holds whole warps, and a block needs its registers as if its warps filled all parts evenly.
fn blocks_by_registers(registers: usize, warps: usize) -> usize {
    let of_warp = (registers * WARP).next_multiple_of(REGISTER_UNIT);
    if of_warp == 0 {
        return usize::MAX;
    }
    if of_warp * warps.next_multiple_of(PARTS) > REGISTERS {
        return 0;
    }
    REGISTERS / PARTS / of_warp * PARTS / warps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(arch: u32, threads: usize, registers: usize, shared_bytes: usize) -> Occupancy {
        let limits = Limits::of(Arch::new(arch)).expect("a listed architecture");
        occupancy(&limits, &Block { threads, registers, shared_bytes })
    }

    /// Numbers that NVIDIA's occupancy calculator gives.
    #[test]
    fn known_occupancies() {
        let expected = |blocks, warps, limit: &[Limit]| Occupancy { blocks, warps, limited_by: limit.to_vec() };
        assert_eq!(on(90, 256, 32, 0), expected(8, 64, &[Limit::Warps, Limit::Registers]));
        assert_eq!(on(90, 256, 64, 0), expected(4, 32, &[Limit::Registers]));
        assert_eq!(on(90, 256, 65, 0), expected(3, 24, &[Limit::Registers]), "a register more costs a block");
        assert_eq!(on(90, 32, 16, 0), expected(32, 32, &[Limit::Blocks]));
        assert_eq!(on(90, 1024, 64, 0), expected(1, 32, &[Limit::Registers]));
        assert_eq!(on(90, 1024, 65, 0), expected(0, 0, &[Limit::Registers]), "cannot be launched");
        assert_eq!(on(86, 256, 32, 0).warps, 48);
        assert_eq!(on(75, 256, 32, 0), expected(4, 32, &[Limit::Warps]));
        assert_eq!(on(89, 32, 16, 0).blocks, 24);
        assert_eq!(on(120, 64, 16, 0), expected(24, 48, &[Limit::Warps, Limit::Blocks]));
    }

    /// The first sketch of a backward pass: 124 registers, 256 threads, a quarter of the warps of an H200.
    #[test]
    fn measured_on_an_h200() {
        assert_eq!(on(90, 256, 124, 0).warps, 16);
    }

    #[test]
    fn the_driver_keeps_a_kib_of_each_block() {
        assert_eq!(on(90, 128, 16, 113 * 1024).blocks, 2, "2 * (113 + 1) KiB are all 228");
        assert_eq!(on(90, 128, 16, 113 * 1024 + 1).blocks, 1);
        assert_eq!(on(90, 128, 16, 227 * 1024).blocks, 1, "the most that one block may have");
        assert_eq!(on(70, 128, 16, 48 * 1024).blocks, 2, "before 8.0 nothing is kept");
        assert_eq!(on(80, 128, 16, 40 * 1024).limited_by, [Limit::Shared]);
    }

    #[test]
    fn every_listed_architecture_holds_the_largest_block() {
        for arch in [70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121] {
            let arch = Arch::new(arch);
            let limits = Limits::of(arch).unwrap();
            let block = Block { threads: 128, registers: 32, shared_bytes: arch.max_shared_bytes() };
            assert_eq!(occupancy(&limits, &block).blocks, 1, "{arch}");
        }
        assert_eq!(Limits::of(Arch::new(61)), None);
    }
}
