//! The one error type of the crate.

use std::io;
use std::path::PathBuf;

use crate::number::counted;

/// What can go wrong between a file and a pack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that was named and cannot be read.
    #[error("{} cannot be read: {source}; name files and folders that are there and can be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A compressed file that is damaged or ends early.
    #[error("{} is not whole: {source}; copy or download it again, or leave it out", path.display())]
    Compressed {
        /// Which.
        path: PathBuf,
        /// What the decoder said.
        source: io::Error,
    },

    /// A text file that is none.
    #[error(
        "{}: byte {offset} is not valid UTF-8, as text must be; convert the file (`iconv -t UTF-8`), leave it out, or skip such files with \
         --skip-bad",
        path.display()
    )]
    NotText {
        /// Which.
        path: PathBuf,
        /// The first byte at fault, from 0, after decompression.
        offset: u64,
    },

    /// A line of a JSONL file or a row of a Parquet file that gives no text.
    #[error(
        "{}, {unit} {record}: {rule}; mend the record, name another field with --text-field, or skip such records with --skip-bad",
        path.display()
    )]
    Record {
        /// Which file.
        path: PathBuf,
        /// `line` or `row`.
        unit: &'static str,
        /// Which line or row, from 1.
        record: u64,
        /// What is wrong with it.
        rule: String,
    },

    /// A file that packscan does not read: a Parquet file that is damaged or has no such column, or another compression.
    #[error("{}: {rule}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and the cure.
        rule: String,
    },

    /// Too long a document.
    #[error("{}: one document has {tokens} tokens, at most 4294967295 are possible; split the file", path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its tokens.
        tokens: usize,
    },

    /// Nothing to train on.
    #[error("the corpus is empty: {what}; name files or folders with text{left_out}")]
    Empty {
        /// What was looked at.
        what: String,
        /// What of it was left out, a line for each.
        left_out: String,
    },

    /// A share that leaves one side with nothing.
    #[error(
        "held out: {share} of {}; the share lies between 0 and 1 and leaves two tokens on each side; take another --held-out, or 0 to hold out nothing",
        counted(*tokens, "token")
    )]
    HeldOut {
        /// The share.
        share: f64,
        /// Tokens of the corpus.
        tokens: u64,
    },

    /// A tokenizer that is none.
    #[error(
        "{} is no tokenizer: {what}; name the tokenizer.json of a Hugging Face model, or none to train on bytes",
        path.display()
    )]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },

    /// Text that the tokenizer refuses.
    #[error("the tokenizer cannot encode a text: {what}")]
    Encode {
        /// What it said.
        what: String,
    },

    /// An id that stands for nothing.
    #[error("token {id} is none: the tokenizer has {vocabulary}, from 0")]
    Id {
        /// The id.
        id: u32,
        /// How many there are.
        vocabulary: usize,
    },

    /// An option that makes no sense.
    #[error("{field} is {value}: {rule}")]
    Option {
        /// Which.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The rule and the cure.
        rule: &'static str,
    },

    /// A position in other packs.
    #[error(
        "the data position does not belong to these packs: {what}; resume with the corpus and options of that run, or begin anew"
    )]
    Position {
        /// What differs.
        what: &'static str,
    },

    /// Tokens that cannot be stored.
    #[error("tokens cannot be cached in {}: {source}; set PACKSCAN_CACHE to a folder with room that can be written", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// No thread for prefetching.
    #[error("no thread can be started to prefetch packs: {0}")]
    Thread(io::Error),
}

impl Error {
    /// Whether it says that a file is damaged or of another kind, which no second look at it would change.
    pub(crate) fn is_of_file(&self) -> bool {
        matches!(self, Error::Compressed { .. } | Error::File { .. })
    }

    /// Where a record is and what is wrong with it, without the cure: for a list of those that were left out.
    pub(crate) fn fault(&self) -> String {
        match self {
            Error::Compressed { path, source } => format!("{} is not whole: {source}", path.display()),
            Error::NotText { path, offset } => format!("{}: byte {offset} is not valid UTF-8", path.display()),
            Error::Record { path, unit, record, rule } => format!("{}, {unit} {record}: {rule}", path.display()),
            other => other.to_string(),
        }
    }
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
