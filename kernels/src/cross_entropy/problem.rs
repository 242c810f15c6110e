//! What is asked of the loss, and which variants answer it.

use packscan_runtime::Dtype;
use packscan_runtime::kernel::broken;

use super::Forward;

/// What is asked: a size and a type. A [`Forward`] is what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Vocabulary, V.
    pub vocabulary: usize,
    /// Type of the logits.
    pub io: Dtype,
}

/// Bytes of logits that a thread of a hand-picked variant keeps in registers.
const KEPT_BYTES: usize = 128;

impl Problem {
    /// The widest load that the vocabulary is a multiple of.
    fn vec(&self) -> u32 {
        let fits = |vec: &u32| *vec as usize * self.io.bytes() <= 16 && self.vocabulary.is_multiple_of(*vec as usize);
        [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1)
    }

    /// The variant with so many threads, which keep as much of a row as they may.
    fn variant(&self, block: u32) -> Forward {
        let vec = self.vec();
        let loads = self.vocabulary.div_ceil(block as usize * vec as usize).max(1);
        let keep = loads.min(KEPT_BYTES / (vec as usize * self.io.bytes())).min(32) as u32;
        Forward { block, keep, vec, io: self.io }
    }
}

/// A variant that is sensible everywhere: about four loads a thread up to 1024 threads, then more.
pub fn default_variant(problem: &Problem) -> Forward {
    let loads = problem.vocabulary / problem.vec() as usize;
    problem.variant((loads / 4).next_power_of_two().clamp(32, 1024) as u32)
}

/// Every variant worth timing for a problem.
pub fn variants(problem: &Problem) -> Vec<Forward> {
    let whole = [128, 256, 512, 1024].map(|block| problem.variant(block));
    // Fewer registers, more threads at once, more reads from the cache.
    let less = whole.map(|variant| Forward { keep: variant.keep.div_ceil(2), ..variant });
    let least = whole.map(|variant| Forward { keep: 1, ..variant });
    let mut all: Vec<Forward> = [whole, less, least].concat();
    all.retain(|variant| broken(variant).is_empty());
    all.dedup();
    all
}
