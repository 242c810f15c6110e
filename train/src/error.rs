//! The one error type of the crate.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while a model is made, trained, saved or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Everything below: kernels, devices, packs.
    #[error(transparent)]
    Runtime(#[from] packscan_runtime::Error),

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

    /// A file of settings that cannot be read as such.
    #[error("{} is no model: {source}", path.display())]
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
    #[error("{}: {name} has the shape {got:?}, but {of} has {want:?} there", path.display())]
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
    #[error("cannot {doing} {}: {source}", path.display())]
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
