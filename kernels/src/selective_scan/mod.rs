//! The packed selective scan: the recurrence of a Mamba block, restarted at every sequence of a pack.
//!
//! For channel `d` and state `n` (formulas from section 3.2 of the Mamba paper, arXiv 2312.00752, discretised as its code does):
//!
//! ```text
//! delta = softplus(delta_raw + delta_bias)               softplus and bias optional
//! h[t]  = delta*u*B                                      where t starts a sequence that is not continued
//!       = exp(delta*A)*h[t-1] + delta*u*B                otherwise
//! out   = (sum_n C*h + D_skip*u) * silu(z)               skip and gate optional
//! ```
//!
//! [`split`] has the same for packs of few long sequences, which it cuts along time.

mod backward;
mod balance;
mod cpu;
mod faults;
mod forward;
mod problem;
pub mod split;
mod state;

use packscan_runtime::kernel::Variant;
use packscan_runtime::{Device, DevicePacked, Error, Result, Slots, View};

pub use backward::{Backward, Gradients, Upstream, Workspace, backward, backward_unsummed};
pub use balance::{Balance, most_segments};
pub use faults::{backward_faults, forward_faults, join_faults, state_faults};
pub use forward::{Forward, Outputs, forward};
pub use problem::{Problem, backward_variants, default_backward, default_variant, variants};
pub use state::{Join, State, default_join, default_state};

/// What both passes read.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `(T, D)` io: input of the scan.
    pub u: View<'a>,
    /// `(T, D)` io: step size before bias and softplus.
    pub delta: View<'a>,
    /// `(D, N)` f32: decay rates.
    pub a: View<'a>,
    /// `(T, N)` io: input projection.
    pub b: View<'a>,
    /// `(T, N)` io: output projection.
    pub c: View<'a>,
    /// `(D)` f32: skip weight.
    pub d_skip: Option<View<'a>>,
    /// `(D)` f32: bias of delta.
    pub delta_bias: Option<View<'a>>,
    /// `(T, D)` io: gate.
    pub z: Option<View<'a>>,
    /// `(S, D, N)` f32: states that continued sequences start from; other rows are not read.
    pub initial_state: Option<View<'a>>,
}

/// A continued sequence needs a state to go on from, and the states of one token take less than 4 GiB.
fn check_inputs(packed: &DevicePacked, inputs: &Inputs<'_>) -> Result<()> {
    check_states(inputs.a.shape())?;
    match (packed.packed().continued().iter().position(|&c| c), inputs.initial_state) {
        (Some(s), None) => Err(Error::Packed {
            field: "continued",
            got: format!("sequence {s} is continued, but no initial state was given"),
            rule: "give initial_state (S, D, N), or do not mark the sequence".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Kernels multiply a token's number and the bytes of its states as numbers of 32 bits.
fn check_states((d, n): (usize, usize)) -> Result<()> {
    if d.saturating_mul(n).saturating_mul(size_of::<f32>()) <= u32::MAX as usize {
        return Ok(());
    }
    Err(Error::Argument {
        argument: "a",
        got: format!("{d} channels of {n} states"),
        rule: "the states of one token take less than 4 GiB; call it for some of the channels at a time".to_owned(),
    })
}

/// Neighbouring states that one load moves of `rows` rows of B, or of B and C: as many as of channels, but so few that every thread has some to
/// move, and one where N is no multiple of that.
fn packet_width(state: usize, vec: usize, rows: usize, threads: usize) -> usize {
    let mut width = if state.is_multiple_of(vec) { vec } else { 1 };
    while width > 1 && rows * state / width < threads {
        width /= 2;
    }
    width
}

/// The most blocks along the second grid axis.
const MAX_GROUPS: usize = 65_535;

/// The groups that were asked for, or those with which the GPU is done first.
fn groups_for<V: Variant>(
    packed: &DevicePacked,
    variant: &V,
    d: usize,
    channels: u32,
    asked: Option<usize>,
) -> Result<usize> {
    if let Some(groups) = asked {
        return Ok(groups.clamp(1, MAX_GROUPS));
    }
    let tiles = d.div_ceil(channels as usize).max(1);
    Ok(match blocks_at_once(packed.device(), variant)? {
        Some(slots) => packed.balanced_groups(tiles, slots).min(MAX_GROUPS),
        None => 1,
    })
}

/// Which blocks of a variant a GPU runs at once; none where there is no GPU.
fn blocks_at_once<V: Variant>(device: &Device, variant: &V) -> Result<Option<Slots>> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    device.check(variant)?;
    let (multiprocessors, blocks) = (cuda.multiprocessors()?, cuda.blocks_per_multiprocessor(variant)?);
    Ok(Some(Slots { multiprocessors, blocks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_a_token_have_32_bits() {
        check_states((70_000, 1024)).unwrap();
        check_states((1 << 20, 1023)).unwrap();
        let error = check_states((1 << 20, 1024)).unwrap_err().to_string();
        assert!(error.contains("1048576 channels of 1024 states"), "{error}");
    }

    #[test]
    fn every_thread_has_a_packet_where_rows_allow() {
        assert_eq!(packet_width(16, 4, 2 * 8, 128), 2);
        assert_eq!(packet_width(16, 4, 2 * 16, 128), 4);
        assert_eq!(packet_width(3, 4, 2 * 8, 32), 1, "three states are no whole packets");
        assert_eq!(packet_width(16, 8, 2, 1024), 1);
    }
}
