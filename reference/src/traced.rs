//! A number that knows which inputs had an influence on it.

use crate::Number;
use std::fmt;

/// A value and the exact set of inputs that entered its computation.
///
/// Influence is what the formula reads, whatever the values: multiplying by zero does not undo it. That is the point, for a
/// zero does not stop a NaN either. A reset that multiplies the state of the previous sequence by zero leaks; one that chooses
/// not to read it does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The number itself.
    pub value: f64,
    /// Indices of the inputs that had an influence on it.
    pub influences: IndexSet,
}

impl Traced {
    /// The input of index `index`: influenced by itself.
    pub fn input(value: f64, index: usize) -> Self {
        Self { value, influences: IndexSet::from_iter([index]) }
    }

    fn of_two(value: f64, left: &Self, right: &Self) -> Self {
        let mut influences = left.influences.clone();
        influences.union_with(&right.influences);
        Self { value, influences }
    }

    fn of_one(&self, value: f64) -> Self {
        Self { value, influences: self.influences.clone() }
    }
}

impl Number for Traced {
    fn constant(value: f64) -> Self {
        Self { value, influences: IndexSet::default() }
    }

    fn add(&self, other: &Self) -> Self {
        Self::of_two(self.value + other.value, self, other)
    }

    fn sub(&self, other: &Self) -> Self {
        Self::of_two(self.value - other.value, self, other)
    }

    fn mul(&self, other: &Self) -> Self {
        Self::of_two(self.value * other.value, self, other)
    }

    fn neg(&self) -> Self {
        self.of_one(-self.value)
    }

    fn div(&self, other: &Self) -> Self {
        Self::of_two(self.value / other.value, self, other)
    }

    fn max(&self, other: &Self) -> Self {
        Self::of_two(self.value.max(other.value), self, other)
    }

    fn sqrt(&self) -> Self {
        self.of_one(self.value.sqrt())
    }

    fn exp(&self) -> Self {
        self.of_one(self.value.exp())
    }

    fn ln(&self) -> Self {
        self.of_one(self.value.ln())
    }

    fn softplus(&self) -> Self {
        self.of_one(self.value.softplus())
    }

    fn silu(&self) -> Self {
        self.of_one(self.value.silu())
    }

    fn sigmoid(&self) -> Self {
        self.of_one(self.value.sigmoid())
    }

    fn rsqrt(&self) -> Self {
        self.of_one(self.value.rsqrt())
    }

    fn sum(terms: impl Iterator<Item = Self>) -> Self {
        terms.fold(Self::constant(0.0), |mut sum, term| {
            sum.value += term.value;
            sum.influences.union_with(&term.influences);
            sum
        })
    }
}

/// A set of indices, as bits. It grows with its largest index.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IndexSet {
    /// Bit `i % 64` of word `i / 64` says whether `i` is in the set. The last word is never 0, so equal sets are equal here.
    words: Vec<u64>,
}

impl IndexSet {
    /// Adds an index.
    pub fn insert(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (index % 64);
    }

    /// Adds every index of another set.
    pub fn union_with(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    /// Whether the index is in the set.
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.words.len() * 64).filter(|&index| self.contains(index))
    }
}

impl FromIterator<usize> for IndexSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let mut set = Self::default();
        indices.into_iter().for_each(|index| set.insert(index));
        set
    }
}

impl fmt::Debug for IndexSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}
