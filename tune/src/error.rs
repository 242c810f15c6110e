//! What can go wrong before something could be timed.

use std::io;
use std::path::{Path, PathBuf};

use crate::file::Dropped;

/// Everything that this crate fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device, a variant or its arguments.
    #[error(transparent)]
    Runtime(#[from] packscan_runtime::Error),

    /// A result that the book does not allow: such a time would mean nothing.
    #[error("{id} is wrong, and was not timed: {mismatch}; `packscan verify --variant {id}` looks closer")]
    Wrong {
        /// The variant.
        id: String,
        /// The first element that is wrong.
        mismatch: Box<packscan_verify::Mismatch>,
    },

    /// A variant that is made for another problem than the one at hand.
    #[error("{id} has {parameter} {got}, but what is timed has {want}; take a variant of that, or name other sizes")]
    OtherProblem {
        /// The variant.
        id: String,
        /// Its parameter.
        parameter: &'static str,
        /// What it has.
        got: String,
        /// What the problem has.
        want: String,
    },

    /// A file of lengths that cannot be read.
    #[error("{} cannot be read: {source}; --lengths names a file of numbers of tokens, one for each sequence", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A word in a file of lengths that is none.
    #[error("{}, line {line}: {got:?} is no number of tokens; a line has one whole number, or several with spaces", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The word.
        got: String,
    },

    /// A buffer that the GPU has no room for.
    #[error(
        "{name} takes {needed_gb:.1} GB, and {device} has {free_gb:.1} GB left; take fewer tokens or channels, or one operator at a time"
    )]
    TooLarge {
        /// The tensor.
        name: &'static str,
        /// What it would take.
        needed_gb: f64,
        /// What there is.
        free_gb: f64,
        /// Where.
        device: String,
    },

    /// A file or folder of the tuner.
    #[error("{} cannot be {doing}: {source}; PACKSCAN_CACHE names another folder", path.display())]
    Store {
        /// What was tried: read, written.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A GPU that runs nothing any more, as after an access out of bounds; only another process can use it again.
    #[error("the GPU runs nothing any more after {}; `packscan tune --without ID` leaves a variant out", ids.join(" and "))]
    Lost {
        /// The variants that were under way.
        ids: Vec<String>,
    },

    /// A matrix product that could be verified, and then not be timed.
    #[error("{name} cannot be timed: {reason}; `--no-tune` trains with what cuBLASLt chooses")]
    Product {
        /// The product.
        name: &'static str,
        /// Why.
        reason: String,
    },

    /// A launch for which nothing can run.
    #[error("{slot}: no candidate is left; {}", list(dropped))]
    NoneLeft {
        /// The launch.
        slot: String,
        /// Every candidate and why it may not run.
        dropped: Vec<Dropped>,
    },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Store { doing, path: path.to_owned(), source }
    }
}

fn list(dropped: &[Dropped]) -> String {
    dropped.iter().map(|Dropped { id, reason }| format!("\n  {id}: {reason}")).collect()
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
