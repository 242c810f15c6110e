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

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    #[error("cannot {verb} {}: {source}", path.display())]
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

/// Writes a file under a temporary name and renames it: readers see all of it or what was there before.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = readable_by_others(&mut tempfile::Builder::new()).tempfile_in(folder)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path)?;
        sync_folder(folder)
    };
    write().map_err(|source| Error::File { verb: "write", path: path.to_owned(), source })
}

/// A temporary file is its owner's alone by default; a report is for whoever the umask lets read.
#[cfg(unix)]
fn readable_by_others<'a>(
    builder: &'a mut tempfile::Builder<'static, 'static>,
) -> &'a mut tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn readable_by_others<'a>(
    builder: &'a mut tempfile::Builder<'static, 'static>,
) -> &'a mut tempfile::Builder<'static, 'static> {
    builder
}

/// A rename is kept across a power failure only once its folder is written too; only Unix opens folders.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
