//! The backward pass: its kernel and its function.

use packscan_runtime::launch::{Launched, check_call, launch};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Error, Packed, Result, View};

use super::{Inputs, MAX_GROUPS, blocks_at_once, check_inputs, cpu, groups_for};
use crate::sum_rows::{self, Sum};
use crate::workspace;

packscan_macros::kernel! {
    /// Backward pass of the packed selective scan.
    pub kernel Backward = "selective_scan_bwd" in "kernels/src/selective_scan" from ["common.cuh", "tile.cuh", "backward_tile.cuh", "backward.cuh"] {
        variant {
            /// State size, N.
            state: "n" in 1..=1024,
            /// Chunk length, L: tokens whose states are recomputed at a time. Forward must have saved a state each L tokens: its distance.
            chunk: "l" in 8..=64,
            /// Tokens of a chunk whose states a lane keeps at a time; of more than one such part, the states before each are computed first.
            kept: "k" in [2, 4, 8, 16, 32, 64],
            /// Lanes of a warp that share a channel.
            lanes: "s" in [1, 2, 4, 8, 16, 32],
            /// Channels that such lanes walk together.
            walk: "w" in [1, 2, 4, 8],
            /// Channels of a block.
            channels: "c" in 1..=1024,
            /// Blocks of a multiprocessor at least: the compiler leaves registers for as many.
            resident: "b" in 1..=32,
            /// Neighbouring channels that one load moves; of states of B and C at most as many, where N allows.
            vec: "v" in [1, 2, 4, 8],
            /// Type of the activations and their gradients; states and sums are always f32.
            io: dtype in [F32, F16, Bf16],
            /// Forward took the softplus of delta.
            softplus: flag "softplus",
            /// There is a bias of delta.
            bias: flag "bias",
            /// There is a skip weight.
            skip: flag "skip",
            /// There is a gate.
            gate: flag "gate",
            /// There are initial states, whose gradients are wanted.
            initial: flag "initial",
            /// There are gradients of the final states.
            last: flag "final",
        }
        derived {
            threads = channels / walk * lanes,
            lane_states = state.div_ceil(lanes),
            state_vec = super::packet_width(state, vec, 2 * chunk, threads),
            // Tokens summed over lanes at once.
            group = (lanes / walk).clamp(1, 4).min(kept),
            sum_pad = if lanes > walk { 32 / lanes * walk } else { 0 },
            // States of a channel, padded.
            row = lanes * lane_states,
            // Neighbouring states that a lane has of a channel.
            run = if lane_states.is_multiple_of(4) { 4 } else if lane_states.is_multiple_of(2) { 2 } else { 1 },
            // Orders in which the lanes of a warp keep them.
            turns = run.min(32 / lanes),
            staged = chunk * (16 * channels + 8 * row * turns + 8 * row * (threads / 32) + 12 * (channels + sum_pad)),
            leftover = 8 * lanes * vec / walk * channels,
            shared_bytes = staged.max(leftover).next_multiple_of(16),
        }
        rules {
            lanes <= state, lanes: "a channel has only {state} states to share among lanes", "take at most {state} lanes";
            lane_states <= 64, lanes: "a lane keeps its {lane_states} states in registers, 64 at most", "take at least {} lanes", state.div_ceil(64).next_power_of_two();
            chunk.is_multiple_of(2), chunk: "a chunk is even, so that what is staged stays aligned", "take {}", chunk + 1;
            chunk.is_multiple_of(kept), kept: "a chunk of {chunk} tokens is a whole number of the parts that are kept at a time", "take {}", 1 << chunk.trailing_zeros().clamp(1, 6);
            channels.is_multiple_of(vec), channels: "a block's channels are a whole number of loads of {vec}", "take {}", channels.next_multiple_of(vec);
            vec * io.bytes() <= 16, vec: "one load moves at most 16 bytes, {} elements of {io}", 16 / io.bytes(), "take {}", 16 / io.bytes();
            channels.is_multiple_of(walk), channels: "lanes walk {walk} channels together", "take {}", channels.next_multiple_of(walk);
            (lanes * vec).is_multiple_of(walk), walk: "the block moves whole rows: lanes * vec is a multiple of the channels walked together", "take {}", lanes * vec;
            threads.is_multiple_of(32), channels: "a block has whole warps, so channels / walk * lanes is a multiple of 32", "take {}", channels.next_multiple_of(32 / lanes * walk);
            threads <= 1024, channels: "a block has at most 1024 threads, channels / walk * lanes", "take {}", 1024 / lanes * walk;
        }
        dims {
            /// Channels, D.
            d: "D",
            /// Groups of sequences, the second grid axis: blocks that walk the pack at once.
            groups: "G",
            /// Runs of neighbouring sequences in all groups.
            run_count: "R",
            /// Tiles of channels, the first grid axis.
            tiles: "P",
        }
        tensors {
            /// Gradient of the result.
            g: in io [T, D] strided by vec,
            /// Input of the scan.
            u: in io [T, D] strided by vec,
            /// Step size before bias and softplus.
            delta: in io [T, D] strided by vec,
            /// Decay rates.
            a: in f32 [D, state],
            /// Input projection.
            b: in io [T, state] strided by state_vec,
            /// Output projection.
            c: in io [T, state] strided by state_vec,
            /// Skip weight.
            d_skip: in f32 [D] if skip,
            /// Bias of delta.
            delta_bias: in f32 [D] if bias,
            /// Gate, before silu.
            z: in io [T, D] strided by vec if gate,
            /// States that continued sequences started from.
            initial_state: in f32 [S, D, state] if initial,
            /// Gradient of the state after each sequence.
            d_final_state: in f32 [S, D, state] if last,
            /// State that token k * chunk received, as forward saved it.
            checkpoints: in f32 [T / chunk, D, state],
            /// Boundaries of the sequences.
            cu_seqlens: structure u32 [S + 1],
            /// 1 for each continued sequence.
            continued: structure u32 [S],
            /// First run of each group.
            group_starts: structure u32 [G + 1],
            /// First sequence of each run of sequences, and the one after its last.
            runs: structure u32 [2 * R],
            /// Gradient of u.
            du: out io [T, D] strided by vec,
            /// Gradient of delta, before bias and softplus.
            ddelta: out io [T, D] strided by vec,
            /// Gradient of z.
            dz: out io [T, D] strided by vec if gate,
            /// Gradient of the initial states; zero for a fresh sequence.
            d_initial_state: out f32 [S, D, state] if initial,
            /// Gradient of B, summed over the channels of each tile.
            db_parts: out f32 [T, P, state],
            /// Gradient of C, summed over the channels of each tile.
            dc_parts: out f32 [T, P, state],
            /// Gradient of A, summed over the tokens of each group.
            da_parts: out f32 [G, D, state],
            /// Gradient of the skip weight, summed over the tokens of each group.
            dd_skip_parts: out f32 [G, D] if skip,
            /// Gradient of the bias of delta, summed over the tokens of each group.
            ddelta_bias_parts: out f32 [G, D] if bias,
        }
        launch { grid: [P, G], threads: threads, shared: shared_bytes, resident: resident }
    }
}

/// What the backward pass is given besides the inputs of forward.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// `(T, D)` io: gradient of the result.
    pub out: View<'a>,
    /// `(S, D, N)` f32: gradient of the final states.
    pub final_state: Option<View<'a>>,
    /// `(ceil(T / L), D, N)` f32: what forward saved at a distance of the backward variant's chunk.
    pub checkpoints: View<'a>,
}

/// What the backward pass writes.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// `(T, D)` io: gradient of `u`.
    pub u: View<'a>,
    /// `(T, D)` io: gradient of `delta`.
    pub delta: View<'a>,
    /// `(D, N)` f32: gradient of `a`.
    pub a: View<'a>,
    /// `(T, N)` io: gradient of `b`.
    pub b: View<'a>,
    /// `(T, N)` io: gradient of `c`.
    pub c: View<'a>,
    /// `(D)` f32: gradient of `d_skip`.
    pub d_skip: Option<View<'a>>,
    /// `(D)` f32: gradient of `delta_bias`.
    pub delta_bias: Option<View<'a>>,
    /// Whether those of parameters are added to what is there, or written over it.
    pub add: bool,
    /// `(T, D)` io: gradient of `z`.
    pub z: Option<View<'a>>,
    /// `(S, D, N)` f32: gradient of the initial states, zero for fresh sequences.
    pub initial_state: Option<View<'a>>,
}

/// Partial sums of one call, to be kept for the next, which may have fewer tokens: `T * P * 2N + G * D * (N + 2)` floats, with P tiles of
/// channels and G groups.
#[derive(Debug)]
pub struct Workspace {
    /// As asked; none: chosen for each pack, and there is room for any choice.
    groups: Option<usize>,
    b: Buffer,
    c: Buffer,
    a: Buffer,
    d_skip: Buffer,
    delta_bias: Buffer,
}

impl Workspace {
    /// Room for calls of `variant` with `d` channels on packs of up to as many tokens as `packed`, in `groups` groups of sequences. `None`
    /// lets each call choose those with which the GPU is done first.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn new(packed: &DevicePacked, variant: &Backward, d: usize, groups: Option<usize>) -> Result<Workspace> {
        packed.device().check(variant)?;
        let (tokens, n) = (packed.packed().tokens(), variant.state as usize);
        let tiles = d.div_ceil(variant.channels as usize);
        let room = match (groups, blocks_at_once(packed.device(), variant)?) {
            (Some(groups), _) => groups.clamp(1, MAX_GROUPS),
            (None, Some(slots)) => Packed::most_groups(tiles.max(1), slots).min(MAX_GROUPS),
            (None, None) => 1,
        };
        let floats = |len| Buffer::unwritten(packed.device(), Dtype::F32, len);
        Ok(Workspace {
            groups,
            b: floats(tokens * tiles * n)?,
            c: floats(tokens * tiles * n)?,
            a: floats(room * d * n)?,
            d_skip: floats(room * d)?,
            delta_bias: floats(room * d)?,
        })
    }

    /// The sums of the gradients of parameters, of D * N and of D numbers, after a call that left their parts in so many groups.
    pub(super) fn sums<'a>(
        &'a self,
        gradients: &Gradients<'a>,
        groups: usize,
        inputs: &Inputs<'_>,
    ) -> Result<Vec<Sum<'a>>> {
        let (d, n) = inputs.a.shape();
        let all = [
            ("da", &self.a, Some(gradients.a), d * n),
            ("dd_skip", &self.d_skip, gradients.d_skip, d),
            ("ddelta_bias", &self.delta_bias, gradients.delta_bias, d),
        ];
        let given = all.into_iter().filter_map(|(name, parts, out, columns)| Some((name, parts, out?, columns)));
        let sum = |(name, parts, out, columns)| {
            Ok(Sum { name, parts: workspace::part(parts, groups, columns)?, rows: groups, columns, out })
        };
        given.map(sum).collect()
    }
}

/// Runs the backward pass on the device of `packed`, as `variant`, whose options must be those of the arguments.
///
/// Gradients of tokens do not depend on the grouping of sequences or on their places; those of parameters are sums over all tokens in
/// an order that depends on the groups alone: those of the workspace, or those that the pack, the variant and the GPU decide.
///
/// # Errors
/// [`Error::Tensor`] for an argument that does not fit, and whatever launching fails with.
pub fn backward(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'_>,
    workspace: &mut Workspace,
) -> Result<Launched> {
    let (launched, sums) = backward_unsummed(packed, variant, inputs, upstream, gradients, workspace)?;
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
    workspace: &'a Workspace,
) -> Result<(Launched, Vec<Sum<'a>>)> {
    let (launched, groups) = run(packed, variant, inputs, upstream, gradients, workspace)?;
    Ok((launched, workspace.sums(gradients, groups, inputs)?))
}

/// Everything but the sums of the gradients of parameters, and in how many groups of sequences their parts are.
pub(super) fn run(
    packed: &DevicePacked,
    variant: &Backward,
    inputs: &Inputs<'_>,
    upstream: &Upstream<'_>,
    gradients: &Gradients<'_>,
    workspace: &Workspace,
) -> Result<(Launched, usize)> {
    packed.device().check(variant)?;
    check_inputs(packed, inputs)?;
    check_parameters(variant, gradients)?;
    let (d, n) = (inputs.a.shape().0, variant.state as usize);
    // The room is for what the variant without states from and to other packs wants; with them it may want more.
    let room = (workspace.a.len() / (d * n).max(1)).max(1);
    let groups = groups_for(packed, variant, d, variant.channels, workspace.groups)?.min(room);
    let shared_out = packed.groups(groups)?;
    let tiles = d.div_ceil(variant.channels as usize);
    let token_sums = packed.packed().tokens() * tiles * n;
    let args = BackwardArgs {
        d,
        groups,
        run_count: shared_out.runs.len() / 2,
        tiles,
        g: upstream.out,
        u: inputs.u,
        delta: inputs.delta,
        a: inputs.a,
        b: inputs.b,
        c: inputs.c,
        d_skip: inputs.d_skip,
        delta_bias: inputs.delta_bias,
        z: inputs.z,
        initial_state: inputs.initial_state,
        d_final_state: upstream.final_state,
        checkpoints: upstream.checkpoints,
        cu_seqlens: packed.cu_seqlens().view(),
        continued: packed.continued().view(),
        group_starts: shared_out.starts.view(),
        runs: shared_out.runs.view(),
        du: gradients.u,
        ddelta: gradients.delta,
        dz: gradients.z,
        d_initial_state: gradients.initial_state,
        db_parts: workspace::part(&workspace.b, token_sums, 1)?,
        dc_parts: workspace::part(&workspace.c, token_sums, 1)?,
        da_parts: workspace::part(&workspace.a, groups * d * n, 1)?,
        dd_skip_parts: variant.skip.then(|| workspace::part(&workspace.d_skip, groups * d, 1)).transpose()?,
        ddelta_bias_parts: variant.bias.then(|| workspace::part(&workspace.delta_bias, groups * d, 1)).transpose()?,
    };
    let launched = match packed.device() {
        Device::Cpu => {
            check_call(variant, packed, &args)?;
            cpu::backward(packed.packed(), variant, &args);
            Launched::default()
        }
        Device::Cuda(_) | Device::Emulator(_) => launch(variant, packed, &args)?,
    };

    // The sum over tiles has one order, whatever the pack: a token's gradients have the same bits in every one.
    let per_token = sum_rows::default_token_variant(n, variant.vec, variant.io);
    let (parts, sums) = ([args.db_parts, args.dc_parts], [gradients.b, gradients.c]);
    sum_rows::tokens(packed, &per_token, args.tiles, n, parts, sums)?;
    Ok((launched, groups))
}

/// A gradient of a parameter is given exactly if forward used the parameter.
fn check_parameters(variant: &Backward, gradients: &Gradients<'_>) -> Result<()> {
    let parameters = [
        ("d_skip", variant.skip, gradients.d_skip.is_some()),
        ("delta_bias", variant.bias, gradients.delta_bias.is_some()),
    ];
    for (tensor, wanted, given) in parameters {
        if wanted != given {
            let (got, rule) = match wanted {
                true => ("its gradient was left out", "the variant has the option that needs it"),
                false => ("its gradient was given", "the variant does not have the option that makes it; leave it out"),
            };
            let (id, got, rule) = (variant.to_string(), got.to_owned(), rule.to_owned());
            return Err(Error::Tensor { id, tensor, shape: "[D]", got, rule });
        }
    }
    Ok(())
}
