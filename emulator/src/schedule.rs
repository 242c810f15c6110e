//! Who runs next: blocks, warps, and the groups of a warp.
//!
//! Blocks run one after another, in an order that the seed shuffles: any conflicting pair of accesses by two blocks is a race
//! whatever the order, so nothing is lost. (A block that spins until a later one writes never ends; the limit catches it.)
//! Within a block, seed 0 runs each warp until it waits. Any other seed switches warps after random numbers of instructions, and
//! now and then splits a converged warp into groups of lanes that run on their own for a while. Diverged groups run the one that
//! stands earliest first, so that they meet again where their paths do.

use crate::fault::Fault;
use crate::machine::{Caught, Machine};
use crate::warp::{Group, Wait, Warp, lanes};

/// SplitMix64.
pub(crate) struct Random {
    state: u64,
    /// Whether the schedule is random at all.
    active: bool,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Random { state: seed, active: seed != 0 }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Steps after which another warp has its turn even in plain order, so that one that spins does not starve the rest.
const PATIENCE: usize = 1 << 14;

impl Machine<'_> {
    /// Runs every block of the grid.
    pub fn run_grid(&mut self) -> Caught<()> {
        let [x, y, z] = self.launch.grid.map(u64::from);
        let mut order: Vec<u64> = Vec::new();
        if self.random.active {
            order.extend(0..x * y * z);
            for i in (1..order.len()).rev() {
                let j = self.random.below(i + 1);
                order.swap(i, j);
            }
        }
        let warps = self.position.threads().div_ceil(32);
        let mut warps: Vec<Warp> = (0..warps).map(|index| Warp::new(self.kernel, index as u8, self.tracking)).collect();
        for place in 0..x * y * z {
            let number = order.get(place as usize).copied().unwrap_or(place);
            self.position.block = [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32];
            self.bases.push((self.base, self.position.block));
            self.shared_written.fill(0);
            self.barriers = Default::default();
            for warp in &mut warps {
                warp.start(self.kernel, &self.position, self.base);
            }
            self.run_block(&mut warps)?;
            self.base = warps.iter().map(|warp| warp.tick).max().unwrap_or(self.base) + 1;
        }
        Ok(())
    }

    fn run_block(&mut self, warps: &mut [Warp]) -> Caught<()> {
        loop {
            let before = self.executed;
            if self.random.active {
                for _ in 0..warps.len() {
                    let at = self.random.below(warps.len());
                    let steps = 1 + self.random.below(200);
                    self.run_warp(&mut warps[at], steps)?;
                    self.release(warps);
                }
            }
            // Once around for everybody, so that a round without a step means that nobody can take one.
            if !self.random.active || self.executed == before {
                for warp in warps.iter_mut() {
                    self.run_warp(warp, PATIENCE)?;
                }
                self.release(warps);
            }
            if self.executed == before
                && !warps.iter().any(|warp| warp.groups.iter().any(|group| group.wait == Wait::No))
            {
                return match warps.iter().find(|warp| !warp.groups.is_empty()) {
                    Some(_) => Err(self.stuck(warps)),
                    None => Ok(()),
                };
            }
        }
    }

    fn run_warp(&mut self, warp: &mut Warp, steps: usize) -> Caught<()> {
        for _ in 0..steps {
            let Some(at) = self.pick(warp) else { return Ok(()) };
            self.executed += 1;
            if self.executed > self.launch.instruction_limit {
                let Group { mask, pc, .. } = warp.groups[at];
                let site = self.site(warp, pc, mask.trailing_zeros() as usize);
                return Err(Box::new(Fault::InstructionLimit { site, limit: self.launch.instruction_limit }));
            }
            self.step(warp, at)?;
        }
        Ok(())
    }

    /// The group of the warp that runs next.
    #[inline]
    fn pick(&mut self, warp: &mut Warp) -> Option<usize> {
        if warp.groups.len() == 1 {
            if warp.groups[0].wait != Wait::No {
                return None;
            }
            if self.random.active && self.random.next().is_multiple_of(256) {
                self.split(warp);
            }
            return Some(0);
        }
        if warp.apart > 0 {
            warp.apart -= 1;
            let ready: Vec<usize> = (0..warp.groups.len()).filter(|&at| warp.groups[at].wait == Wait::No).collect();
            if !ready.is_empty() {
                return Some(ready[self.random.below(ready.len())]);
            }
        }
        warp.join_groups();
        let ready = |at: &usize| warp.groups[*at].wait == Wait::No;
        // Now and then another than the earliest has its turn: it may be the one for which the earliest spins.
        if self.executed.is_multiple_of(1024) {
            return (0..warp.groups.len()).filter(ready).max_by_key(|&at| warp.groups[at].pc);
        }
        (0..warp.groups.len()).filter(ready).min_by_key(|&at| warp.groups[at].pc)
    }

    fn split(&mut self, warp: &mut Warp) {
        let Group { mask, pc, wait } = warp.groups[0];
        let chosen = mask & self.random.next() as u32;
        if chosen != 0 && chosen != mask {
            warp.groups[0].mask = chosen;
            warp.groups.push(Group { mask: mask & !chosen, pc, wait });
            warp.apart = 1 + self.random.below(64) as u32;
        }
    }

    /// Nobody can run, and somebody waits: who, and for whom?
    fn stuck(&self, warps: &[Warp]) -> Box<Fault> {
        let waiting = |wanted: fn(Wait) -> bool| {
            warps.iter().find_map(|warp| Some((warp, *warp.groups.iter().find(|group| wanted(group.wait))?)))
        };
        let (warp, group) = match waiting(|wait| matches!(wait, Wait::Lanes(_))).or_else(|| waiting(|_| true)) {
            Some(found) => found,
            None => unreachable!("the block is stuck, so somebody waits"),
        };
        let site = self.site(warp, group.pc, group.mask.trailing_zeros() as usize);
        let reason = match group.wait {
            Wait::Lanes(named) => {
                let absent = named & warp.live & !group.mask;
                let who = lanes(absent).next().map_or(String::new(), |lane| self.whereabouts(warp, lane));
                format!(
                    "lanes {:#010x} wait here for lanes {named:#010x}, of which {absent:#010x} do not arrive; {who}",
                    group.mask
                )
            }
            Wait::Block(id) => {
                let state = &self.barriers[id as usize];
                let absent = warps.iter().find_map(|warp| {
                    let at_it = |group: &&Group| group.wait == Wait::Block(id);
                    let here = warp
                        .groups
                        .iter()
                        .filter(at_it)
                        .filter(|other| other.pc == group.pc)
                        .fold(0, |all, group| all | group.mask);
                    let existing = self.lanes_of(warp);
                    lanes(existing & !here).next().map(|lane| self.whereabouts(warp, lane))
                });
                let who = absent.unwrap_or_else(|| format!("it expects {} threads", state.expected));
                format!("threads wait at barrier {id} for others that do not arrive; {who}")
            }
            Wait::No => "no thread can run".to_owned(),
        };
        Box::new(Fault::Divergent { site, reason })
    }

    /// Lanes of a warp that existed when the block began.
    fn lanes_of(&self, warp: &Warp) -> u32 {
        let lanes = (self.position.threads() - warp.index as u32 * 32).min(32);
        if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 }
    }

    /// What a thread is doing, in words.
    fn whereabouts(&self, warp: &Warp, lane: usize) -> String {
        let thread = self.position.thread(warp.index as u32 * 32 + lane as u32);
        match warp.groups.iter().find(|group| group.mask >> lane & 1 == 1) {
            Some(group) => format!("thread {thread:?} waits at {}", self.place_name(group.pc)),
            None => format!("thread {thread:?} has exited"),
        }
    }
}
