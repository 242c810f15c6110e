//! [`Groups`]: how the sequences of a pack are shared out among blocks that walk it at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Packed, Slots};

/// Whole sequences, shared out among groups. Each group has runs of neighbouring sequences, in their order; each run is walked from end to
/// end, and what groups there are and in which order does not change what any sequence's tokens give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// First run of each group, `[G + 1]`. A group may have none.
    pub starts: Vec<u32>,
    /// First sequence of each run and the one after its last, `[R]`.
    pub runs: Vec<[u32; 2]>,
}

impl Groups {
    /// How many groups.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The runs of group `g`.
    pub fn runs_of(&self, g: usize) -> &[[u32; 2]] {
        &self.runs[self.starts[g] as usize..self.starts[g + 1] as usize]
    }

    /// Lists of runs as groups.
    fn of(lists: Vec<Vec<[u32; 2]>>) -> Groups {
        let mut starts = vec![0];
        let mut runs = Vec::new();
        for list in lists {
            runs.extend(list);
            starts.push(runs.len() as u32);
        }
        Groups { starts, runs }
    }
}

/// More groups than any GPU runs blocks at once: for so many there is room where packs come one after the other.
pub(super) const MOST_GROUPS: usize = 1 << 13;
/// Blocks for each slot of a device, at most.
const ROUNDS: usize = 8;
/// Numbers of groups with fewer blocks than there are slots that are considered.
const FEWER: usize = 3;
/// What a run takes beside its tokens, in tokens: its first loads, and chunks of which it has but a part.
const RUN_TOKENS: u64 = 16;
/// Times within this ratio are equal: 8, 16 and 33 groups of 27 to 33 sequences, 16384 x 4096, of which the forward pass takes 0.480, 0.463 and 0.462 ms
/// on an H200.
const EQUALLY_SOON: f64 = 1.02;

impl Packed {
    /// Shares the sequences out among `groups` groups so that the longest is short, the longest group first. One of two ways, whichever ends
    /// sooner: runs of neighbours, one a group, cut where the longest is as short as can be; or any sequences, each in turn, from the longest
    /// to the shortest, to the group that has least so far (Graham's LPT rule). The second is as even as can be where sequences are few and
    /// long, the first has fewer runs where they are many. No groups count as one.
    pub fn groups(&self, groups: usize) -> Groups {
        let groups = groups.max(1);
        let longest_first = |mut lists: Vec<Vec<[u32; 2]>>| {
            lists.sort_by_key(|list| Reverse(self.cost(list)));
            let costs: Vec<u64> = lists.iter().map(|list| self.cost(list)).collect();
            (costs, lists)
        };
        let mut best = longest_first(self.cut_into(groups));
        let even = (self.tokens() / groups) as u64 + RUN_TOKENS;
        if best.0[0] > even + RUN_TOKENS {
            let dealt = longest_first(self.dealt_to(groups));
            // The longest decides, then the next: one long sequence is no reason to put all others together.
            if dealt.0 < best.0 {
                best = dealt;
            }
        }
        Groups::of(best.1)
    }

    /// What a group takes, in tokens.
    fn cost(&self, runs: &[[u32; 2]]) -> u64 {
        runs.iter().map(|run| self.tokens_of(*run) + RUN_TOKENS).sum()
    }

    fn tokens_of(&self, [first, end]: [u32; 2]) -> u64 {
        u64::from(self.cu_seqlens[end as usize] - self.cu_seqlens[first as usize])
    }

    /// Runs of neighbours, of which the longest has as few tokens as the sequences allow.
    fn cut_into(&self, groups: usize) -> Vec<Vec<[u32; 2]>> {
        let (mut too_few, mut enough) = (0, self.tokens() as u32);
        while enough - too_few > 1 {
            let most = too_few + (enough - too_few) / 2;
            if self.cuts_at(most, groups).last() == Some(&(self.sequences() as u32)) {
                enough = most;
            } else {
                too_few = most;
            }
        }
        let run = |pair: &[u32]| if pair[0] < pair[1] { vec![[pair[0], pair[1]]] } else { Vec::new() };
        self.cuts_at(enough, groups).windows(2).map(run).collect()
    }

    /// Where runs of as many whole sequences as fit `most` tokens begin, the first `groups` of them and the one after.
    fn cuts_at(&self, most: u32, groups: usize) -> Vec<u32> {
        let mut starts = vec![0];
        for _ in 0..groups {
            let first = starts[starts.len() - 1] as usize;
            let end = self.cu_seqlens[first].saturating_add(most);
            starts.push(self.cu_seqlens.partition_point(|&start| start <= end) as u32 - 1);
        }
        starts
    }

    /// Each sequence to the group that has least so far, the longest sequence first.
    fn dealt_to(&self, groups: usize) -> Vec<Vec<[u32; 2]>> {
        // An empty sequence goes with the one before it, or those at the start with the first that is not.
        let mut pieces: Vec<[u32; 2]> = Vec::new();
        for s in 0..self.sequences() as u32 {
            match pieces.last_mut() {
                Some(last) if self.tokens_of([s, s + 1]) == 0 || self.tokens_of(*last) == 0 => last[1] = s + 1,
                _ => pieces.push([s, s + 1]),
            }
        }
        let mut longest_first = pieces.clone();
        longest_first.sort_by_key(|piece| Reverse(self.tokens_of(*piece)));
        let mut lists = vec![Vec::new(); groups];
        let mut least = (0..groups).map(|g| Reverse((0, g))).collect::<BinaryHeap<_>>();
        for piece in longest_first {
            let Some(Reverse((tokens, g))) = least.pop() else { break };
            lists[g].push(piece);
            least.push(Reverse((tokens + self.tokens_of(piece) + RUN_TOKENS, g)));
        }
        lists.into_iter().map(joined).collect()
    }

    /// Into how many groups to share the pack out so that a device is done first, where each group takes `tiles` blocks, each as long as the
    /// group. More groups share the work out more evenly, and leave some slots idle at the end. Of those that are done equally soon the most: blocks
    /// that all start and load at the same time get in each other's way.
    pub fn balanced_groups(&self, tiles: usize, slots: Slots) -> usize {
        let sequences = self.lengths().iter().filter(|&&length| length > 0).count().clamp(1, MOST_GROUPS);
        let of_rounds = |rounds: usize| (rounds * slots.count() / tiles).clamp(1, sequences);
        // Fewer blocks than there are slots may lie more evenly on multiprocessors.
        let fewer = (1..=FEWER).map(|fewer| of_rounds(1).saturating_sub(fewer).max(1));
        let mut tried: Vec<usize> = (1..=ROUNDS).map(of_rounds).chain(fewer).collect();
        tried.sort_unstable();
        tried.dedup();
        let timed: Vec<(usize, f64)> =
            tried.into_iter().map(|groups| (groups, self.makespan(groups, tiles, slots))).collect();
        let best = timed.iter().map(|&(_, time)| time).fold(f64::INFINITY, f64::min);
        timed.into_iter().filter(|&(_, time)| time <= EQUALLY_SOON * best).map(|(groups, _)| groups).max().unwrap_or(1)
    }

    /// The most that [`balanced_groups`](Self::balanced_groups) says for any pack.
    pub fn most_groups(tiles: usize, slots: Slots) -> usize {
        (ROUNDS * slots.count() / tiles).clamp(1, MOST_GROUPS)
    }

    /// [`Slots::makespan`] of the blocks of so many groups, each with `tiles`, in their order.
    pub fn makespan(&self, groups: usize, tiles: usize, slots: Slots) -> f64 {
        let groups = self.groups(groups);
        slots.makespan(tiles, (0..groups.count()).map(|g| self.cost(groups.runs_of(g))))
    }
}

/// Runs in the order of their sequences, neighbours as one.
fn joined(mut runs: Vec<[u32; 2]>) -> Vec<[u32; 2]> {
    runs.sort_unstable();
    runs.dedup_by(|next, last| {
        let adjoin = last[1] == next[0];
        if adjoin {
            last[1] = next[1];
        }
        adjoin
    });
    runs
}
