//! What a launch did, in numbers.

/// The unit that an instruction keeps busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Pipe {
    /// Float add, multiply, fused multiply-add, minimum, maximum, comparison.
    Float,
    /// Integer, logic, moves, selects and integer comparisons.
    Integer,
    /// `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `sin`, `cos`, `tanh`, and the divisions built on them.
    Special,
    /// `cvt`.
    Convert,
    /// `shfl`, `vote`, `match`.
    Shuffle,
    /// Loads from global memory, asynchronous copies included.
    LoadGlobal,
    /// Stores to global memory.
    StoreGlobal,
    /// Atomics, to any memory.
    Atomic,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads and stores of local memory: spills and indexed arrays.
    Local,
    /// Loads of parameters.
    Param,
    /// Branches and exits.
    Control,
    /// Barriers of the block and of the warp.
    Barrier,
    /// f64 arithmetic.
    Double,
    /// Fences and the rest.
    Other,
}

/// Number of pipes.
const PIPES: usize = 15;

/// A number for each pipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByPipe([u64; PIPES]);

impl std::ops::Index<Pipe> for ByPipe {
    type Output = u64;
    fn index(&self, pipe: Pipe) -> &u64 {
        &self.0[pipe as usize]
    }
}

impl ByPipe {
    pub(crate) fn add(&mut self, pipe: Pipe, amount: u64) {
        self.0[pipe as usize] += amount;
    }

    /// Over all pipes.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a launch did. Global numbers leave parameters out; sectors are 32 bytes, as the caches move them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Instructions, one for each warp (or diverged part of one) that ran it.
    pub warp_instructions: ByPipe,
    /// Instructions, one for each thread that ran it.
    pub thread_instructions: ByPipe,
    /// Bytes that threads asked to load from global memory.
    pub global_loaded_bytes: u64,
    /// Bytes that threads asked to store to global memory.
    pub global_stored_bytes: u64,
    /// Warp-wide loads from global memory.
    pub global_load_requests: u64,
    /// Warp-wide stores to global memory.
    pub global_store_requests: u64,
    /// 32-byte sectors that those loads touched, each once a request.
    pub global_load_sectors: u64,
    /// 32-byte sectors that those stores touched, each once a request.
    pub global_store_sectors: u64,
    /// Passes through shared memory.
    pub shared_wavefronts: u64,
    /// Passes beyond the fewest that accesses of their width need.
    pub bank_conflicts: u64,
    /// Times that a warp arrived at a barrier of its block.
    pub barriers: u64,
}

/// Distinct 32-byte sectors that spans of `bytes` at `addresses` touch.
pub(crate) fn sectors(addresses: &[u64], bytes: u64) -> u64 {
    let (mut count, mut last, mut ascending) = (0, None, true);
    for &address in addresses {
        let (first, end) = (address / 32, (address + bytes - 1) / 32);
        match last {
            Some(last) if first < last => {
                ascending = false;
                break;
            }
            Some(last) => count += end - first + (first != last) as u64,
            None => count += end - first + 1,
        }
        last = Some(end);
    }
    if ascending {
        return count;
    }
    let mut all: Vec<u64> = addresses.iter().flat_map(|address| address / 32..=(address + bytes - 1) / 32).collect();
    all.sort_unstable();
    all.dedup();
    all.len() as u64
}

/// Passes that a shared access takes, and the fewest for its width. Accesses of 8 bytes go by half warps, of 16 by quarters; in
/// one pass each of the 32 banks gives one 4-byte word, to any number of lanes. A pass of a wide load serves twice as many lanes
/// where each lane n reads what lane n^1 reads, or each what lane n^2 reads: half of the registers are filled by copies then
/// (NVIDIA's forum, "Unexpected shared memory bank conflict").
pub(crate) fn wavefronts(addresses: &[(usize, u64)], bytes: u64, store: bool) -> (u64, u64) {
    let paired = !store && bytes > 4 && (in_pairs(addresses, 1) || in_pairs(addresses, 2));
    let lanes = match (bytes, paired) {
        (0..=4, _) | (5..=8, true) => 32,
        (5..=8, false) | (_, true) => 16,
        (_, false) => 8,
    };
    let (mut total, mut fewest, mut start) = (0, 0, 0);
    while start < addresses.len() {
        let part = addresses[start].0 / lanes;
        let end =
            addresses[start..].iter().position(|(lane, _)| lane / lanes != part).map_or(addresses.len(), |n| start + n);
        total += passes(&addresses[start..end], bytes);
        fewest += 1;
        start = end;
    }
    (total, fewest)
}

/// Whether lanes whose numbers differ in this bit alone read the same address, where both read at all.
fn in_pairs(addresses: &[(usize, u64)], bit: usize) -> bool {
    addresses.iter().enumerate().all(|(i, &(lane, address))| {
        let mut near = addresses[i..].iter().take(bit + 1);
        near.all(|&(other, theirs)| other != lane ^ bit || theirs == address)
    })
}

fn passes(addresses: &[(usize, u64)], bytes: u64) -> u64 {
    let mut seen = [u64::MAX; 32];
    let alone = addresses.iter().all(|&(_, address)| {
        (address / 4..=(address + bytes - 1) / 4).all(|word| {
            let slot = &mut seen[(word % 32) as usize];
            let free = *slot == u64::MAX || *slot == word;
            *slot = word;
            free
        })
    });
    if alone {
        return 1;
    }
    let mut words = [[u64::MAX; 32]; 32];
    let mut depth = [0usize; 32];
    for &(_, address) in addresses {
        for word in address / 4..=(address + bytes - 1) / 4 {
            let bank = (word % 32) as usize;
            if depth[bank] < 32 && !words[bank][..depth[bank]].contains(&word) {
                words[bank][depth[bank]] = word;
                depth[bank] += 1;
            }
        }
    }
    depth.into_iter().max().unwrap_or(1).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of a load and of a store of `bytes` where lane n touches element `of(n)`.
    fn passes_of(bytes: u64, of: impl Fn(u64) -> u64) -> [(u64, u64); 2] {
        let addresses: Vec<(usize, u64)> = (0..32).map(|lane| (lane, bytes * of(lane as u64))).collect();
        [false, true].map(|store| wavefronts(&addresses, bytes, store))
    }

    #[test]
    fn wide_accesses_go_by_parts_of_a_warp() {
        assert_eq!(passes_of(4, |n| n), [(1, 1); 2]);
        assert_eq!(passes_of(8, |n| n), [(2, 2); 2]);
        assert_eq!(passes_of(16, |n| n), [(4, 4); 2]);
        assert_eq!(passes_of(4, |n| 2 * n), [(2, 1); 2], "every second bank");
        assert_eq!(passes_of(8, |n| 2 * n), [(4, 2); 2]);
    }

    #[test]
    fn pairs_of_lanes_that_read_the_same_go_together() {
        assert_eq!(passes_of(16, |_| 0), [(2, 2), (4, 4)], "a load by all, and a store");
        assert_eq!(passes_of(16, |n| n / 2)[0], (2, 2), "n and n^1");
        assert_eq!(passes_of(16, |n| n % 2)[0], (2, 2), "n and n^2");
        assert_eq!(passes_of(16, |n| n % 4)[0], (4, 4), "n and n^4 are no such pair");
        assert_eq!(passes_of(8, |n| n / 2)[0], (1, 1));
        assert_eq!(passes_of(8, |n| 32 * (n / 2))[0], (16, 1), "all in the same banks");
    }

    #[test]
    fn lanes_that_do_not_read_break_no_pair() {
        let addresses = [(0, 0), (2, 16), (3, 16), (5, 32), (8, 48), (9, 48)];
        assert_eq!(wavefronts(&addresses, 16, false), (1, 1));
        assert_eq!(wavefronts(&[(0, 0), (1, 16), (2, 32), (8, 48)], 16, false), (2, 2));
    }
}
