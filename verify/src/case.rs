//! One call to verify: a pack, sizes and a seed, in a form that can be printed, read back and shrunk.

use std::fmt;
use std::str::FromStr;

use packscan_runtime::Packed;
use proptest::prelude::*;
use proptest::sample::select;

/// A call. Printed and read as `3,0,17+/d70/g2/p1/x42`: lengths (`+` continued), channels, groups, padding between rows, seed.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// Length of each sequence in tokens and whether it is continued, `[S]`.
    pub sequences: Vec<(usize, bool)>,
    /// Channels, D.
    pub channels: usize,
    /// Groups of sequences that work side by side.
    pub groups: usize,
    /// Loads of unused columns on each side of every row of a strided tensor.
    pub padding: usize,
    /// Of the data.
    pub seed: u64,
}

impl Case {
    /// Fresh sequences with these lengths.
    pub fn of_lengths(lengths: &[usize], channels: usize) -> Case {
        let sequences = lengths.iter().map(|&length| (length, false)).collect();
        Case { sequences, channels, groups: 2, padding: 0, seed: 1 }
    }

    /// The same with every second sequence continued.
    pub fn with_continued(mut self) -> Case {
        for (_, continued) in self.sequences.iter_mut().step_by(2) {
            *continued = true;
        }
        self
    }

    /// The boundaries. Marks of continuation count only if the kernel takes initial states.
    pub fn packed(&self, continued: bool) -> Packed {
        let lengths: Vec<usize> = self.sequences.iter().map(|s| s.0).collect();
        let marks: Vec<bool> = self.sequences.iter().map(|s| s.1 && continued).collect();
        Packed::from_lengths(&lengths).and_then(|p| p.with_continued(&marks)).expect("cases have legal lengths")
    }

    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.0).sum()
    }

    /// Elements (t, d, n) that a kernel works on, those of channels that only fill a block included.
    pub fn elements(&self, sizes: Sizes) -> usize {
        self.tokens() * self.channels.next_multiple_of(sizes.tile) * sizes.state
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self
            .sequences
            .iter()
            .map(|(length, continued)| format!("{length}{}", if *continued { "+" } else { "" }))
            .collect();
        let Case { channels, groups, padding, seed, .. } = self;
        write!(f, "{}/d{channels}/g{groups}/p{padding}/x{seed}", words.join(","))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no case.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no case; one looks like 3,0,17+/d70/g2/p1/x42: lengths (+ continued), channels, groups, padding, seed"
)]
pub struct ParseCaseError(String);

impl FromStr for Case {
    type Err = ParseCaseError;

    fn from_str(text: &str) -> Result<Case, ParseCaseError> {
        let wrong = || ParseCaseError(text.to_owned());
        let mut parts = text.split('/');
        let sequences = parts
            .next()
            .into_iter()
            .flat_map(|lengths| lengths.split(','))
            .map(|word| Ok((word.trim_end_matches('+').parse().map_err(|_| wrong())?, word.ends_with('+'))))
            .collect::<Result<Vec<(usize, bool)>, _>>()?;
        let mut number = |tag: char| -> Result<u64, ParseCaseError> {
            parts.next().and_then(|part| part.strip_prefix(tag)).and_then(|n| n.parse().ok()).ok_or_else(wrong)
        };
        let case = Case {
            sequences,
            channels: number('d')? as usize,
            groups: number('g')? as usize,
            padding: number('p')? as usize,
            seed: number('x')?,
        };
        if parts.next().is_some() || case.channels == 0 || case.groups == 0 { Err(wrong()) } else { Ok(case) }
    }
}

/// What random cases are made for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Chunk length: the lengths around it and its double are the interesting ones.
    pub chunk: usize,
    /// Channels that a block owns.
    pub tile: usize,
    /// D is a multiple of this.
    pub multiple: usize,
    /// State size.
    pub state: usize,
    /// The most elements (t, d, n) of one case, unless one block alone has more.
    pub elements: usize,
}

/// Random cases: lengths at the edges of the chunk, many ones, a giant, anything; D around the tile; every layout.
pub fn cases(sizes: Sizes) -> impl Strategy<Value = Case> {
    let l = sizes.chunk;
    let edges = prop::collection::vec(select(vec![0, 1, 2, l - 1, l, l + 1, 2 * l]), 1..6);
    let ones = prop::collection::vec(0..2usize, 1..2 * l);
    let giant = (prop::collection::vec(0..4usize, 0..3), 2 * l..5 * l).prop_map(|(mut small, giant)| {
        small.insert(small.len() / 2, giant);
        small
    });
    let any = prop::collection::vec(0..2 * l, 1..5);
    let lengths = prop_oneof![3 => edges, 1 => ones, 1 => giant, 2 => any];
    let sequences =
        lengths.prop_flat_map(|lengths| lengths.into_iter().map(|n| (Just(n), any_mark())).collect::<Vec<_>>());
    let channels = 1..=2 * sizes.tile + 3;
    (sequences, channels, 1..4usize, 0..3usize, 0..1_000_000u64).prop_map(
        move |(sequences, channels, groups, padding, seed)| {
            let mut case = Case { sequences, channels, groups, padding, seed };
            let most = sizes.elements / (case.tokens() * sizes.state).max(1);
            let tiles = (most / sizes.tile).max(1);
            case.channels = case.channels.min(tiles * sizes.tile).next_multiple_of(sizes.multiple);
            case
        },
    )
}

fn any_mark() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        #[test]
        fn a_case_reads_as_it_prints(
            case in cases(Sizes { chunk: 8, tile: 16, multiple: 2, state: 16, elements: 10_000 })
        ) {
            prop_assert_eq!(case.to_string().parse::<Case>(), Ok(case));
        }
    }

    #[test]
    fn nonsense_is_no_case() {
        for text in ["", "3", "3/d0/g1/p0/x1", "3,/d1/g1/p0/x1", "3/d1/g1/p0/x1/y", "-1/d1/g1/p0/x1"] {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }
}
