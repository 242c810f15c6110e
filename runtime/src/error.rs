//! The one error type of the crate.

/// What can go wrong between a kernel declaration and its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A placeholder until the first real variant lands.
    #[error("{0}")]
    Other(String),
}
