//! The scan with long sequences cut along time, so that a few of them fill a GPU.
//!
//! One sequence is walked by one block for each tile of channels, which leaves most of a large GPU idle. Here each sequence is cut into
//! segments of equal length, counted from its own start. [`State`] finds what each segment does to a state that enters it, [`Join`] passes states
//! from segment to segment, and the ordinary pass runs over the segments as if they were continued sequences. `README.md` has the
//! derivation.
//!
//! A cut costs about a second reading of `u` and `delta` and one exponential for each (t, d, n), and rounds differently: results depend on
//! the length of segments, and on nothing else: not on the pack, nor on the GPU. A state that is infinite becomes NaN where the decay of
//! a whole segment is zero; it stays within its sequence.
//!
//! [`Device::Cpu`] runs each sequence in one piece, which fills its threads by channels.

use packscan_runtime::launch::{Launched, launch};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Result, Segments, View};

use super::backward::run;
use super::state::{Join, JoinArgs, State, StateArgs};
use super::{Backward, Forward, Gradients, Inputs, Outputs, Upstream, check_inputs};
use crate::sum_rows::{self, Sum};
use crate::workspace;

/// How sequences are cut, and where states are kept that pass between segments.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// The segments of the pack's sequences.
    pub segments: &'a Segments,
    /// What finds the state that each segment leaves; its options follow from the call.
    pub state: State,
    /// What passes states from segment to segment; all but its block follows from the call.
    pub join: Join,
    /// `(Q, D, N)` f32: the state that enters each of Q segments. Forward writes it, backward reads it.
    pub entering: View<'a>,
    /// What is needed within one call.
    pub scratch: &'a Scratch,
}

/// What a call needs while it runs, to be kept for the next: `Q * D * (2N + 1)` floats for Q segments.
#[derive(Debug)]
pub struct Scratch {
    states: Buffer,
    delta_sums: Buffer,
    gradients: Buffer,
}

impl Scratch {
    /// Bytes of that room.
    pub const fn bytes(segments: usize, d: usize, n: usize) -> usize {
        Dtype::F32.bytes() * segments * d * (2 * n + 1)
    }

    /// Room for packs of up to `segments` segments, with `d` channels and `n` states.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(device: &Device, segments: usize, d: usize, n: usize) -> Result<Scratch> {
        let floats = |len| Buffer::unwritten(device, Dtype::F32, len);
        Ok(Scratch {
            states: floats(segments * d * n)?,
            delta_sums: floats(segments * d)?,
            gradients: floats(segments * d * n)?,
        })
    }
}

/// [`super::forward`], with sequences cut as `split` says.
///
/// # Errors
/// As [`super::forward`], and [`Error::Argument`](packscan_runtime::Error::Argument) for a scratch that is too small.
pub fn forward(
    packed: &DevicePacked,
    variant: &Forward,
    groups: Option<usize>,
    inputs: &Inputs<'_>,
    outputs: &Outputs<'_>,
    split: &Split<'_>,
) -> Result<Launched> {
    if matches!(packed.device(), Device::Cpu) {
        return super::forward(packed, variant, groups, inputs, outputs);
    }
    check_inputs(packed, inputs)?;
    split.segments.check(packed)?;
    let walk = Walk { u: inputs.u, projection: inputs.b, given: inputs.initial_state, left: outputs.final_state };
    let Forward { softplus, bias, .. } = *variant;
    let state = State { softplus, bias, gate: false, reverse: false, ..split.state };
    walk.run(packed, inputs, split, state, split.entering)?;
    // Every segment but those that start a fresh sequence goes on from what entered it; what leaves a sequence is known by now.
    let variant = Forward { initial: true, last: false, ..*variant };
    let inputs = Inputs { initial_state: Some(split.entering), ..*inputs };
    super::forward(split.segments.pack(), &variant, groups, &inputs, &Outputs { final_state: None, ..*outputs })
}

/// [`super::backward`], with sequences cut as [`forward`] cut them. The workspace is made for the segments: [`Segments::pack`].
///
/// # Errors
/// As [`super::backward`], and [`Error::Argument`](packscan_runtime::Error::Argument) for a scratch that is too small.
pub fn backward(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'_>,
    workspace: &mut super::Workspace,
    split: &Split<'_>,
) -> Result<Launched> {
    let (launched, sums) = backward_unsummed(packed, variant, inputs, upstream, gradients, workspace, split)?;
    sum_rows::all(packed, &sums, gradients.add)?;
    Ok(launched)
}

/// As [`backward`], but leaves the sums of the gradients of parameters to be made, before the workspace is used again.
///
/// # Errors
/// As [`backward`].
pub fn backward_unsummed<'a>(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'a>,
    workspace: &'a super::Workspace,
    split: &Split<'_>,
) -> Result<(Launched, Vec<Sum<'a>>)> {
    if matches!(packed.device(), Device::Cpu) {
        return super::backward_unsummed(packed, variant, inputs, upstream, gradients, workspace);
    }
    check_inputs(packed, inputs)?;
    split.segments.check(packed)?;
    let (rows, columns) = sizes(split.segments, inputs);
    let behind = workspace::part(&split.scratch.gradients, rows * columns, 1)?;
    let walk =
        Walk { u: upstream.out, projection: inputs.c, given: upstream.final_state, left: gradients.initial_state };
    let Backward { softplus, bias, gate, .. } = *variant;
    walk.run(packed, inputs, split, State { softplus, bias, gate, reverse: true, ..split.state }, behind)?;

    let variant = Backward { initial: true, last: true, ..*variant };
    let inputs = Inputs { initial_state: Some(split.entering), ..*inputs };
    let upstream = Upstream { final_state: Some(behind), ..*upstream };
    // What leaves each segment was found before; what this pass finds again goes where the segments' own states were.
    let again = workspace::part(&split.scratch.states, rows * columns, 1)?;
    let of_segments = Gradients { initial_state: Some(again), ..*gradients };
    let (launched, groups) = run(split.segments.pack(), &variant, &inputs, &upstream, &of_segments, workspace)?;
    Ok((launched, workspace.sums(gradients, groups, &inputs)?))
}

/// Segments, and numbers in a state.
fn sizes(segments: &Segments, inputs: &Inputs<'_>) -> (usize, usize) {
    let (d, n) = inputs.a.shape();
    (segments.pack().packed().sequences(), d * n)
}

/// A walk over the segments of each sequence, in either direction.
struct Walk<'a> {
    /// `(T, D)` io: what drives the states.
    u: View<'a>,
    /// `(T, N)` io: through what.
    projection: View<'a>,
    /// `(S, D, N)` f32: what enters sequences.
    given: Option<View<'a>>,
    /// `(S, D, N)` f32: what leaves them.
    left: Option<View<'a>>,
}

impl Walk<'_> {
    /// Writes what enters each segment to `entering (Q, D, N)`, and what leaves each sequence.
    fn run(
        &self,
        packed: &DevicePacked,
        inputs: &Inputs<'_>,
        split: &Split<'_>,
        state: State,
        entering: View<'_>,
    ) -> Result<()> {
        let segments = split.segments;
        let (rows, columns) = sizes(segments, inputs);
        let (d, state) = (inputs.a.shape().0, State { ends: self.left.is_some(), ..state });
        let states = workspace::part(&split.scratch.states, rows * columns, 1)?;
        let delta_sums = workspace::part(&split.scratch.delta_sums, rows * d, 1)?;
        let args = StateArgs {
            d,
            u: self.u,
            delta: inputs.delta,
            a: inputs.a,
            projection: self.projection,
            delta_bias: inputs.delta_bias,
            z: inputs.z.filter(|_| state.gate),
            cu_seqlens: segments.pack().cu_seqlens().view(),
            sequence_of: segments.sequence_of().view(),
            states,
            delta_sums,
        };
        launch(&state, segments.pack(), &args)?;
        let (given, left) = (self.given.is_some(), self.left.is_some());
        let join = Join { reverse: state.reverse, given, left, ..split.join };
        let args = JoinArgs {
            d,
            whole: packed.packed().sequences(),
            states,
            delta_sums,
            a: inputs.a,
            given: self.given,
            firsts: segments.firsts().view(),
            continued: packed.continued().view(),
            entering,
            left: self.left,
        };
        launch(&join, segments.pack(), &args)?;
        Ok(())
    }
}
