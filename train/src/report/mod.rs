//! What a training run leaves for people to look at.
//!
//! [`MetricsFile`] appends a line of `metrics.jsonl` each step, [`Page`] makes `run.html` of them, [`Progress`] is what the terminal
//! shows meanwhile. None of them knows how a model is trained: they are given [`Metrics`].

mod charts;
mod metrics;
pub mod number;
mod page;
pub mod plot;
mod progress;
mod tokenising;

use std::io;
use std::path::{Path, PathBuf};

use crate::error::cure;
use crate::files;

pub use charts::lengths_plot;
pub use metrics::{Metrics, MetricsFile, read_metrics};
pub use page::{Page, Status};
pub use progress::Progress;
pub use tokenising::{left_out, open_corpus};

/// What can go wrong with the files of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("cannot {verb} {}: {source}{}", path.display(), cure(source))]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// A line of `metrics.jsonl` that is none.
    #[error("{}, line {line}: {source}; every line is one step's metrics in JSON; delete the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The result of everything in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Writes a file that readers see all of, or what was there before.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write_whole(path, bytes).map_err(|source| Error::File { verb: "write", path: path.to_owned(), source })
}
