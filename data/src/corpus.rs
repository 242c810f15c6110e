//! A corpus: files, tokenised once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::files::{self, Format, Source};
use crate::lines::text_of;
use crate::random::Random;
use crate::records::{self, Content, Record};
use crate::shards::{self, Document, Store, Tokens, Writer};
use crate::{Error, Result, Skipped, Tokenizer};

/// Which files make a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Files and folders: text, `.jsonl` or `.ndjson`, `.parquet`; text and JSONL may end in `.gz` or `.zst`.
    pub paths: Vec<PathBuf>,
    /// The field of a JSONL record, or the column of a Parquet file, that holds the text.
    pub text_field: String,
    /// Leave out files, lines and rows that give no text, count and name them, instead of refusing the corpus.
    pub skip_bad: bool,
    /// Where tokens are cached.
    pub cache: PathBuf,
}

impl CorpusOptions {
    /// The field `text`, no bad record.
    pub fn new(paths: Vec<PathBuf>, cache: PathBuf) -> CorpusOptions {
        CorpusOptions { paths, text_field: "text".to_owned(), skip_bad: false, cache }
    }
}

/// How far tokenising is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the files that were read, as they lie on the disk.
    pub bytes: u64,
    /// Bytes of all files.
    pub all_bytes: u64,
    /// Documents so far.
    pub documents: usize,
    /// Tokens so far.
    pub tokens: u64,
}

/// Tokenised documents, mapped into memory. A clone is cheap and shares them.
///
/// What is meant as text and is none, for a byte that is not UTF-8 or a missing field, is an error or, where that was asked for, left out. A
/// folder holds other things besides: a picture or a program in it is passed over, and so are JSONL and Parquet files of something else. All
/// are counted and named in [`Skipped`].
#[derive(Clone)]
pub struct Corpus {
    store: Arc<Store>,
    parts: Arc<[Part]>,
    lengths: Arc<[u32]>,
    tokenizer: [u8; 32],
}

/// What a corpus has of a document: all of it, save where a part was held out.
#[derive(Clone, Copy, Debug)]
struct Part {
    document: u32,
    start: u32,
    tokens: u32,
}

/// Bytes and records that are tokenised together, in parallel.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_RECORDS: usize = 4096;

/// A longer text is tokenised in blocks of about so many bytes, cut after a line: a Hugging Face tokenizer needs some 50
/// bytes of memory a byte of text and one thread for each text. Tokens that would reach over a cut are the only ones to differ.
const BLOCK_BYTES: usize = 1 << 20;

impl Corpus {
    /// Reads, tokenises and caches the files, or maps what was cached before: the same files, unchanged since, by the same
    /// tokenizer.
    ///
    /// # Errors
    /// Those of files, records and the cache, and [`Error::Empty`] where no token is left.
    pub fn open(options: &CorpusOptions, tokenizer: &Tokenizer, mut progress: impl FnMut(&Progress)) -> Result<Corpus> {
        tag(&options.cache);
        let sources = files::find(&options.paths)?;
        if sources.is_empty() {
            return Err(nothing_in(options, &Skipped::default()));
        }
        let corpora = options.cache.join("corpora");
        shards::sweep(&corpora);
        let name = corpora.join(key(&sources, options, tokenizer));
        let found = Store::open(&name);
        let store = match found {
            Ok(Some(store)) => store,
            Ok(None) | Err(_) => {
                let failed = |source| Error::Cache { folder: corpora.clone(), source };
                let writer = Writer::new(&corpora, tokenizer.vocabulary()).map_err(failed)?;
                tag(&options.cache);
                let mut build = Build { options, tokenizer, sources: &sources, writer, skipped: Skipped::default() };
                build.run(&mut progress)?;
                if build.writer.documents() == 0 {
                    return Err(nothing_in(options, &build.skipped));
                }
                let files = sources.iter().map(|source| source.path.clone()).collect();
                let mut store = build.writer.finish(&name, files, build.skipped).map_err(failed)?;
                store.damaged = found.err();
                store
            }
        };
        let whole =
            |(document, about): (usize, &Document)| Part { document: document as u32, start: 0, tokens: about.tokens };
        let parts = store.documents().iter().enumerate().map(whole).collect();
        Ok(Corpus::of(Arc::new(store), parts, tokenizer.digest()))
    }

    fn of(store: Arc<Store>, parts: Vec<Part>, tokenizer: [u8; 32]) -> Corpus {
        let lengths = parts.iter().map(|part| part.tokens).collect();
        Corpus { store, parts: parts.into(), lengths, tokenizer }
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.parts.len()
    }

    /// The tokens of each document, its end among them.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Tokens of all documents.
    pub fn total_tokens(&self) -> u64 {
        self.lengths.iter().map(|length| u64::from(*length)).sum()
    }

    /// The ids of a document.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn tokens(&self, document: usize) -> Tokens<'_> {
        let part = self.parts[document];
        self.store.tokens(part.document).slice(part.start as usize, (part.start + part.tokens) as usize)
    }

    /// Where a document is from, for people: the file, and in it the line or row.
    ///
    /// # Panics
    /// If there is no such document.
    pub fn name(&self, document: usize) -> String {
        let stored = self.parts[document].document;
        let path = self.store.file(stored);
        let record = self.store.documents()[stored as usize].record;
        match files::format(path) {
            Format::Text => path.display().to_string(),
            Format::Jsonl => format!("{}, line {record}", path.display()),
            Format::Parquet => format!("{}, row {record}", path.display()),
        }
    }

    /// What was wrong with what was cached of these files, where it was; they were tokenised again.
    pub fn damaged(&self) -> Option<&str> {
        self.store.damaged.as_deref()
    }

    /// What was left out.
    pub fn skipped(&self) -> &Skipped {
        self.store.skipped()
    }

    /// Decided by the documents and their tokenizer, not by where files lie.
    pub(crate) fn fingerprint(&self, hash: &mut Sha256) {
        hash.update(self.tokenizer);
        hash.update(bytemuck::cast_slice(&self.store.crc32));
        for part in self.parts.iter() {
            hash.update(bytemuck::cast_slice(&[part.start, part.tokens]));
        }
    }

    /// Two corpora: one to train on, one with about `share` of the tokens to evaluate on. Whole documents are held out,
    /// chosen by the seed; where there are only documents too large for that, the end of the longest is.
    ///
    /// # Errors
    /// [`Error::HeldOut`] if the share is not between 0 and 1 or one side would have nothing to predict.
    pub fn split_held_out(&self, share: f64, seed: u64) -> Result<(Corpus, Corpus)> {
        let total = self.total_tokens();
        let refused = || Error::HeldOut { share, tokens: total };
        let wanted = (total as f64 * share) as u64;
        if !(share > 0.0 && share < 1.0) || wanted < 2 || total - wanted < 2 {
            return Err(refused());
        }
        let mut order: Vec<usize> = (0..self.documents()).collect();
        Random::new(&[seed]).shuffle(&mut order);
        let (mut held, mut taken) = (vec![false; order.len()], 0);
        for document in order {
            let tokens = u64::from(self.lengths[document]);
            // Not twice the share, so that one giant is not all there is to evaluate on, or to train on.
            if taken < wanted && taken + tokens <= 2 * wanted && taken + tokens < total {
                held[document] = true;
                taken += tokens;
            }
        }
        let (mut out, mut kept): (Vec<Part>, Vec<Part>) = (Vec::new(), Vec::new());
        for (part, held) in self.parts.iter().zip(&held) {
            if *held { out.push(*part) } else { kept.push(*part) }
        }
        if out.is_empty() {
            let longest = kept.iter_mut().max_by_key(|part| part.tokens).ok_or_else(refused)?;
            let tokens = wanted.min(u64::from(longest.tokens).saturating_sub(2)).max(2) as u32;
            longest.tokens = longest.tokens.checked_sub(tokens).filter(|left| *left >= 2).ok_or_else(refused)?;
            out.push(Part { start: longest.start + longest.tokens, tokens, ..*longest });
        }
        let side = |parts| Corpus::of(self.store.clone(), parts, self.tokenizer);
        Ok((side(kept), side(out)))
    }
}

impl fmt::Debug for Corpus {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "Corpus {{ documents: {}, tokens: {} }}", self.documents(), self.total_tokens())
    }
}

/// Marks the cache as one, where it is there, so that a corpus of a folder around it passes it over and backups do too.
fn tag(cache: &Path) {
    let path = cache.join("CACHEDIR.TAG");
    if cache.is_dir() && !path.exists() {
        // Whatever keeps the tag from being written keeps tokens from being, and is told there.
        let _ = fs::write(path, "Signature: 8a477f597d28d172789f06886806bc55\n# What packscan can make again.\n");
    }
}

/// The name of a corpus in the cache.
fn key(sources: &[Source], options: &CorpusOptions, tokenizer: &Tokenizer) -> String {
    let mut hash = Sha256::new();
    hash.update(shards::VERSION.to_le_bytes());
    hash.update(tokenizer.digest());
    hash.update([u8::from(options.skip_bad)]);
    hash.update((options.text_field.len() as u64).to_le_bytes());
    hash.update(&options.text_field);
    for source in sources {
        source.mark(&mut hash);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn nothing_in(options: &CorpusOptions, skipped: &Skipped) -> Error {
    let paths = options.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let what = if paths.is_empty() { "no file was named".to_owned() } else { format!("no text in {paths}") };
    Error::Empty { what, left_out: skipped.lines().into_iter().map(|line| format!("\n{line}")).collect() }
}

/// Tokenising in progress.
struct Build<'a> {
    options: &'a CorpusOptions,
    tokenizer: &'a Tokenizer,
    sources: &'a [Source],
    writer: Writer,
    skipped: Skipped,
}

/// What became of a record.
enum Outcome {
    Tokens(Vec<u32>),
    Binary(u64),
    Other(String),
    Bad(Error),
}

impl Build<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(&Progress)) -> Result<()> {
        let all_bytes = self.sources.iter().map(|source| source.bytes).sum();
        let mut so_far = Progress { bytes: 0, all_bytes, documents: 0, tokens: 0 };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let sources = self.sources;
        for (file, source) in sources.iter().enumerate() {
            let read = records::read(file as u32, source, &self.options.text_field, &mut |record| {
                bytes += record.content.bytes();
                batch.push(record);
                if bytes >= BATCH_BYTES || batch.len() >= BATCH_RECORDS {
                    bytes = 0;
                    so_far.tokens += self.tokenise(std::mem::take(&mut batch))?;
                    so_far.documents = self.writer.documents();
                    progress(&so_far);
                }
                Ok(())
            });
            match read {
                Err(error) if self.options.skip_bad && error.is_of_file() => {
                    self.skipped.bad_records.add(|| error.fault())
                }
                read => read?,
            }
            so_far.bytes += source.bytes;
        }
        so_far.tokens += self.tokenise(batch)?;
        progress(&Progress { documents: self.writer.documents(), ..so_far });
        Ok(())
    }

    /// Tokenises records in parallel and stores them in their order. Returns their tokens.
    fn tokenise(&mut self, batch: Vec<Record>) -> Result<u64> {
        let outcomes: Vec<Result<Outcome>> = batch.par_iter().map(|record| self.outcome(record)).collect();
        let mut tokens = 0;
        for (record, outcome) in batch.iter().zip(outcomes) {
            match outcome? {
                Outcome::Tokens(ids) if ids.is_empty() => self.skipped.empty_documents += 1,
                Outcome::Tokens(mut ids) => {
                    ids.extend(self.tokenizer.end());
                    self.store(record, &ids)?;
                    tokens += ids.len() as u64;
                }
                Outcome::Binary(offset) => {
                    let path = &self.sources[record.file as usize].path;
                    self.skipped.binary_files.add(|| format!("{}: byte {offset} is no text", path.display()));
                }
                Outcome::Other(what) => self.skipped.other_files.add(|| what),
                Outcome::Bad(error) if self.options.skip_bad => self.skipped.bad_records.add(|| error.fault()),
                Outcome::Bad(error) => return Err(error),
            }
        }
        Ok(tokens)
    }

    fn store(&mut self, record: &Record, ids: &[u32]) -> Result<()> {
        let path = || self.sources[record.file as usize].path.clone();
        let tokens = u32::try_from(ids.len()).map_err(|_| Error::TooLong { path: path(), tokens: ids.len() })?;
        let document = Document { tokens, file: record.file, record: u32::try_from(record.number).unwrap_or(u32::MAX) };
        let folder = || self.options.cache.join("corpora");
        self.writer.push(document, ids).map_err(|source| Error::Cache { folder: folder(), source })
    }

    fn outcome(&self, record: &Record) -> Result<Outcome> {
        let source = &self.sources[record.file as usize];
        let field = &self.options.text_field;
        let bad = |unit, rule| {
            Ok(Outcome::Bad(Error::Record { path: source.path.clone(), unit, record: record.number, rule }))
        };
        match &record.content {
            Content::Binary(offset) => Ok(Outcome::Binary(*offset)),
            Content::Other(rule) => Ok(Outcome::Other(format!("{}: {rule}", source.path.display()))),
            Content::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => self.encode(text),
                Err(error) => {
                    let offset = error.valid_up_to() as u64;
                    Ok(Outcome::Bad(Error::NotText { path: source.path.clone(), offset }))
                }
            },
            Content::Json(line) => match text_of(line, field) {
                Ok(text) => self.encode(&text),
                Err(rule) => bad("line", rule),
            },
            // A column that may be null says so itself: that is no mistake, only no text.
            Content::Value(None) => Ok(Outcome::Tokens(Vec::new())),
            Content::Value(Some(value)) => match std::str::from_utf8(value.data()) {
                Ok(text) => self.encode(text),
                Err(error) => bad("row", format!("byte {} of the text is not valid UTF-8", error.valid_up_to())),
            },
        }
    }

    fn encode(&self, text: &str) -> Result<Outcome> {
        let ids = match self.tokenizer {
            Tokenizer::Hf(_) if text.len() > BLOCK_BYTES => {
                let blocks = blocks(text, BLOCK_BYTES);
                let ids: Result<Vec<_>> = blocks.par_iter().map(|block| self.tokenizer.encode(block)).collect();
                ids?.concat()
            }
            _ => self.tokenizer.encode(text)?,
        };
        Ok(Outcome::Tokens(ids))
    }
}

/// Cuts a text after the first line end from `bytes` on, again and again.
fn blocks(text: &str, bytes: usize) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while rest.len() > bytes {
        // A line end is one byte, so what follows it begins a character.
        let Some(line_end) = rest.as_bytes()[bytes..].iter().position(|byte| *byte == b'\n') else { break };
        let (block, after) = rest.split_at(bytes + line_end + 1);
        blocks.push(block);
        rest = after;
    }
    if !rest.is_empty() {
        blocks.push(rest);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn blocks_end_at_lines() {
        assert_eq!(blocks("one\ntwo\nthree\nfour", 5), ["one\ntwo\n", "three\n", "four"]);
        assert_eq!(blocks("one\n", 3), ["one\n"]);
        assert_eq!(blocks("no line end", 3), ["no line end"]);
        assert!(blocks("", 3).is_empty());
    }
}
