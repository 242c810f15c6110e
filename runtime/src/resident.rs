//! How much memory a run takes.

use std::fs;

use crate::Device;

impl Device {
    /// The most memory in use so far: on a GPU that of all buffers there, elsewhere what this process had in memory at once, its code,
    /// threads and mapped files among it. `None` where the system does not tell: outside Linux.
    pub fn most_memory_bytes(&self) -> Option<u64> {
        match self {
            Device::Cuda(_) => Some(self.peak_bytes() as u64),
            Device::Emulator(_) | Device::Cpu => resident(&fs::read_to_string("/proc/self/status").ok()?),
        }
    }
}

/// The high-water mark in a `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = mark.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read() {
        assert_eq!(
            resident("Name:\tpackscan\nVmPeak:\t  90 kB\nVmHWM:\t   33576 kB\nVmRSS:\t 2 kB\n"),
            Some(33576 << 10)
        );
        assert_eq!(resident("Name:\tpackscan\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_written_to_counts() {
        let before = Device::Cpu.most_memory_bytes().unwrap();
        let pages = vec![1u8; 2 * before as usize];
        assert!(Device::Cpu.most_memory_bytes().unwrap() >= 2 * before, "{}", std::hint::black_box(pages).len());
    }
}
