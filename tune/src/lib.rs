//! How fast packscan's kernels are at the sizes of a model, on the machine at hand, and how fast they could be.

pub mod candidates;
mod error;
pub mod file;
pub mod rounds;
pub mod tune;

pub use error::{Error, Result};
