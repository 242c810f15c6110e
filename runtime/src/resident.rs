//! How much memory a run takes, and how much there is.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Device, Result};

impl Device {
    /// The most memory in use so far: on a GPU that of all buffers there, elsewhere what this process was found to have in memory whenever
    /// this was asked, its threads among it. Pages of files are not: of a mapped checkpoint or its own code the system takes them back as
    /// soon as it needs the room. `None` where the system does not tell: outside Linux.
    pub fn most_memory_bytes(&self) -> Option<u64> {
        match self {
            Device::Cuda(_) => Some(self.peak_bytes() as u64),
            Device::Emulator(_) | Device::Cpu => {
                // The system's own highest mark, VmHWM, has pages of files in it.
                static MOST: AtomicU64 = AtomicU64::new(0);
                let now = row(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")?;
                Some(MOST.fetch_max(now, Ordering::Relaxed).max(now))
            }
        }
    }

    /// Memory that is still free: of a GPU, elsewhere of this machine, where nothing else has to make room for it. `None` where the system
    /// does not tell: outside Linux.
    ///
    /// # Errors
    /// Where a GPU does not answer.
    pub fn free_memory_bytes(&self) -> Result<Option<u64>> {
        Ok(match self {
            Device::Cuda(cuda) => Some(cuda.memory()?.0),
            Device::Emulator(_) | Device::Cpu => {
                fs::read_to_string("/proc/meminfo").ok().and_then(|table| row(&table, "MemAvailable:"))
            }
        })
    }
}

/// A row of a table that Linux tells of memory.
fn row(table: &str, name: &str) -> Option<u64> {
    let number = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = number.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let status = "Name:\tpackscan\nVmPeak:\t  90 kB\nRssAnon:\t   33576 kB\nVmRSS:\t 2 kB\n";
        assert_eq!(row(status, "RssAnon:"), Some(33576 << 10));
        assert_eq!(row("Name:\tpackscan\n", "RssAnon:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_written_to_counts() {
        let before = Device::Cpu.most_memory_bytes().unwrap();
        let pages = vec![1u8; 2 * before as usize];
        assert!(Device::Cpu.most_memory_bytes().unwrap() >= 2 * before, "{}", std::hint::black_box(pages).len());
        assert!(Device::Cpu.free_memory_bytes().unwrap().is_some_and(|free| free > 1 << 20));
    }
}
