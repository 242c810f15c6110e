//! How fast packscan's kernels are at the sizes of a model, on the machine at hand, and how fast they could be.
//!
//! [`workload`] makes any variant of any operator's pass ready to be timed, with inputs on the device, and says what the
//! machine needs for it at least.

mod error;
pub mod report;
pub mod workload;

pub use error::{Error, Result};
