//! Trains Mamba models on packed text, in the manner of llm.c: a table of parameters, a table of activations, and a forward and a
//! backward pass that read an operator a line.

pub mod activations;
mod backward;
pub mod checkpoint;
mod config;
mod error;
mod files;
mod forward;
pub mod hugging_face;
mod linear;
mod model;
mod optimiser;
mod pack;
pub mod parameters;
mod step;
mod tensors;
pub mod variants;

pub use backward::Gradients;
pub use config::ModelConfig;
pub use error::Error;
pub use model::Model;
pub use optimiser::{Optimiser, Rates};
pub use pack::DevicePack;
pub use step::{Learner, Report};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
