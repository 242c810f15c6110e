//! Devices, buffers, NVRTC, cache and typed launch for packscan's generated CUDA kernels.
//!
//! This crate has never heard of Mamba: it knows packs of sequences, kernels and machines.

pub mod cache;
pub mod doctor;
mod error;
pub mod nvrtc;

pub use error::Error;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
