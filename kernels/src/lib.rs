//! The packed operators of a Mamba block, one folder each.
//!
//! An operator's folder holds the declaration of its kernels and its public functions (`mod.rs`), the CUDA bodies (`*.cuh`, each
//! with an essay), the native CPU path (`cpu.rs`), the faults that its verification must catch (`faults.rs`) and the derivation
//! (`README.md`).

pub mod adamw;
pub mod cast;
pub mod causal_conv1d;
mod cpu;
pub mod cross_entropy;
pub mod embedding;
pub mod grad_norm;
pub mod neg_exp;
pub mod rms_norm;
pub mod selective_scan;
pub mod sum_rows;
mod workspace;
