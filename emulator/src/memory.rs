//! The emulated device's global memory.

use crate::ir::GLOBAL_BASE;

/// Per byte: somebody has written it.
pub(crate) const WRITTEN: u8 = 1;
/// Per byte, for the launch under way: a view lets it be read.
pub(crate) const READABLE: u8 = 2;
/// Per byte, for the launch under way: a view lets it be written.
pub(crate) const WRITABLE: u8 = 4;
/// Per byte: this launch has written it.
pub(crate) const FRESH: u8 = 8;

/// Bytes around an allocation that nobody may touch.
const FENCE_BYTES: u64 = 4096;

/// Global memory. Addresses are never used twice, so a freed one stays recognisable.
#[derive(Default)]
pub struct Memory {
    /// By ascending base.
    pub(crate) allocations: Vec<Allocation>,
}

pub(crate) struct Allocation {
    pub base: u64,
    pub size: usize,
    pub name: String,
    pub freed: bool,
    pub bytes: Vec<u8>,
    pub state: Vec<u8>,
}

impl Memory {
    /// Memory without an allocation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allocates `bytes` bytes, unwritten, and gives their device address, a multiple of 256. A fence lies before and after.
    /// `name` is how faults call it.
    pub fn allocate(&mut self, bytes: usize, name: &str) -> u64 {
        let end = self.allocations.last().map_or(GLOBAL_BASE, |last| last.base + last.size as u64);
        let base = (end + FENCE_BYTES).next_multiple_of(256);
        self.allocations.push(Allocation {
            base,
            size: bytes,
            name: name.to_owned(),
            freed: false,
            bytes: vec![0xFF; bytes],
            state: vec![0; bytes],
        });
        base
    }

    /// Frees an allocation by its address. From then on any access to it is a fault.
    ///
    /// # Panics
    /// When `address` is not the start of a live allocation.
    pub fn free(&mut self, address: u64) {
        let (index, offset) = self.locate(address, 0);
        assert_eq!(offset, 0, "free of {address:#x}, which is not where an allocation starts");
        let allocation = &mut self.allocations[index];
        allocation.freed = true;
        allocation.bytes = Vec::new();
        allocation.state = Vec::new();
    }

    /// Copies `bytes` from the host; they count as written.
    ///
    /// # Panics
    /// When the range is not inside one live allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        let (index, offset) = self.locate(address, bytes.len());
        let allocation = &mut self.allocations[index];
        allocation.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        allocation.state[offset..offset + bytes.len()].fill(WRITTEN);
    }

    /// Copies bytes to the host. Unwritten ones read as 0xFF, a NaN in every float format.
    ///
    /// # Panics
    /// When the range is not inside one live allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        let (index, offset) = self.locate(address, bytes.len());
        let allocation = &self.allocations[index];
        bytes.copy_from_slice(&allocation.bytes[offset..offset + bytes.len()]);
    }

    /// Makes `bytes` bytes unwritten again.
    ///
    /// # Panics
    /// When the range is not inside one live allocation.
    pub fn unwrite(&mut self, address: u64, bytes: usize) {
        let (index, offset) = self.locate(address, bytes);
        let allocation = &mut self.allocations[index];
        allocation.bytes[offset..offset + bytes].fill(0xFF);
        allocation.state[offset..offset + bytes].fill(0);
    }

    /// The live allocation that holds the range, and the offset in it.
    fn locate(&self, address: u64, bytes: usize) -> (usize, usize) {
        let found = self.find(address).filter(|&index| {
            let allocation = &self.allocations[index];
            !allocation.freed && address + bytes as u64 <= allocation.base + allocation.size as u64
        });
        let index = found.unwrap_or_else(|| panic!("{bytes} bytes at {address:#x} are not inside a live allocation"));
        (index, (address - self.allocations[index].base) as usize)
    }

    /// The allocation, live or freed, that starts last at or before `address`.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        self.allocations.partition_point(|allocation| allocation.base <= address).checked_sub(1)
    }
}
