//! The truth about every packscan operator, in plain loops.
//!
//! This crate is the book that every kernel is held against. It is written to be read beside the paper: one loop an
//! index, one line a formula, no speed beyond what a test needs, no dependencies, and no knowledge of any other crate.
//! *Packed* means here what a user means by it: [`selective_scan::forward`] runs each sequence alone and concatenates.
//! It has never heard of a reset, so it cannot share a kernel's mistake about one.
//!
//! Everything is generic over its [`Number`], because four questions are asked of the same formulas:
//!
//! | number | question |
//! |---|---|
//! | `f64` | what is the result? |
//! | [`Bounded`] | and how far from it may a correct f32 kernel be? |
//! | [`Perturbed`] | and how far from it is f32 after many operations? |
//! | [`Traced`] | which inputs, exactly, had an influence on it? |
//!
//! # One word list
//!
//! Used in code, shapes, docs and errors. The second column is what the same thing is called in Mamba
//! (arXiv [2312.00752](https://arxiv.org/abs/2312.00752), algorithm 2 and section 3), on which PackMamba
//! (arXiv [2408.03865](https://arxiv.org/abs/2408.03865)) builds.
//!
//! | letter | meaning | in the papers |
//! |---|---|---|
//! | `T` | tokens in a pack, all sequences together | the length `L` of a packed input, with the batch `B` being 1 |
//! | `S` | sequences in a pack | the sequences that PackMamba packs into one and tells apart by position indices |
//! | `M` | model width (`d_model`) | the width `D` of a block's input and output |
//! | `D` | channels (`d_inner = expand * M`) | the `D` of the scan, `E*D` of a block with expansion factor `E` |
//! | `N` | state size (`d_state`) | the state dimension `N` |
//! | `L` | chunk length: tokens that a kernel stages at a time | no counterpart; mind that the papers' `L` is `T` here |
//! | `K` | convolution width | the width of the block's causal convolution |
//! | `R` | rank of delta (`dt_rank`) | the rank `R` of the projection that makes delta |
//! | `V` | vocabulary | the vocabulary |
//!
//! `u` is the papers' `x`, the scan's input; `delta`, `A`, `B`, `C` carry the papers' names; `D_skip` is the vector that
//! S4 and Mamba call `D`; `z` is the gate branch of a Mamba block.
//!
//! Activations are token-major and packed, `(T, D)` with the channel fastest: no batch axis and no padding. A pack is
//! given by its sequences' `lengths: &[usize]`, `(S)`; 0 is legal. A sequence may be *continued* from an earlier pack: it then
//! starts from an initial state instead of from nothing.
//!
//! # Example
//!
//! ```
//! use packscan_reference::selective_scan::{self, Inputs, Pack};
//!
//! // Two sequences of two tokens and one, a single channel, a single state.
//! let outputs = selective_scan::forward(
//!     &Pack::fresh(&[2, 1]),
//!     &Inputs {
//!         channels: 1,
//!         states: 1,
//!         u: &[1.0, 1.0, 1.0],
//!         delta: &[1.0, 1.0, 1.0],
//!         a: &[-1.0],
//!         b: &[1.0, 1.0, 1.0],
//!         c: &[1.0, 1.0, 1.0],
//!         d_skip: None,
//!         delta_bias: None,
//!         z: None,
//!         softplus: false,
//!     },
//! );
//! let decay = f64::exp(-1.0);
//! assert_eq!(outputs.out, [1.0, decay + 1.0, 1.0]);
//! ```

pub mod adamw;
pub mod bounded;
pub mod cast;
pub mod causal_conv1d;
pub mod cross_entropy;
pub mod embedding;
pub mod grad_norm;
pub mod model;
pub mod neg_exp;
pub mod number;
pub mod perturbed;
pub mod rms_norm;
pub mod selective_scan;
pub mod sum_rows;
pub mod traced;

pub use bounded::{Bounded, Io};
pub use number::Number;
pub use perturbed::Perturbed;
pub use traced::{IndexSet, Traced};
