//! The packed causal convolution: depthwise, over each sequence of a pack by itself.
//!
//! For channel `d` and `K` taps (the short convolution of a Mamba block, arXiv 2312.00752, section 3.4):
//!
//! ```text
//! c[t] = b + sum_k w[k] * x[t - (K-1) + k]               bias optional
//! out  = silu(c)                                         silu optional
//! ```
//!
//! Taps before the start of a sequence are left out, or taken from the history of a continued one: the last `K-1` inputs of what it
//! continues, which a variant with `last` wrote.

mod backward;
mod cpu;
mod faults;
mod forward;
mod problem;

use packscan_runtime::{DevicePacked, Error, Result, View};

pub use backward::{Backward, Gradients, Upstream, Workspace, backward, backward_unsummed};
pub use faults::{backward_faults, forward_faults};
pub use forward::{Forward, Outputs, forward};
pub use problem::{Mapping, Problem, backward_variants, default_backward, default_variant, variants};

/// What both passes read.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `(T, D)` io: input of the convolution.
    pub x: View<'a>,
    /// `(D, K)` f32: weights, the one of the oldest token first.
    pub w: View<'a>,
    /// `(D)` f32: bias.
    pub b: Option<View<'a>>,
    /// `(S, K - 1, D)` io: what continued sequences saw last, the oldest first; other rows are not read.
    pub history: Option<View<'a>>,
}

/// A continued sequence needs a history to go on from.
fn check_continued(packed: &DevicePacked, inputs: &Inputs<'_>) -> Result<()> {
    match (packed.packed().continued().iter().position(|&c| c), inputs.history) {
        (Some(s), None) => Err(Error::Packed {
            field: "continued",
            got: format!("sequence {s} is continued, but no history was given"),
            rule: "give history (S, K - 1, D), or do not mark the sequence".to_owned(),
        }),
        _ => Ok(()),
    }
}
