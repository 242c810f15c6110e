//! Trains Mamba models on packed text, in the manner of llm.c: a table of parameters, a table of activations, and a forward and a
//! backward pass that read an operator a line.

pub mod activations;
mod backward;
pub mod checkpoint;
mod config;
mod cutting;
mod error;
mod evaluate;
mod files;
mod forward;
mod generate;
pub mod hugging_face;
mod linear;
mod memory;
mod model;
mod optimiser;
mod pack;
pub mod parameters;
pub mod profile;
pub mod report;
pub mod run;
mod step;
mod tensors;
pub mod variants;

pub use backward::{Edges, Gradients};
pub use config::ModelConfig;
pub use cutting::Cut;
pub use error::Error;
pub use evaluate::Evaluator;
pub use forward::Carry;
pub use generate::{Generator, Sampling};
pub use memory::Memory;
pub use model::Model;
pub use optimiser::{Optimiser, Rates};
pub use pack::DevicePack;
pub use step::{Learner, Report};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
