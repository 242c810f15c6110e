//! Packs and numbers for the tests: every small packing, random large ones.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod arrays;
pub mod machine;

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and the same everywhere.
pub struct Generator(pub u64);

impl Generator {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `low..high`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in the logarithm.
    pub fn log_uniform(&mut self, low: f64, high: f64) -> f64 {
        self.uniform(low.ln(), high.ln()).exp()
    }

    /// Uniform in `0..below`.
    pub fn index(&mut self, below: usize) -> usize {
        (self.bits() % below as u64) as usize
    }

    /// `count` numbers in `-1..1` that f32 holds exactly.
    pub fn f32s(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform(-1.0, 1.0) as f32).collect()
    }

    /// A pack of `tokens` tokens: sequences of very different lengths, the empty one often among them, half of them continued.
    pub fn packing(&mut self, tokens: usize) -> Packing {
        let mut packing = Packing::default();
        let mut left = tokens;
        while left > 0 {
            let length = [0, 1, 2, self.index(9), self.index(40), self.index(tokens)][self.index(6)].min(left);
            packing.lengths.push(length);
            packing.continued.push(self.index(2) == 0);
            left -= length;
        }
        packing
    }
}

/// Lengths, and which sequences are continued.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    pub lengths: Vec<usize>,
    pub continued: Vec<bool>,
}

impl Packing {
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// Every way to write `tokens` as a sum of positive lengths, with every choice of continued sequences.
pub fn every_packing(tokens: usize) -> Vec<Packing> {
    let cuts = 1usize << tokens.saturating_sub(1);
    (0..cuts).flat_map(|cuts| every_continuation(lengths_between(tokens, cuts))).collect()
}

/// Every way to write `tokens` as a sum of exactly `sequences` lengths, 0 included, with every choice of continued sequences.
pub fn every_packing_with_empty(tokens: usize, sequences: usize) -> Vec<Packing> {
    fn extend(left: usize, parts: usize, lengths: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if parts == 1 {
            found.push(lengths.iter().copied().chain([left]).collect());
            return;
        }
        for length in 0..=left {
            lengths.push(length);
            extend(left - length, parts - 1, lengths, found);
            lengths.pop();
        }
    }
    let mut found = Vec::new();
    extend(tokens, sequences, &mut Vec::new(), &mut found);
    found.into_iter().flat_map(every_continuation).collect()
}

/// Bit `t` of `cuts` says whether a sequence ends after token t. No sequence where there is no token.
fn lengths_between(tokens: usize, cuts: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut length = 0;
    for t in 0..tokens {
        length += 1;
        if cuts >> t & 1 == 1 || t + 1 == tokens {
            lengths.push(length);
            length = 0;
        }
    }
    lengths
}

fn every_continuation(lengths: Vec<usize>) -> impl Iterator<Item = Packing> {
    (0..1usize << lengths.len()).map(move |bits| Packing {
        continued: (0..lengths.len()).map(|s| bits >> s & 1 == 1).collect(),
        lengths: lengths.clone(),
    })
}
