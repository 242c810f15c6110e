//! Text that goes on from a prompt: the recurrence token by token, in memory that does not grow.

use packscan_kernels::cross_entropy::NO_TARGET;
use packscan_runtime::{Packed, View};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::activations::Tensor::{Logits, Normed};
use crate::activations::{Activations, Sizes};
use crate::{Carry, DevicePack, Error, Memory, Model, Result, linear};

/// How the next token is drawn from the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the most likely token.
    pub temperature: f32,
    /// Draw among so many of the most likely tokens; 0 draws among all.
    pub top_k: usize,
    /// Draw among the most likely tokens that together have this probability; 1 draws among all.
    pub top_p: f32,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Config`] by name.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |field, got: f32, rule: &str| Err(Error::Config { field, got: got.to_string(), rule: rule.to_owned() });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong(
                "temperature",
                self.temperature,
                "it is a finite number from 0 on; 0 takes the most likely token",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", self.top_p, "it is a probability above 0 and up to 1; 1 draws among all tokens");
        }
        Ok(())
    }

    /// Draws one token below the length of `logits`; what is not a number is never drawn.
    fn draw(&self, logits: &[f32], random: &mut ChaCha8Rng) -> Option<u32> {
        let mut likely: Vec<u32> = (0..logits.len() as u32).filter(|&i| !logits[i as usize].is_nan()).collect();
        // Equally likely tokens in the order of their ids, so that every machine draws alike.
        likely.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let &most = likely.first()?;
        if self.temperature == 0.0 {
            return Some(most);
        }
        if self.top_k > 0 {
            likely.truncate(self.top_k);
        }
        let top = f64::from(logits[most as usize]);
        let weight = |&i: &u32| ((f64::from(logits[i as usize]) - top) / f64::from(self.temperature)).exp();
        let weights: Vec<f64> = likely.iter().map(weight).collect();
        let all: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let enough = weights.iter().position(|weight| {
            kept += weight;
            kept >= f64::from(self.top_p) * all
        });
        let count = enough.map_or(likely.len(), |last| last + 1);
        let mut at = f64::from(random.next_u32()) / f64::from(u32::MAX) * weights[..count].iter().sum::<f64>();
        let drawn = weights[..count].iter().position(|weight| {
            at -= weight;
            at <= 0.0
        });
        Some(likely[drawn.unwrap_or(count - 1)])
    }
}

/// Tokens of each prompt that are read at a time.
const WINDOW: usize = 512;

/// A batch of texts in the making.
#[derive(Debug)]
pub struct Generator<'a> {
    model: &'a Model,
    sampling: Sampling,
    activations: Activations,
    /// What the texts so far left, and room for what they leave next.
    memories: [Memory; 2],
    /// One for each text: what is drawn for one does not depend on the others.
    randoms: Vec<ChaCha8Rng>,
    /// `[B]`: the last token of each text.
    last: Vec<u32>,
    /// Entries of the tokenizer: the model's vocabulary is padded, and padding is never drawn.
    entries: usize,
}

impl<'a> Generator<'a> {
    /// Reads prompts, each of at least one token, of a tokenizer with so many entries.
    ///
    /// # Errors
    /// [`Error::Config`] for no or empty prompts or numbers that no token can be drawn by, [`packscan_runtime::Error::Tensor`] for a token
    /// outside the vocabulary.
    pub fn new(model: &'a Model, sampling: Sampling, prompts: &[&[u32]], entries: usize) -> Result<Generator<'a>> {
        sampling.check()?;
        if prompts.is_empty() {
            let rule = "at least one text is made; take 1".to_owned();
            return Err(Error::Config { field: "batch", got: "0".to_owned(), rule });
        }
        if let Some(empty) = prompts.iter().position(|prompt| prompt.is_empty()) {
            let rule =
                "a text goes on from at least one token; give some text, or the token that ends documents".to_owned();
            return Err(Error::Config { field: "prompt", got: format!("empty (prompt {empty})"), rule });
        }
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0).min(WINDOW);
        let sizes = Sizes::of_forward(model, prompts.len() * longest);
        let stream = |i| {
            let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
            random.set_stream(i as u64);
            random
        };
        let mut generator = Generator {
            model,
            sampling,
            activations: Activations::new(&model.device, sizes)?,
            memories: [Memory::of_all(model, prompts.len())?, Memory::of_all(model, prompts.len())?],
            randoms: (0..prompts.len()).map(stream).collect(),
            last: prompts.iter().map(|prompt| prompt[prompt.len() - 1]).collect(),
            entries: entries.min(model.config.vocabulary),
        };
        // The last token is read when the next one is drawn.
        let ahead: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[..prompt.len() - 1]).collect();
        for start in (0..longest_of(&ahead).max(1)).step_by(WINDOW) {
            let window = |prompt: &&'_ [u32]| {
                let end = (start + WINDOW).min(prompt.len());
                prompt[start.min(end)..end].to_vec()
            };
            generator.read(&ahead.iter().map(window).collect::<Vec<_>>(), start > 0)?;
        }
        Ok(generator)
    }

    /// Runs tokens through the model, from the memory to the memory.
    fn read(&mut self, texts: &[Vec<u32>], continued: bool) -> Result<usize> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let packed = Packed::from_lengths(&lengths)?.with_continued(&vec![continued; texts.len()])?;
        let tokens = texts.concat();
        let (model, none) = (self.model, vec![NO_TARGET; tokens.len()]);
        let pack = DevicePack::new(&model.device, &packed, &tokens, &none, model.config.vocabulary)?;
        let carry = Carry { from: Some(&self.memories[0]), to: Some(&self.memories[1]) };
        model.forward(&pack, &self.activations, carry)?;
        self.memories.swap(0, 1);
        Ok(tokens.len())
    }

    /// Draws the next token of every text, `[B]`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a text's logits are no numbers, and whatever launching fails with.
    pub fn next_tokens(&mut self) -> Result<Vec<u32>> {
        let texts: Vec<Vec<u32>> = self.last.iter().map(|&token| vec![token]).collect();
        self.read(&texts, true)?;
        let (layers, batch) = (self.model.config.layers, self.last.len());
        let normed = self.activations.view(layers, Normed, batch)?;
        for start in 0..batch {
            let logits = self.logits(normed.rows_at(start, 1)?)?;
            let drawn = self.sampling.draw(&logits[..self.entries], &mut self.randoms[start]);
            self.last[start] = drawn.ok_or(Error::NotFinite { what: format!("the logits of text {start}") })?;
        }
        Ok(self.last.clone())
    }

    /// `(V)`: the logits of one token.
    fn logits(&self, normed: View<'_>) -> Result<Vec<f32>> {
        let model = self.model;
        let logits = self.activations.view(0, Logits, 1)?;
        linear::forward(&model.gemm, normed, model.weights.io(model.layout.head)?, logits)?;
        Ok(logits.to_f32()?)
    }
}

fn longest_of(texts: &[&[u32]]) -> usize {
    texts.iter().map(|text| text.len()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32]) -> Vec<usize> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut counts = vec![0; logits.len()];
        (0..4000).for_each(|_| counts[sampling.draw(logits, &mut random).unwrap() as usize] += 1);
        counts
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        let plain = counts(Sampling::default(), &logits);
        // Four standard deviations of a binomial count are at most 4 * sqrt(4000 / 4) = 127.
        for (count, expected) in plain.iter().zip([2000.0, 1000.0, 500.0, 500.0]) {
            assert!((*count as f64 - expected).abs() < 127.0, "{plain:?}");
        }
        let sharp = counts(Sampling { temperature: 0.5, ..Sampling::default() }, &logits);
        assert!(sharp[0] > plain[0] + 400, "{sharp:?}");
    }

    #[test]
    fn what_is_cut_off_is_never_drawn() {
        let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        let zero = |sampling, tokens: &[usize]| {
            let counts = counts(sampling, &logits);
            assert!((0..4).all(|i| (counts[i] == 0) == tokens.contains(&i)), "{sampling:?}: {counts:?}");
        };
        zero(Sampling { top_k: 2, ..Sampling::default() }, &[2, 3]);
        zero(Sampling { top_p: 0.7, ..Sampling::default() }, &[2, 3]);
        zero(Sampling { temperature: 0.0, ..Sampling::default() }, &[1, 2, 3]);
    }

    #[test]
    fn what_is_no_number_is_never_drawn() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let draw = |logits: &[f32], random: &mut ChaCha8Rng| Sampling::default().draw(logits, random);
        assert_eq!(draw(&[f32::NAN, 1.0], &mut random), Some(1));
        assert_eq!(draw(&[f32::NAN, f32::NAN], &mut random), None);
    }

    #[test]
    fn numbers_that_draw_nothing_are_refused() {
        let wrong = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        assert!(wrong(Sampling { temperature: -1.0, ..Sampling::default() }).starts_with("temperature is -1"));
        assert!(wrong(Sampling { top_p: f32::NAN, ..Sampling::default() }).starts_with("top_p is NaN"));
    }
}
