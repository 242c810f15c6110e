//! What is asked of the convolution, and which variants answer it.

use packscan_runtime::Dtype;
use packscan_runtime::kernel::broken;

use super::{Backward, Forward, Inputs, Outputs};

/// What is asked: sizes, type and options. A [`Forward`] and a [`Backward`] are what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Channels, D.
    pub channels: usize,
    /// Taps, K.
    pub width: usize,
    /// Type of the activations.
    pub io: Dtype,
    /// Take the silu of the sum.
    pub silu: bool,
    /// There is a bias.
    pub bias: bool,
    /// There are histories of continued sequences.
    pub initial: bool,
    /// Histories are asked for.
    pub last: bool,
}

/// How a variant maps onto the machine; the fields are those of [`Forward`] and [`Backward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Tokens of a thread's run.
    pub run: u32,
    /// Tokens that a thread loads at a time.
    pub ahead: u32,
    /// Threads behind each other in time.
    pub ways: u32,
    /// Loads side by side.
    pub packets: u32,
    /// Channels of a load.
    pub vec: u32,
    /// Blocks of a multiprocessor that the compiler leaves registers for.
    pub resident: u32,
}

impl Problem {
    /// The problem that a call with these arguments is.
    pub fn of(inputs: &Inputs<'_>, outputs: &Outputs<'_>, silu: bool) -> Problem {
        Problem {
            channels: inputs.w.shape().0,
            width: inputs.w.shape().1,
            io: inputs.x.buffer().dtype(),
            silu,
            bias: inputs.b.is_some(),
            initial: inputs.history.is_some(),
            last: outputs.history.is_some(),
        }
    }

    /// The forward variant of this problem with a given mapping, whether or not it keeps every rule.
    pub fn forward(&self, mapping: Mapping) -> Forward {
        let Problem { io, silu, bias, initial, last, .. } = *self;
        let Mapping { run, ahead, ways, packets, vec, resident } = mapping;
        Forward { width: self.taps(), run, ahead, ways, packets, vec, resident, io, silu, bias, initial, last }
    }

    /// The backward variant of this problem with a given mapping, whether or not it keeps every rule.
    pub fn backward(&self, mapping: Mapping) -> Backward {
        let Problem { io, silu, bias, initial, last, .. } = *self;
        let Mapping { run, ahead, ways, packets, vec, resident } = mapping;
        Backward { width: self.taps(), run, ahead, ways, packets, vec, resident, io, silu, bias, initial, last }
    }

    fn taps(&self) -> u32 {
        u32::try_from(self.width).unwrap_or(u32::MAX)
    }

    /// The widest load of at most `bytes` that the channels are a multiple of.
    fn vec(&self, bytes: usize) -> u32 {
        let fits = |vec: &u32| self.channels.is_multiple_of(*vec as usize) && *vec as usize * self.io.bytes() <= bytes;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Tokens of a group: no fewer than there are taps.
    fn ahead(&self) -> u32 {
        if self.width <= 4 { 4 } else { 8 }
    }

    /// The mappings worth timing: those that waste no more than half of a block's channels.
    fn mappings(&self) -> Vec<Mapping> {
        let mut out = Vec::new();
        for vec in [1, 2, 4, 8] {
            for packets in [32, 64, 128] {
                for ways in [1, 2, 4, 8] {
                    for run in [32, 64, 128, 256] {
                        for ahead in [4, 8] {
                            let resident = if packets * ways == 128 { 4 } else { 1 };
                            out.push(Mapping { run, ahead, ways, packets, vec, resident });
                        }
                    }
                }
            }
        }
        out.retain(|m| {
            self.channels.is_multiple_of(m.vec as usize)
                && ((m.packets * m.vec) as usize) < 2 * self.channels.max(32)
                && m.packets * m.ways >= 64
        });
        out
    }
}

/// A forward variant that is sensible everywhere: a warp reads one row of 32 loads of up to 8 bytes, a thread walks 64 tokens.
pub fn default_variant(problem: &Problem) -> Forward {
    let (ahead, vec) = (problem.ahead(), problem.vec(8));
    // Registers for four blocks, or for three where more than four taps take more.
    let resident = if problem.width > 4 { 3 } else { 4 };
    problem.forward(Mapping { run: 64, ahead, ways: 4, packets: 32, vec, resident })
}

/// The backward variant for a problem: loads of 8 bytes, since a thread has sums, weights, inputs and gradients of each of its channels in
/// registers, and longer runs, since the tokens at a run's start are worked on twice.
pub fn default_backward(problem: &Problem) -> Backward {
    let (ahead, vec) = (problem.ahead(), problem.vec(8));
    // Four blocks get 128 registers a thread, which is enough for these and no others.
    let few = ahead == 4 && problem.silu && !problem.initial && !problem.last;
    problem.backward(Mapping { run: 256, ahead, ways: 4, packets: 32, vec, resident: if few { 4 } else { 1 } })
}

/// Every forward variant worth timing for a problem.
pub fn variants(problem: &Problem) -> Vec<Forward> {
    let all = problem.mappings().into_iter().map(|mapping| problem.forward(mapping));
    all.filter(|variant| broken(variant).is_empty()).collect()
}

/// Every backward variant worth timing for a problem; a tile is at least 128 tokens, so that sums are few.
pub fn backward_variants(problem: &Problem) -> Vec<Backward> {
    let all = problem.mappings().into_iter().map(|mapping| problem.backward(mapping));
    all.filter(|variant| variant.ways * variant.run >= 128 && broken(variant).is_empty()).collect()
}
