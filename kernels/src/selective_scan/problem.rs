//! What is asked of the scan, and which variants answer it.

use packscan_runtime::Dtype;
use packscan_runtime::kernel::broken;

use super::{Backward, Forward, Inputs, Outputs};

/// What is asked: sizes, type and options. A [`Forward`] is what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Channels, D.
    pub channels: usize,
    /// State size, N.
    pub state: usize,
    /// Type of the activations.
    pub io: Dtype,
    /// Take the softplus of delta.
    pub softplus: bool,
    /// There is a bias of delta.
    pub bias: bool,
    /// There is a skip weight.
    pub skip: bool,
    /// There is a gate.
    pub gate: bool,
    /// There are initial states.
    pub initial: bool,
    /// Final states are asked for.
    pub last: bool,
    /// Checkpoints are asked for.
    pub checkpoints: bool,
}

impl Problem {
    /// The problem that a call with these arguments is.
    pub fn of(inputs: &Inputs<'_>, outputs: &Outputs<'_>, softplus: bool) -> Problem {
        Problem {
            channels: inputs.a.shape().0,
            state: inputs.a.shape().1,
            io: inputs.u.buffer().dtype(),
            softplus,
            bias: inputs.delta_bias.is_some(),
            skip: inputs.d_skip.is_some(),
            gate: inputs.z.is_some(),
            initial: inputs.initial_state.is_some(),
            last: outputs.final_state.is_some(),
            checkpoints: outputs.checkpoints.is_some(),
        }
    }

    /// The variant of this problem with a given mapping onto the machine, whether or not it keeps every rule; it saves a state for each chunk.
    pub fn variant(&self, chunk: u32, lanes: u32, channels: u32, vec: u32) -> Forward {
        Forward {
            state: u32::try_from(self.state).unwrap_or(u32::MAX),
            chunk,
            distance: chunk,
            lanes,
            channels,
            resident: 1,
            vec,
            io: self.io,
            softplus: self.softplus,
            bias: self.bias,
            skip: self.skip,
            gate: self.gate,
            initial: self.initial,
            last: self.last,
            checkpoints: self.checkpoints,
        }
    }
}

/// Threads of a block that a hand-picked variant aims at.
const THREADS: u32 = 128;
/// Shared memory that a hand-picked variant stays under, so that several blocks fit a multiprocessor.
const SHARED_BYTES: usize = 72 * 1024;

/// Channels that a load moves at most.
fn widest_load(channels: usize) -> u32 {
    [4, 2].into_iter().find(|&vec| channels.is_multiple_of(vec as usize)).unwrap_or(1)
}

/// A variant that is sensible everywhere: about eight states a lane, 128 threads and registers for four such blocks, chunks of 16 where that
/// leaves room for other blocks, four channels a load where D allows, states saved where [`default_backward`] wants them. `docs/performance.md` has
/// what it reaches.
pub fn default_variant(problem: &Problem) -> Forward {
    let state = problem.state.clamp(1, 1024) as u32;
    let lanes = (state / 8).clamp(1, 8).next_power_of_two().max(state.div_ceil(32).next_power_of_two());
    let vec = widest_load(problem.channels);
    let width = (problem.channels.clamp(1, 1024) as u32).next_multiple_of((32 / lanes).max(vec));
    let channels = (THREADS / lanes).min(width);
    let resident = if state.div_ceil(lanes) <= 8 { 4 } else { 1 };
    let variant = Forward { resident, ..problem.variant(8, lanes, channels, vec) }.in_chunks();
    if problem.checkpoints { variant.saving_every(default_backward(problem).chunk) } else { variant }
}

/// The backward variant for a problem: about four states a lane, two channels walked together, 128 threads, chunks of 16 of which a lane keeps
/// as many states as fit its registers. Forward must then save states at the same distance.
pub fn default_backward(problem: &Problem) -> Backward {
    use packscan_runtime::kernel::Variant as _;
    let state = problem.state.clamp(1, 1024) as u32;
    let lanes = (state / 4).clamp(1, 8).next_power_of_two().max(state.div_ceil(32).next_power_of_two());
    let lane_states = state.div_ceil(lanes);
    let vec = widest_load(problem.channels);
    let walk = if (lanes * vec).is_multiple_of(2) && lane_states <= 4 { 2 } else { 1 };
    let kept = [16, 8, 4].into_iter().find(|kept| kept * walk * lane_states <= KEPT_STATES).unwrap_or(2);
    let variant = |chunk: u32, channels: u32| Backward {
        state: u32::try_from(problem.state).unwrap_or(u32::MAX),
        chunk,
        kept: kept.min(chunk),
        lanes,
        walk,
        channels: channels.next_multiple_of((32 / lanes * walk).max(vec)),
        resident: 1,
        vec,
        io: problem.io,
        softplus: problem.softplus,
        bias: problem.bias,
        skip: problem.skip,
        gate: problem.gate,
        initial: problem.initial,
        last: problem.last,
    };
    let width = problem.channels.clamp(1, 1024) as u32;
    let whole = (THREADS / lanes * walk).min(width);
    let narrow = Backward { vec: 1, walk: 1, channels: (32 / lanes).max(1), ..variant(8, 1) };
    let fits = |v: &Backward| v.shared_bytes() <= BACKWARD_SHARED_BYTES;
    let tried =
        [variant(16, whole), variant(16, (whole / 2).max(1)), variant(8, whole), variant(8, (whole / 2).max(1))];
    tried.into_iter().find(fits).unwrap_or(narrow)
}

/// States of all channels and tokens that a lane keeps at a time, in registers.
const KEPT_STATES: u32 = 96;

impl Forward {
    /// The same in chunks of 16, or of 8 where those would leave no room for other blocks.
    fn in_chunks(self) -> Forward {
        use packscan_runtime::kernel::Variant as _;
        let [long, short] = [16, 8].map(|chunk| Forward { chunk, distance: chunk, ..self });
        if long.shared_bytes() <= SHARED_BYTES { long } else { short }
    }

    /// The same with a state saved each `distance` tokens; a chunk that is no whole number of them is made longer.
    pub fn saving_every(self, distance: u32) -> Forward {
        Forward { checkpoints: true, distance, chunk: self.chunk.next_multiple_of(distance), ..self }
    }

    /// The same at each distance of saved states that some backward pass wants, if it saves any.
    fn at_distances(self) -> Vec<Forward> {
        if !self.checkpoints {
            return vec![self];
        }
        let fits = |distance: &u32| self.chunk.is_multiple_of(*distance);
        [8, 16, 32].into_iter().filter(fits).map(|distance| self.saving_every(distance)).collect()
    }

    /// The same without saved states.
    pub fn saving_none(self) -> Forward {
        Forward { checkpoints: false, distance: self.chunk, ..self }
    }
}

impl Backward {
    /// The same with other loads; lanes walk one channel where the block would no longer move whole rows.
    pub fn with_vec(self, vec: u32) -> Backward {
        let walk = if (self.lanes * vec).is_multiple_of(self.walk) { self.walk } else { 1 };
        Backward { vec, walk, ..self }
    }
}

/// Shared memory that a hand-picked backward variant stays under, unless one channel needs more: what a block can have on sm_86 and later.
const BACKWARD_SHARED_BYTES: usize = 99 * 1024;

/// Every variant worth timing for a problem: the mappings that keep the rules, waste no more than half of a block's channels and keep
/// at most 16 states a lane where lanes allow.
pub fn variants(problem: &Problem) -> Vec<Forward> {
    let mut out = Vec::new();
    for lanes in [1, 2, 4, 8, 16, 32] {
        for channels in [8, 16, 32, 64, 128, 256] {
            for chunk in [8, 16, 32, 64] {
                // Also with registers for 512 threads, 128 each.
                let residents = [1, (512 / (channels * lanes)).clamp(1, 16)];
                for (vec, resident) in
                    [1, 2, 4, 8].into_iter().flat_map(|vec| residents.map(|resident| (vec, resident)))
                {
                    let wasteful = channels as usize >= 2 * problem.channels.max(8)
                        || !problem.channels.is_multiple_of(vec as usize)
                        || (lanes < 32 && problem.state.div_ceil(lanes as usize) > 16);
                    let mapping = Forward { resident, ..problem.variant(chunk, lanes, channels, vec) };
                    for variant in mapping.at_distances() {
                        if !wasteful && !out.contains(&variant) && broken(&variant).is_empty() {
                            out.push(variant);
                        }
                    }
                }
            }
        }
    }
    out
}

/// Every backward variant worth timing for a problem, by the same measure, with the states that a lane keeps in registers.
pub fn backward_variants(problem: &Problem) -> Vec<Backward> {
    let picked = default_backward(problem);
    let mut out = vec![picked];
    for lanes in [1, 2, 4, 8, 16, 32] {
        let lane_states = problem.state.div_ceil(lanes as usize) as u32;
        for (walk, channels) in [1, 2, 4].into_iter().flat_map(|w| [16, 32, 64, 128].map(|c| (w, c))) {
            for (chunk, kept) in [(8, 4), (8, 8), (16, 4), (16, 8), (16, 16), (32, 8)] {
                for (resident, vec) in [1, 3].into_iter().flat_map(|b| [2, 4].map(|v| (b, v))) {
                    let variant = Backward { chunk, kept, lanes, walk, channels, resident, vec, ..picked };
                    let wasteful = channels as usize >= 2 * problem.channels.max(8)
                        || !problem.channels.is_multiple_of(vec as usize)
                        || (lanes < 32 && lane_states > 16)
                        || kept * walk * lane_states > KEPT_STATES;
                    if !wasteful && variant != picked && broken(&variant).is_empty() {
                        out.push(variant);
                    }
                }
            }
        }
    }
    out
}
