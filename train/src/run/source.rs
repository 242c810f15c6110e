//! Where a run's packs come from.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use packscan_data::{
    Corpus, CorpusOptions, Pack, PackOptions, Position, Prefetched, Scheme, Strategy, Tokenizer, prefetch,
};
use packscan_runtime::collective::Collective;
use packscan_runtime::{Packed, cache};

use super::{DevicePack, Settings};
use crate::report::number::{counted, few};
use crate::report::{left_out, open_corpus};
use crate::{Error, Learner, Result};

/// Packs made ahead of the step under way, for each pack of a step.
pub(super) const AHEAD: usize = 3;
/// Packs that an evaluation looks at, at most, on each rank.
const EVALUATED: usize = 16;

/// The text of a run.
pub struct Source {
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// What is trained on.
    pub corpus: Corpus,
    held_out: Option<Corpus>,
    packs: Prefetched,
    /// Documents that are longer than a sequence can be.
    cut: usize,
    scheme: Scheme,
    /// Packs of a step, on each rank.
    each: usize,
    tokens: usize,
    rank: usize,
    ranks: usize,
}

/// The packs of one step, on one rank: what is told of them.
pub struct Packs {
    /// Tokens of the text.
    pub tokens: usize,
    /// Room for tokens that none of the text has.
    pub padding: usize,
    /// Where the text goes on.
    pub position: Position,
    documents: Vec<Vec<u32>>,
}

impl Packs {
    /// The files that a pack's documents are from, the first few.
    pub fn names(&self, pack: usize, source: &Source) -> String {
        let mut names: Vec<String> = Vec::new();
        for &document in &self.documents[pack] {
            let name = source.corpus.name(document as usize);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        few(&names)
    }
}

/// What the settings say of the corpus.
fn corpus_options(settings: &Settings) -> Result<CorpusOptions> {
    let mut options = CorpusOptions::new(settings.text.paths.clone(), cache::default_folder()?);
    options.text_field.clone_from(&settings.text.text_field);
    options.skip_bad = settings.text.skip_bad;
    Ok(options)
}

/// What helps where documents are longer than a sequence can be: only packs carry a state on.
fn against_cuts(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Packed(_) => "--strategy split carries the state on, or take more --tokens",
        Scheme::Single => "take more --tokens",
        Scheme::Padded { .. } => {
            "take more --tokens, or a smaller --batch: a row has at most --tokens / --batch tokens"
        }
    }
}

impl Source {
    /// Opens the text by a tokenizer, and goes on from a position in it.
    ///
    /// # Errors
    /// Those of [`packscan_data`].
    pub fn open(
        settings: &Settings,
        tokenizer: Tokenizer,
        ranks: &dyn Collective,
        position: Option<&Position>,
    ) -> Result<Source> {
        let text = &settings.text;
        let corpus = open_corpus(&corpus_options(settings)?, &tokenizer, ranks.rank() == 0)?;
        let (corpus, held_out) = match text.held_out > 0.0 {
            true => corpus.split_held_out(text.held_out, settings.seed).map(|(rest, held)| (rest, Some(held)))?,
            false => (corpus, None),
        };
        let options = PackOptions { seed: Some(settings.seed), ..PackOptions::new(text.tokens, text.scheme) };
        let packs = match position {
            Some(position) => packscan_data::Packs::resume(&corpus, options, position)?,
            None => packscan_data::Packs::new(&corpus, options)?,
        };
        let (rank, size) = (ranks.rank(), ranks.size());
        let cut = packs.cut_documents();
        let packs = prefetch(packs, AHEAD * text.packs * size)?;
        let (scheme, each, tokens) = (text.scheme, text.packs, text.tokens);
        Ok(Source { tokenizer, corpus, held_out, packs, cut, scheme, each, tokens, rank, ranks: size })
    }

    /// Lines about the text: how much there is, and what is not as one might think.
    pub fn describe(&self) -> Vec<String> {
        let held = match &self.held_out {
            Some(held) => format!(", {} held out", counted(held.total_tokens(), "token")),
            None => String::new(),
        };
        let (documents, tokens) = (self.corpus.documents() as u64, self.corpus.total_tokens());
        let mut lines = vec![format!("text: {}, {}{held}", counted(documents, "document"), counted(tokens, "token"))];
        lines.extend(left_out(&self.corpus));
        if self.cut > 0 {
            lines.push(format!(
                "cut: {} longer than a sequence can be; {}",
                counted(self.cut as u64, "document"),
                against_cuts(self.scheme)
            ));
        }
        if self.tokenizer.end().is_none() {
            lines.push("the tokenizer names no token that ends a document: none is added".to_owned());
        }
        lines
    }

    /// Puts the packs of the next step that are this rank's where it runs: of those of all ranks a run of neighbours.
    ///
    /// # Errors
    /// Those of [`DevicePack::set`].
    pub fn next(&mut self, rooms: &mut [DevicePack]) -> Result<Packs> {
        let all: Vec<(Pack, Position)> = self.packs.by_ref().take(self.each * self.ranks).collect();
        let position = all.last().expect("packs without end").1;
        let first = self.each * self.rank;
        let mut mine: Vec<Pack> = all.into_iter().skip(first).take(self.each).map(|(pack, _)| pack).collect();
        if self.ranks > 1 {
            // What another rank has of a document does not come here.
            if let Some(continued) = mine[0].continued.first_mut() {
                *continued = false;
            }
            mine[self.each - 1].continues = false;
        }
        let (tokens, padding) = mine.iter().fold((0, 0), |(t, p), pack| (t + pack.real, p + pack.padding));
        mine.iter().zip(rooms).try_for_each(|(pack, room)| place(pack, room))?;
        let documents = mine.into_iter().map(|pack| pack.documents).collect();
        Ok(Packs { tokens, padding, position, documents })
    }

    /// Mean loss of the text that was held out, of its first packs, which take turns in a room.
    ///
    /// # Errors
    /// Whatever running the model fails with.
    pub fn held_out_loss(
        &self,
        learner: &Learner,
        room: &mut DevicePack,
        ranks: &dyn Collective,
    ) -> Result<Option<f64>> {
        let Some(corpus) = &self.held_out else { return Ok(None) };
        let options = PackOptions {
            seed: None,
            epochs: Some(1),
            ..PackOptions::new(self.tokens, Scheme::Packed(Strategy::default()))
        };
        let packs = packscan_data::Packs::new(corpus, options)?.take(EVALUATED * self.ranks);
        let mut sums = [0.0, 0.0];
        for pack in packs.skip(self.rank).step_by(self.ranks) {
            place(&pack, room)?;
            sums[0] += learner.losses(room)?.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            sums[1] += room.predicted as f64;
        }
        ranks.all_reduce_f64(&mut sums)?;
        Ok((sums[1] > 0.0).then(|| sums[0] / sums[1]))
    }
}

/// Says of a text that is not that of a run which goes on what is to be looked at: which files of it are newer than the run.
pub(super) fn not_of_the_run(error: Error, run: &Path, paths: &[PathBuf], began: SystemTime) -> Error {
    let run = run.to_owned();
    match error {
        Error::Data(error @ (packscan_data::Error::Read { .. } | packscan_data::Error::Empty { .. })) => {
            Error::TextGone { error, run }
        }
        Error::Data(error @ packscan_data::Error::Position { .. }) => {
            let newer = packscan_data::newer_than(paths, began).unwrap_or_default();
            Error::OtherText { error, run, newer }
        }
        error => error,
    }
}

/// Puts a pack where a model runs.
pub(crate) fn place(pack: &Pack, room: &mut DevicePack) -> Result<()> {
    let packed = Packed::from_lengths(&pack.lengths)?.with_continued(&pack.continued)?;
    room.set(&packed, &pack.tokens, &pack.targets)?;
    room.continues = pack.continues;
    Ok(())
}
