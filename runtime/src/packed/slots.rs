//! [`Slots`]: a model of how a GPU takes up the blocks of a kernel.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// How many blocks of a kernel a GPU runs at once: so many on each of so many multiprocessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Of the GPU.
    pub multiprocessors: usize,
    /// That share one.
    pub blocks: usize,
}

/// How long a block waits for its own results, beside what a multiprocessor can do at most: fourth powers of both are added. The more blocks there is
/// room for, up to [`HIDING`], the less they wait beside the time that they share.
const WAITING: f64 = 0.37;
/// So many blocks hide each other's waiting.
const HIDING: usize = 4;

impl Slots {
    /// Blocks of the whole GPU.
    pub const fn count(self) -> usize {
        self.multiprocessors * self.blocks
    }

    /// Tokens until the last block is done, as a block on a full multiprocessor walks them. For each of `tokens` there are `tiles` blocks of as many
    /// tokens. They start in this order: as many as fit, shared out evenly; then each where a block has ended. The blocks of a multiprocessor share what
    /// it can do, so the fewer they are the faster is each.
    pub fn makespan(self, tiles: usize, tokens: impl IntoIterator<Item = u64>) -> f64 {
        let mut waiting = tokens.into_iter().filter(|&tokens| tokens > 0).flat_map(|t| std::iter::repeat_n(t, tiles));
        let mut all = vec![Multiprocessor::default(); self.multiprocessors.max(1)];
        for _ in 0..self.blocks.max(1) {
            for (one, tokens) in all.iter_mut().zip(waiting.by_ref()) {
                one.ends.push(tokens as f64);
            }
        }
        let next = |m: usize, one: &Multiprocessor| Reverse(Event { time: one.next(self), multiprocessor: m });
        let busy = all.iter().enumerate().filter(|(_, one)| !one.ends.is_empty());
        let mut events: BinaryHeap<_> = busy.map(|(m, one)| next(m, one)).collect();
        let mut last = 0.0;
        while let Some(Reverse(Event { time, multiprocessor })) = events.pop() {
            last = time;
            let one = &mut all[multiprocessor];
            one.end_first(time);
            if let Some(tokens) = waiting.next() {
                one.ends.push(one.walked + tokens as f64);
            }
            if !one.ends.is_empty() {
                events.push(next(multiprocessor, one));
            }
        }
        last
    }

    /// What a token takes a block that shares a multiprocessor with others, so many in all, where it takes 1 on a full one. Fitted to the scan on an H200,
    /// N = 16: alone 0.53 of its time where four fit, 0.68 where two do.
    fn pace(self, blocks: usize) -> f64 {
        let (full, waiting) = (self.blocks.max(1), WAITING / self.blocks.clamp(1, HIDING) as f64);
        ((waiting + (blocks as f64 / full as f64).powi(4)) / (waiting + 1.0)).sqrt().sqrt()
    }
}

/// The blocks that share a multiprocessor all walk equally fast.
#[derive(Clone, Debug, Default)]
struct Multiprocessor {
    /// Tokens that a block has walked that was there from the start, at `time`.
    walked: f64,
    time: f64,
    /// What will be walked when each block ends.
    ends: Vec<f64>,
}

impl Multiprocessor {
    fn first(&self) -> f64 {
        self.ends.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// When its next block ends.
    fn next(&self, slots: Slots) -> f64 {
        self.time + (self.first() - self.walked) * slots.pace(self.ends.len())
    }

    /// A block ends, at `time`.
    fn end_first(&mut self, time: f64) {
        (self.walked, self.time) = (self.first(), time);
        if let Some(first) = self.ends.iter().position(|&end| end == self.walked) {
            self.ends.swap_remove(first);
        }
    }
}

/// A block ends.
#[derive(Clone, Copy, Debug)]
struct Event {
    time: f64,
    multiprocessor: usize,
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> Ordering {
        self.time.total_cmp(&other.time).then(self.multiprocessor.cmp(&other.multiprocessor))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(multiprocessors: usize, blocks: usize) -> Slots {
        Slots { multiprocessors, blocks }
    }

    #[test]
    fn blocks_start_where_others_have_ended() {
        let three = slots(3, 1);
        assert_eq!(three.makespan(2, []), 0.0);
        assert_eq!(three.makespan(2, [0, 0]), 0.0, "nothing to walk");
        assert_eq!(three.makespan(2, [100]), 100.0);
        // The third multiprocessor takes one tile of the second, the other waits.
        assert_eq!(three.makespan(2, [100, 100]), 200.0);
        assert_eq!(three.makespan(2, [100, 10, 10]), 100.0, "short ones run beside the longest");
        assert_eq!(slots(4, 2).makespan(1, [50; 16]), 100.0, "two rounds on full multiprocessors");
    }

    #[test]
    fn blocks_with_room_are_faster() {
        let both = slots(1, 2);
        let (alone, shared) = (both.makespan(1, [1000]), both.makespan(2, [1000]));
        assert_eq!(shared, 1000.0);
        assert!(0.66 * shared < alone && alone < 0.7 * shared, "{alone}");
        // Once the short one has ended the other goes on faster.
        let uneven = both.makespan(1, [1000, 400]);
        assert!((uneven - (400.0 + 0.6 * alone)).abs() < 1e-9, "{uneven}");
    }

    #[test]
    fn the_first_blocks_are_shared_out_evenly() {
        // Four on two multiprocessors with room for three each: two and two, so both are done at once.
        let even = slots(2, 3).makespan(4, [300]);
        assert_eq!(even, slots(1, 3).makespan(2, [300]));
        assert!(even < 300.0);
    }
}
