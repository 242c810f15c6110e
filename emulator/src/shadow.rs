//! Data races, byte by byte.
//!
//! Each warp has a clock, a *tick*, that a barrier advances, and knows for every warp of its block up to which tick it has been
//! ordered before. An access leaves its thread and tick behind; a later access by another thread is ordered after it when that tick
//! is below the one known. (This is FastTrack with one clock a warp; lanes of a warp are ordered by the warp's barriers.)
//!
//! Records are kept for each 4-byte word until somebody touches a part of it; from then on that word has four of them.

use crate::warp::lanes;

/// What a thread does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read,
    Write,
    /// An atomic, or another access that the memory model orders: no race against its like.
    Atomic,
}

impl Act {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Act::Read => "read",
            Act::Write => "write",
            Act::Atomic => "atomic",
        }
    }
}

/// One thread's moment.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    pub warp: u8,
    pub lane: u8,
    pub pc: u32,
    pub tick: u32,
    /// First tick of this block: what is older was done by another block.
    pub base: u32,
    /// For each warp: accesses below this tick happened before now.
    pub known: &'a [u32; 32],
    /// `bar.warp.sync` over parts of the warp, as (tick that it ended, mask), since the warp's last full barrier.
    pub partial: &'a [(u32, u32)],
    /// Global memory: accesses by other blocks are never ordered.
    pub global: bool,
}

/// The earlier half of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub warp: u8,
    pub lane: u8,
    pub pc: u32,
    pub tick: u32,
    pub act: Act,
}

#[derive(Clone, Copy, Default)]
struct Writer {
    tick: u32,
    pc: u32,
    warp: u8,
    lane: u8,
    atomic: bool,
}

/// The lanes of one warp that read at one tick.
#[derive(Clone, Copy, Default)]
struct Readers {
    tick: u32,
    pc: u32,
    lanes: u32,
    warp: u8,
}

/// What is remembered of a byte or word. Two groups of readers of different warps are enough: whoever is not ordered after a
/// forgotten third is, under barriers of the whole block, not ordered after one of these either. A reader of an earlier block is
/// kept apart, as no barrier ever orders it.
#[derive(Clone, Copy, Default)]
struct Cell {
    writer: Writer,
    readers: [Readers; 2],
    elder: Readers,
}

const PAGE_WORDS: usize = 256;

struct Page {
    words: [Cell; PAGE_WORDS],
    split: [u64; PAGE_WORDS / 64],
    bytes: Vec<[Cell; 4]>,
}

/// The records of one allocation or of shared memory.
#[derive(Default)]
pub(crate) struct Shadow {
    pages: Vec<Option<Box<Page>>>,
}

impl Shadow {
    /// Records and checks an access; gives the offset of the byte and the earlier access if the two race.
    #[inline]
    pub fn access(&mut self, offset: usize, bytes: usize, act: Act, who: &Who) -> Option<(usize, Conflict)> {
        let mut at = offset;
        while at < offset + bytes {
            let word = at / 4;
            let end = (word * 4 + 4).min(offset + bytes);
            let conflict = self.word(word, at % 4, end - at, act, who);
            if let Some((byte, conflict)) = conflict {
                return Some((word * 4 + byte, conflict));
            }
            at = end;
        }
        None
    }

    #[inline]
    fn word(&mut self, word: usize, first: usize, count: usize, act: Act, who: &Who) -> Option<(usize, Conflict)> {
        let page = self.page(word / PAGE_WORDS);
        let index = word % PAGE_WORDS;
        let split = page.split[index / 64] >> (index % 64) & 1 == 1;
        if count == 4 && !split {
            return page.words[index].access(act, who).map(|conflict| (0, conflict));
        }
        if page.bytes.is_empty() {
            page.bytes = vec![[Cell::default(); 4]; PAGE_WORDS];
        }
        if !split {
            page.split[index / 64] |= 1 << (index % 64);
            page.bytes[index] = [page.words[index]; 4];
        }
        (first..first + count)
            .find_map(|byte| page.bytes[index][byte].access(act, who).map(|conflict| (byte, conflict)))
    }

    #[inline]
    fn page(&mut self, number: usize) -> &mut Page {
        if self.pages.len() <= number {
            self.pages.resize_with(number + 1, || None);
        }
        self.pages[number].get_or_insert_with(|| {
            Box::new(Page { words: [Cell::default(); PAGE_WORDS], split: [0; PAGE_WORDS / 64], bytes: Vec::new() })
        })
    }
}

impl Who<'_> {
    /// Whether an access by `lane` of `warp` at `tick` happened before now (or is this thread's own).
    #[inline]
    fn after(&self, tick: u32, warp: u8, lane: u8) -> bool {
        if tick < self.base {
            return tick == 0 || !self.global;
        }
        if tick < self.known[warp as usize] {
            return true;
        }
        warp == self.warp && (lane == self.lane || self.reached(tick, lane))
    }

    /// Whether partial barriers of the warp lead from `lane` at `tick` to this lane now.
    fn reached(&self, tick: u32, lane: u8) -> bool {
        let mut lanes = 1u32 << lane;
        for &(ended, mask) in self.partial {
            if ended > tick && mask & lanes != 0 {
                lanes |= mask;
            }
        }
        lanes >> self.lane & 1 == 1
    }
}

impl Cell {
    #[inline]
    fn access(&mut self, act: Act, who: &Who) -> Option<Conflict> {
        let writer = self.writer;
        if writer.tick != 0
            && !(writer.atomic && act == Act::Atomic)
            && !who.after(writer.tick, writer.warp, writer.lane)
        {
            let Writer { tick, pc, warp, lane, atomic } = writer;
            return Some(Conflict { warp, lane, pc, tick, act: if atomic { Act::Atomic } else { Act::Write } });
        }
        if act == Act::Read {
            self.read(who);
            return None;
        }
        for readers in [&self.readers[0], &self.readers[1], &self.elder] {
            if readers.tick != 0
                && let Some(conflict) = readers.conflict(who)
            {
                return Some(conflict);
            }
        }
        (self.readers, self.elder) = Default::default();
        self.writer = Writer { tick: who.tick, pc: who.pc, warp: who.warp, lane: who.lane, atomic: act == Act::Atomic };
        None
    }

    #[inline]
    fn read(&mut self, who: &Who) {
        let fresh = Readers { tick: who.tick, pc: who.pc, lanes: 1 << who.lane, warp: who.warp };
        for readers in &mut self.readers {
            if readers.tick == who.tick && readers.warp == who.warp {
                readers.lanes |= fresh.lanes;
                return;
            }
            if readers.tick != 0 && readers.tick < who.base {
                self.elder = std::mem::take(readers);
            }
        }
        // Readers that this read is ordered after need no record of their own.
        let [first, second] = &self.readers;
        let slot = if first.tick == 0 || first.conflict(who).is_none() {
            0
        } else if second.tick == 0 || second.conflict(who).is_none() || second.warp == who.warp {
            1
        } else {
            0
        };
        self.readers[slot] = fresh;
    }
}

impl Readers {
    /// The first of these readers that does not happen before now.
    #[inline]
    fn conflict(&self, who: &Who) -> Option<Conflict> {
        let earlier_block = self.tick < who.base;
        if (earlier_block && !who.global) || (!earlier_block && self.tick < who.known[self.warp as usize]) {
            return None;
        }
        lanes(self.lanes)
            .map(|lane| lane as u8)
            .find(|&lane| !who.after(self.tick, self.warp, lane))
            .map(|lane| Conflict { warp: self.warp, lane, pc: self.pc, tick: self.tick, act: Act::Read })
    }
}
