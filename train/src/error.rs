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

    /// Numbers that are none.
    #[error("{what} are not finite numbers; the model has diverged, take an earlier checkpoint")]
    NotFinite {
        /// Whose.
        what: String,
    },

    /// A file of settings that cannot be read as such.
    #[error("{} is no model: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: Box<toml::de::Error>,
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
}
