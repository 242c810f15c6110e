//! What a kernel costs on a GPU, predicted without one.

mod growth;

pub use growth::{Growth, Problem, Samples};
