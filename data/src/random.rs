//! A random number is decided by its seed, on every machine and in every version: a resumed run depends on it.

/// SplitMix64, by Steele, Lea and Flood.
pub struct Random(u64);

impl Random {
    /// A stream of its own for each list of numbers.
    pub fn new(seeds: &[u64]) -> Random {
        let mut random = Random(0);
        for seed in seeds {
            random.0 = random.next() ^ seed;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`. The bias of a 64-bit number times `end` is below 2^-32 for every list that fits a memory.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// Every order with the same probability (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_decides() {
        let shuffled = |seeds: &[u64]| {
            let mut items: Vec<usize> = (0..50).collect();
            Random::new(seeds).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(&[1, 2]), shuffled(&[1, 2]));
        assert_ne!(shuffled(&[1, 2]), shuffled(&[2, 1]));
        assert_ne!(shuffled(&[1, 2]), (0..50).collect::<Vec<_>>());
        let mut sorted = shuffled(&[0]);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn no_order_is_preferred() {
        let mut seen = [0; 6];
        for seed in 0..6000 {
            let mut items = [0, 1, 2];
            Random::new(&[seed]).shuffle(&mut items);
            seen[items[0] * 2 + usize::from(items[1] > items[2])] += 1;
        }
        // 1000 each, with a standard deviation of 29.
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
    }
}
