//! How fast packscan's kernels are at the sizes of a model, on the machine at hand, how fast they could be, and which variants are the fastest.
//!
//! [`workload`] makes any variant of any operator's pass ready to be timed, with inputs on the device, and says what the
//! machine needs for it at least. [`tune()`] lists [`candidates`], compiles and verifies them, times them in [`rounds`] and says which won;
//! a tuning [`file`](mod@file) remembers it. [`products()`] does the same for the matrix products, whose algorithms are cuBLASLt's.

pub mod candidates;
mod error;
pub mod file;
mod hardware;
pub mod known;
mod products;
pub mod report;
pub mod rounds;
pub mod tune;
pub mod workload;

pub use error::{Error, Result};
pub use hardware::Tuning;
pub use products::{FoundProduct, prefix, products};
pub use tune::tune;
