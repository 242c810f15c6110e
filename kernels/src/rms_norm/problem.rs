//! What is asked of the norm, and which variants answer it.

use packscan_runtime::Dtype;
use packscan_runtime::kernel::broken;

use super::{Forward, Inputs, Outputs};

/// What is asked: width, type and options of the forward pass. A [`Forward`] is what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Model width, M.
    pub width: usize,
    /// Type of the activations.
    pub io: Dtype,
    /// There is a residual to add to.
    pub residual: bool,
    /// r is asked for.
    pub sum: bool,
    /// rstd is asked for.
    pub stats: bool,
    /// There is only the residual.
    pub alone: bool,
}

impl Problem {
    /// The problem that a call with these arguments is.
    pub fn of(inputs: &Inputs<'_>, outputs: &Outputs<'_>) -> Problem {
        Problem {
            width: outputs.y.shape().1,
            io: outputs.y.buffer().dtype(),
            residual: inputs.residual.is_some(),
            sum: outputs.residual.is_some(),
            stats: outputs.rstd.is_some(),
            alone: inputs.x.is_none(),
        }
    }

    /// The variant of this problem with a given mapping onto the machine, whether or not it keeps every rule.
    pub fn variant(&self, lanes: u32, rows: u32, vec: u32) -> Forward {
        let Problem { width, io, residual, sum, stats, alone } = *self;
        Forward { width: u32::try_from(width).unwrap_or(u32::MAX), lanes, rows, vec, io, residual, sum, stats, alone }
    }

    /// Lanes, rows and vec of the hand-picked variants: four columns a load where M allows, about 16 numbers a thread, 128 threads
    /// a block or more.
    pub(super) fn mapping(&self) -> (u32, u32, u32) {
        let vec = [4, 2, 1].into_iter().find(|&vec| self.width.is_multiple_of(vec)).unwrap_or(1);
        let lanes = self.width.div_ceil(KEPT).next_power_of_two().clamp(32, 1024);
        (lanes as u32, (THREADS / lanes).max(1) as u32, vec as u32)
    }
}

/// Numbers of a row that a thread of a hand-picked variant keeps, at most, where a row has not more than 16,384.
const KEPT: usize = 16;
/// Threads of a block that a hand-picked variant has at least.
const THREADS: usize = 128;

/// The hand-picked variant of a problem.
pub fn default_variant(problem: &Problem) -> Forward {
    let (lanes, rows, vec) = problem.mapping();
    problem.variant(lanes, rows, vec)
}

/// Every variant worth timing for a problem: those that keep the rules and leave no lane of a row without work.
pub fn variants(problem: &Problem) -> Vec<Forward> {
    let mut out = Vec::new();
    for lanes in [32, 64, 128, 256, 512, 1024] {
        for rows in [1, 2, 4, 8, 16] {
            for vec in [1, 2, 4, 8] {
                let variant = problem.variant(lanes, rows, vec);
                let wasteful = lanes > 32 && problem.width < (lanes * vec) as usize;
                if !wasteful && lanes * rows >= 64 && broken(&variant).is_empty() {
                    out.push(variant);
                }
            }
        }
    }
    out
}
