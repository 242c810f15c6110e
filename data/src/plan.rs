//! Which pieces of which documents share a pack: by lengths alone, so that it is fast and can be measured by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bins::{ByOrder, ByRoom};
use crate::random::Random;
use crate::{Error, Position, Result};

/// How pieces of documents are put into packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// In the order in which they come; what does not fit opens the next pack.
    Sequential,
    /// Each into the first pack of a window of [`Strategy::WINDOW`] documents that has room.
    FirstFit,
    /// The longest of a window first, each into the pack that it fills best.
    BestFitDecreasing {
        /// Documents in a window.
        window: usize,
    },
    /// Every pack is full: what does not fit goes on in the next pack, its state carried.
    Split,
}

impl Strategy {
    /// Documents that a strategy looks at together where nothing else is said. Each window leaves half a pack empty or so:
    /// with documents of 600 tokens and packs of 4096 that is 0.02 %.
    pub const WINDOW: usize = 16_384;
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy::BestFitDecreasing { window: Strategy::WINDOW }
    }
}

/// What a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Sequences laid end to end, up to the capacity.
    Packed(Strategy),
    /// One sequence, however short: the first baseline of the PackMamba paper.
    Single,
    /// A batch of sequences, each padded to the longest of them: the second baseline.
    Padded {
        /// Sequences in a batch.
        batch: usize,
    },
}

/// What to pack and in what order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Capacity: a pack has at most so many tokens. A row of a padded batch has its share of them.
    pub tokens: usize,
    /// How packs are made.
    pub scheme: Scheme,
    /// Decides the order of documents and packs, another one in each epoch. `None` keeps the order of the files.
    pub seed: Option<u64>,
    /// Passes over the corpus; `None` is without end.
    pub epochs: Option<u64>,
}

impl PackOptions {
    /// Shuffled by seed 0, without end.
    pub fn new(tokens: usize, scheme: Scheme) -> PackOptions {
        PackOptions { tokens, scheme, seed: Some(0), epochs: None }
    }

    /// Tokens that one sequence has at most.
    pub fn longest(&self) -> usize {
        match self.scheme {
            Scheme::Padded { batch } => self.tokens / batch.max(1),
            Scheme::Packed(_) | Scheme::Single => self.tokens,
        }
    }

    fn check(&self) -> Result<()> {
        let broken = |field, value: usize, rule| Err(Error::Option { field, value, rule });
        match self.scheme {
            Scheme::Packed(Strategy::BestFitDecreasing { window: 0 }) => {
                broken("window", 0, "a window has at least one document; take some thousands")
            }
            Scheme::Padded { batch: 0 } => broken("batch", 0, "a batch has at least one sequence; take 8"),
            Scheme::Padded { batch } if self.longest() < 2 => broken(
                "batch",
                batch,
                "each sequence has that share of a pack's tokens and needs two; take a smaller batch or more tokens",
            ),
            _ if self.longest() < 2 => broken(
                "tokens",
                self.tokens,
                "a sequence needs two tokens, one to predict the other; take some thousands",
            ),
            _ if u32::try_from(self.tokens).is_err() => {
                broken("tokens", self.tokens, "a pack has fewer than 2^32 tokens; take some thousands")
            }
            _ => Ok(()),
        }
    }
}

/// Tokens of a document that lie together in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which document of the corpus.
    pub document: u32,
    /// Its first token in the document.
    pub start: u32,
    /// How many; never 0.
    pub tokens: u32,
}

/// One pack, as pieces of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its sequences, S of them.
    pub pieces: Vec<Piece>,
    /// The first piece goes on from the last of the pack before.
    pub continued: bool,
    /// The last piece goes on in the next pack.
    pub continues: bool,
}

impl Plan {
    /// Tokens of documents.
    pub fn real(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tokens as usize).sum()
    }

    /// Tokens that the pack has room for: its capacity where sequences share it, all rows where it is a padded batch, its one sequence where
    /// it is that. What of it is of no document is *padding*, wherever packscan tells of it: in a step's metrics as in a report on packing.
    pub fn cost(&self, options: &PackOptions) -> usize {
        match options.scheme {
            Scheme::Packed(_) => options.tokens,
            Scheme::Single => self.real(),
            Scheme::Padded { .. } => self.pieces.len() * self.row(),
        }
    }

    /// Tokens of the longest piece.
    pub(crate) fn row(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tokens as usize).max().unwrap_or(0)
    }
}

/// The packs of a corpus in order, as pieces; [`Packs`](crate::Packs) fills them with tokens.
pub struct Plans {
    lengths: Arc<[u32]>,
    options: PackOptions,
    /// The documents in the order of this epoch.
    order: Vec<u32>,
    /// Where the next window or the next pack begins.
    at: Cursor,
    /// What is left of the window that was planned last, and where that window began.
    window: VecDeque<Plan>,
    window_at: Cursor,
    window_given: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    epoch: u64,
    /// An index into the order of the epoch.
    document: usize,
    /// Tokens of that document that are already in a pack.
    token: u32,
}

impl Plans {
    /// For documents of these lengths.
    ///
    /// # Errors
    /// [`Error::Option`] for options that make no sense.
    pub fn new(lengths: &[u32], options: PackOptions) -> Result<Plans> {
        options.check()?;
        let at = Cursor { epoch: 0, document: 0, token: 0 };
        let (window, window_at) = (VecDeque::new(), at);
        let mut plans =
            Plans { lengths: lengths.into(), options, order: Vec::new(), at, window, window_at, window_given: 0 };
        plans.enter(0);
        Ok(plans)
    }

    /// The documents that are longer than a sequence can be and that the strategy must therefore cut.
    pub fn cut_documents(&self) -> usize {
        let longest = self.options.longest();
        match self.options.scheme {
            Scheme::Packed(Strategy::Split) => 0,
            _ => self.lengths.iter().filter(|length| **length as usize > longest).count(),
        }
    }

    /// The options.
    pub fn options(&self) -> &PackOptions {
        &self.options
    }

    pub(crate) fn position(&self, fingerprint: u64) -> Position {
        let at = if self.window.is_empty() { self.at } else { self.window_at };
        let pack = if self.window.is_empty() { 0 } else { self.window_given };
        Position { epoch: at.epoch, document: at.document as u64, token: at.token, pack, fingerprint }
    }

    /// Goes to a position of the same corpus with the same options. `None` if there is no such position.
    pub(crate) fn go_to(&mut self, position: &Position) -> Option<()> {
        let document = usize::try_from(position.document).ok().filter(|document| *document <= self.order.len())?;
        self.enter(position.epoch);
        if position.token > 0 {
            let length = self.lengths[*self.order.get(document)? as usize];
            (position.token < length).then_some(())?;
        }
        self.at = Cursor { epoch: position.epoch, document, token: position.token };
        for _ in 0..position.pack {
            self.next()?;
        }
        Some(())
    }

    /// Begins an epoch: its order is decided by the seed and its number.
    fn enter(&mut self, epoch: u64) {
        self.at = Cursor { epoch, document: 0, token: 0 };
        self.order = (0..self.lengths.len() as u32).filter(|document| self.lengths[*document as usize] > 0).collect();
        if let Some(seed) = self.options.seed {
            Random::new(&[seed, epoch]).shuffle(&mut self.order);
        }
    }

    /// The rest of the document at the cursor, at most `most` tokens of it; the cursor moves past them.
    fn piece(&mut self, most: usize) -> Option<Piece> {
        let document = *self.order.get(self.at.document)?;
        let start = self.at.token;
        let left = self.lengths[document as usize] - start;
        let tokens = left.min(u32::try_from(most).unwrap_or(u32::MAX));
        if tokens == left {
            self.at = Cursor { document: self.at.document + 1, token: 0, ..self.at };
        } else {
            self.at.token += tokens;
        }
        Some(Piece { document, start, tokens })
    }

    /// Tokens of the piece that [`Plans::piece`] would give; 0 where none is left.
    fn next_tokens(&self, most: usize) -> usize {
        let document = self.order.get(self.at.document);
        document.map_or(0, |document| most.min((self.lengths[*document as usize] - self.at.token) as usize))
    }

    /// One pack, in the order of the documents.
    fn in_order(&mut self) -> Plan {
        let capacity = self.options.tokens;
        let longest = self.options.longest();
        let mut plan = Plan { pieces: Vec::new(), continued: false, continues: false };
        match self.options.scheme {
            Scheme::Single => plan.pieces.extend(self.piece(longest)),
            Scheme::Padded { batch } => plan.pieces.extend((0..batch).map_while(|_| self.piece(longest))),
            Scheme::Packed(Strategy::Split) => {
                plan.continued = self.at.token > 0;
                let mut room = capacity;
                while room > 0 {
                    let Some(piece) = self.piece(room) else { break };
                    room -= piece.tokens as usize;
                    plan.pieces.push(piece);
                }
                plan.continues = self.at.token > 0;
            }
            Scheme::Packed(_) => {
                let mut room = capacity;
                while (1..=room).contains(&self.next_tokens(longest)) {
                    let Some(piece) = self.piece(longest) else { break };
                    room -= piece.tokens as usize;
                    plan.pieces.push(piece);
                }
            }
        }
        plan
    }

    /// Plans the packs of the next `documents` documents and shuffles them, since a best fit comes sorted by length.
    fn fill_window(&mut self, documents: usize) {
        self.window_at = self.at;
        self.window_given = 0;
        let end = self.at.document.saturating_add(documents).min(self.order.len());
        let mut pieces = Vec::new();
        while self.at.document < end {
            pieces.extend(self.piece(self.options.tokens));
        }
        let bins = match self.options.scheme {
            Scheme::Packed(Strategy::FirstFit) => first_fit(&pieces, self.options.tokens),
            _ => best_fit_decreasing(&pieces, self.options.tokens),
        };
        let mut plans: Vec<Plan> = bins.into_iter().map(|bin| plan_of(&pieces, bin)).collect();
        match self.options.seed {
            Some(seed) => {
                Random::new(&[seed, self.window_at.epoch, self.window_at.document as u64]).shuffle(&mut plans);
            }
            None => plans.sort_by_key(|plan| (plan.pieces[0].document, plan.pieces[0].start)),
        }
        self.window = plans.into();
    }
}

impl Iterator for Plans {
    type Item = Plan;

    fn next(&mut self) -> Option<Plan> {
        if self.window.is_empty() {
            if self.at.document == self.order.len() {
                if self.order.is_empty() {
                    return None;
                }
                self.enter(self.at.epoch + 1);
            }
            if self.options.epochs.is_some_and(|epochs| self.at.epoch >= epochs) {
                return None;
            }
            match self.options.scheme {
                Scheme::Packed(Strategy::FirstFit) => self.fill_window(Strategy::WINDOW),
                Scheme::Packed(Strategy::BestFitDecreasing { window }) => self.fill_window(window),
                _ => return Some(self.in_order()),
            }
        }
        self.window_given += 1;
        self.window.pop_front()
    }
}

/// A pack, its sequences in the order in which their documents came.
fn plan_of(pieces: &[Piece], mut bin: Vec<u32>) -> Plan {
    bin.sort_unstable();
    let pieces = bin.into_iter().map(|piece| pieces[piece as usize]).collect();
    Plan { pieces, continued: false, continues: false }
}

fn first_fit(pieces: &[Piece], capacity: usize) -> Vec<Vec<u32>> {
    let mut packs = ByOrder::new(pieces.len(), capacity);
    let mut bins: Vec<Vec<u32>> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let pack = packs.take(piece.tokens as usize);
        if pack == bins.len() {
            bins.push(Vec::new());
        }
        bins[pack].push(index as u32);
    }
    bins
}

fn best_fit_decreasing(pieces: &[Piece], capacity: usize) -> Vec<Vec<u32>> {
    let mut rooms = ByRoom::new(capacity);
    let mut bins: Vec<Vec<u32>> = Vec::new();
    for index in by_length_decreasing(pieces, capacity) {
        let need = pieces[index as usize].tokens as usize;
        let (room, pack) = rooms.take(need).unwrap_or_else(|| {
            bins.push(Vec::new());
            (capacity, bins.len() as u32 - 1)
        });
        bins[pack as usize].push(index);
        rooms.add(room - need, pack);
    }
    bins
}

/// Indices of pieces, the longest first, equal ones in their order: sorted by counting.
fn by_length_decreasing(pieces: &[Piece], capacity: usize) -> Vec<u32> {
    let mut starts = vec![0u32; capacity + 2];
    let class = |piece: &Piece| capacity - piece.tokens as usize;
    for piece in pieces {
        starts[class(piece) + 1] += 1;
    }
    for class in 1..starts.len() {
        starts[class] += starts[class - 1];
    }
    let mut sorted = vec![0; pieces.len()];
    for (index, piece) in pieces.iter().enumerate() {
        let start = &mut starts[class(piece)];
        sorted[*start as usize] = index as u32;
        *start += 1;
    }
    sorted
}
