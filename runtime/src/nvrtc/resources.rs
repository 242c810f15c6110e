//! What a compiled kernel uses, as `ptxas -v` states it.

/// What one thread or one block of a compiled kernel uses; the largest of each where a text has several kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory because its registers do not suffice.
    pub spill_store_bytes: u32,
    /// Bytes that it reads back.
    pub spill_load_bytes: u32,
    /// Stack of a thread.
    pub stack_bytes: u32,
    /// Shared memory of a block that is declared with a size, without the dynamic part.
    pub shared_bytes: u32,
    /// Constant memory, all banks together; recent compilers do not count the arguments in.
    pub constant_bytes: u32,
}

impl Resources {
    /// Reads the log of a compilation to a cubin; `None` if it does not speak of registers.
    pub(super) fn parse(log: &str) -> Option<Self> {
        let largest = |unit| counts(log, unit).max();
        Some(Resources {
            registers: largest(" registers")?,
            spill_store_bytes: largest(" bytes spill stores").unwrap_or(0),
            spill_load_bytes: largest(" bytes spill loads").unwrap_or(0),
            stack_bytes: largest(" bytes stack frame").unwrap_or(0),
            shared_bytes: largest(" bytes smem").unwrap_or(0),
            constant_bytes: log.lines().map(|line| counts(line, " bytes cmem").sum()).max().unwrap_or(0),
        })
    }
}

/// The numbers that stand right before each `unit`.
fn counts(text: &str, unit: &str) -> impl Iterator<Item = u32> {
    text.match_indices(unit).filter_map(|(at, _)| text[..at].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::Resources;

    #[test]
    fn the_largest_of_several_kernels_counts() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Function properties for first
ptxas         .     16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem, 400 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Function properties for second
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
ptxas info    : Compile time = 12.689 ms";
        let expected = Resources {
            registers: 40,
            spill_store_bytes: 12,
            spill_load_bytes: 8,
            stack_bytes: 16,
            shared_bytes: 4096,
            constant_bytes: 408,
        };
        assert_eq!(Resources::parse(log), Some(expected));
        assert_eq!(Resources::parse(""), None);
    }
}
