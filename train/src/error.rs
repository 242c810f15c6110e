//! The one error type of the crate.

use std::io;
use std::path::{Path, PathBuf};

use crate::report::number::few;

/// What can go wrong while a model is made, trained, saved or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Everything below: kernels, devices, packs.
    #[error(transparent)]
    Runtime(#[from] packscan_runtime::Error),

    /// Text and packs.
    #[error(transparent)]
    Data(#[from] packscan_data::Error),

    /// The records of a run.
    #[error(transparent)]
    Report(#[from] crate::report::Error),

    /// A model that is none.
    #[error("no model is known as {name:?}; give the path of a TOML file, or one of {known}")]
    Model {
        /// What was named.
        name: String,
        /// What could have been named.
        known: String,
    },

    /// A setting that no run can have.
    #[error("{field} is {got}; {rule}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: String,
        /// The rule and the cure.
        rule: String,
    },

    /// Too little memory.
    #[error(
        "the run needs more than the {budget} that there is for it, even when blocks keep nothing:\n{needed}\n{cure}"
    )]
    Memory {
        /// What it needs at least.
        needed: String,
        /// What there is.
        budget: String,
        /// What would fit.
        cure: String,
    },

    /// A run whose text is not where it was.
    #[error("{error}\n{} names its text: put it back, or write there where it is now", run.join(crate::run::FILE).display())]
    TextGone {
        /// What cannot be read.
        error: packscan_data::Error,
        /// The run's folder.
        run: PathBuf,
    },

    /// A run whose text is not what it was.
    #[error("{error}\n{said}", said = other_text(run, newer))]
    OtherText {
        /// What differs.
        error: packscan_data::Error,
        /// The run's folder.
        run: PathBuf,
        /// Files of its text that are newer than the run.
        newer: Vec<PathBuf>,
    },

    /// A run that learns nothing any more.
    #[error(
        "{steps} steps in a row were skipped, the last of them step {step}: {what}\nif it is the same text again and again, look at that; if it \
         is every text, the model has diverged: {cure}"
    )]
    Diverged {
        /// How many.
        steps: u32,
        /// The last of them.
        step: u32,
        /// What was not finite, and of which text.
        what: String,
        /// How the run goes on with a lower learning rate.
        cure: String,
    },

    /// A folder that another process trains in.
    #[error(
        "{} is in use: {} trains there; wait until it has ended, stop it, or name another folder",
        folder.display(),
        if by.is_empty() { "another process" } else { by }
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process, where it is known.
        by: String,
    },

    /// A run that ended without its last checkpoint.
    #[error(
        "the run ended, but its last checkpoint, of step {step}, was NOT saved: {error}\nonce that is mended, {cure}"
    )]
    Unsaved {
        /// The step.
        step: u32,
        /// What kept it from being saved.
        error: Box<Error>,
        /// From where the run goes on.
        cure: String,
    },

    /// Numbers that are none.
    #[error("{what} are not finite numbers; the model has diverged, take an earlier checkpoint")]
    NotFinite {
        /// Whose.
        what: String,
    },

    /// A file of settings that cannot be read as such.
    #[error("{} does not say what it should: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: Box<toml::de::Error>,
    },

    /// A saved model or checkpoint that cannot be used.
    #[error("{} cannot be used: {rule}", path.display())]
    Saved {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and the cure.
        rule: String,
    },

    /// A tensor of another shape than the model's.
    #[error(
        "{}: {name} has the shape {got:?}, but {of} has {want:?} there; put back the sizes that were changed, or take weights of those sizes",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// Which model has another.
        of: &'static str,
        /// The shape there.
        want: Vec<usize>,
    },

    /// A file or folder that cannot be used.
    #[error("cannot {doing} {}: {source}{}", path.display(), cure(source))]
    File {
        /// What was tried: read, write, rename.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Error {
        Error::File { doing, path: path.to_owned(), source }
    }

    pub(crate) fn saved(path: &Path, rule: impl Into<String>) -> Error {
        Error::Saved { path: path.to_owned(), rule: rule.into() }
    }
}

/// What helps against what the system says of a file, where that is known; to be put after it.
pub(crate) fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there",
        io::ErrorKind::FileTooLarge => "; raise the limit of what a file may hold (`ulimit -f`)",
        io::ErrorKind::ReadOnlyFilesystem => "; name a folder that can be written",
        io::ErrorKind::PermissionDenied => "; let this user read and write there",
        _ => "",
    }
}

/// Which files are others than they were, or where else to look.
fn other_text(run: &Path, newer: &[PathBuf]) -> String {
    let names: Vec<String> = newer.iter().map(|path| path.display().to_string()).collect();
    match names.is_empty() {
        true => format!(
            "no file of its text is newer than the run: one is missing, or {} says otherwise than it did",
            run.join(crate::run::FILE).display()
        ),
        false => format!("newer than the run: {}", few(&names)),
    }
}
