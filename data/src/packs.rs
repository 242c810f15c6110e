//! Packs: planned pieces, filled with tokens and targets.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Corpus, Error, PackOptions, Plan, Plans, Result, Scheme};

/// The target of a token after which nothing is to be predicted.
pub const NO_TARGET: u32 = u32::MAX;

/// `T` tokens of `S` sequences, end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// `(T)` ids.
    pub tokens: Vec<u32>,
    /// `(T)` the token that follows in the same document, or [`NO_TARGET`]. At a cut it is the first token of the rest.
    pub targets: Vec<u32>,
    /// `(S)` tokens of each sequence, padding included; their sum is `T`.
    pub lengths: Vec<usize>,
    /// `(S)` whether a sequence goes on from the last of the pack before. Only the first can.
    pub continued: Vec<bool>,
    /// `(S)` which document of the corpus each sequence is of.
    pub documents: Vec<u32>,
    /// Whether the last sequence goes on in the next pack.
    pub continues: bool,
    /// How many of the `T` tokens are of documents; the others are token 0 without a target.
    pub real: usize,
    /// Tokens that the pack has room for and that are of no document: see [`Plan::cost`].
    pub padding: usize,
}

/// Where packs go on: after the pack that was given last. Small, and independent of where files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the corpus that are behind.
    pub epoch: u64,
    /// Documents of this epoch, in its order, that are behind or in the window that was begun.
    pub document: u64,
    /// Tokens of the next document that are behind.
    pub token: u32,
    /// Packs of the window that are behind.
    pub pack: u64,
    /// Of the corpus and the options.
    pub fingerprint: u64,
}

/// The packs of a corpus, one after another.
pub struct Packs {
    corpus: Corpus,
    plans: Plans,
    fingerprint: u64,
}

impl Packs {
    /// From the first pack of the first epoch.
    ///
    /// # Errors
    /// [`Error::Option`] for options that make no sense.
    pub fn new(corpus: &Corpus, options: PackOptions) -> Result<Packs> {
        let fingerprint = fingerprint(corpus, &options);
        let plans = Plans::new(corpus.lengths(), options)?;
        Ok(Packs { corpus: corpus.clone(), plans, fingerprint })
    }

    /// From a position that [`Packs::position`] told: exactly the packs that followed then. Only the number of epochs may
    /// be another.
    ///
    /// # Errors
    /// [`Error::Position`] if the corpus or the options are others.
    pub fn resume(corpus: &Corpus, options: PackOptions, position: &Position) -> Result<Packs> {
        let mut packs = Packs::new(corpus, options)?;
        if position.fingerprint != packs.fingerprint {
            return Err(Error::Position { what: "the documents, the tokenizer or how they are packed differ" });
        }
        packs.plans.go_to(position).ok_or(Error::Position { what: "it lies beyond the last document" })?;
        Ok(packs)
    }

    /// Where the next pack comes from.
    pub fn position(&self) -> Position {
        self.plans.position(self.fingerprint)
    }

    /// Documents that are longer than a sequence can be and are cut into several, to be reported once.
    pub fn cut_documents(&self) -> usize {
        self.plans.cut_documents()
    }

    /// The documents.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The options.
    pub fn options(&self) -> &PackOptions {
        self.plans.options()
    }

    fn fill(&self, plan: &Plan) -> Pack {
        let row = match self.options().scheme {
            Scheme::Padded { .. } => Some(plan.row()),
            _ => None,
        };
        let sequences = plan.pieces.len();
        let total = row.map_or(plan.real(), |row| row * sequences);
        let mut pack = Pack {
            tokens: Vec::with_capacity(total),
            targets: Vec::with_capacity(total),
            lengths: Vec::with_capacity(sequences),
            continued: vec![false; sequences],
            documents: plan.pieces.iter().map(|piece| piece.document).collect(),
            continues: plan.continues,
            real: plan.real(),
            padding: plan.cost(self.options()) - plan.real(),
        };
        if let Some(first) = pack.continued.first_mut() {
            *first = plan.continued;
        }
        for piece in &plan.pieces {
            let document = self.corpus.tokens(piece.document as usize);
            let (start, end) = (piece.start as usize, (piece.start + piece.tokens) as usize);
            document.slice(start, end).append_to(&mut pack.tokens);
            document.slice(start + 1, end).append_to(&mut pack.targets);
            pack.targets.push(document.get(end).unwrap_or(NO_TARGET));
            let length = row.unwrap_or(end - start);
            pack.lengths.push(length);
            let padding = length - (end - start);
            pack.tokens.extend(std::iter::repeat_n(0, padding));
            pack.targets.extend(std::iter::repeat_n(NO_TARGET, padding));
        }
        pack
    }
}

impl Iterator for Packs {
    type Item = Pack;

    fn next(&mut self) -> Option<Pack> {
        let plan = self.plans.next()?;
        Some(self.fill(&plan))
    }

    /// Passes over `n` packs without reading their tokens: a rank of several takes every so manieth pack.
    fn nth(&mut self, n: usize) -> Option<Pack> {
        let plan = self.plans.nth(n)?;
        Some(self.fill(&plan))
    }
}

fn fingerprint(corpus: &Corpus, options: &PackOptions) -> u64 {
    let mut hash = Sha256::new();
    corpus.fingerprint(&mut hash);
    hash.update(format!("{} {:?} {:?}", options.tokens, options.scheme, options.seed));
    let digest: [u8; 32] = hash.finalize().into();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
