//! How what a kernel does grows with the problem, found from four small runs.

use crate::Packed;
use crate::launch::Record;

/// What is asked of a kernel: a pack and its width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The T tokens of S sequences. Their lengths decide how even groups of sequences are.
    pub packed: Packed,
    /// Channels, D.
    pub channels: usize,
}

/// The same launch at two numbers of tokens and two of channels, each with one sequence.
///
/// A kernel that walks whole chunks of tokens and whole tiles of channels does `once + token*T + channel*D + element*T*D` of
/// everything, so four runs tell all of it. `element` is what a chunk costs that has no boundary; what a sequence costs by itself, its
/// slower first chunk included, is in `channel`.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Tokens of the smaller and the larger runs.
    pub tokens: [usize; 2],
    /// Channels of the narrower and the wider runs.
    pub channels: [usize; 2],
    /// The runs: small and narrow, small and wide, large and narrow, large and wide.
    pub runs: [Record; 4],
}

impl Samples {
    /// How a number grows.
    pub fn growth(&self, number: impl Fn(&Record) -> f64) -> Growth {
        let ([t0, t1], [d0, d1]) = (self.tokens.map(|t| t as f64), self.channels.map(|d| d as f64));
        let [f00, f01, f10, f11] = self.runs.each_ref().map(number);
        let element = (f11 - f10 - f01 + f00) / ((t1 - t0) * (d1 - d0));
        let token = (f10 - f00) / (t1 - t0) - element * d0;
        let channel = (f01 - f00) / (d1 - d0) - element * t0;
        Growth { once: f00 - token * t0 - channel * d0 - element * t0 * d0, token, channel, element }
    }
}

/// What a number is at other sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// For each call.
    pub once: f64,
    /// For each token.
    pub token: f64,
    /// For each channel of each sequence.
    pub channel: f64,
    /// For each channel of each token.
    pub element: f64,
}

impl Growth {
    /// The number for a problem.
    pub fn at(&self, problem: &Problem) -> f64 {
        let Problem { packed, channels } = problem;
        self.of(packed.tokens(), *channels, packed.sequences())
    }

    /// The number for a single sequence.
    pub fn of_one_sequence(&self, tokens: usize, channels: usize) -> f64 {
        self.of(tokens, channels, 1)
    }

    fn of(&self, tokens: usize, channels: usize, sequences: usize) -> f64 {
        let [t, d, s] = [tokens, channels, sequences].map(|n| n as f64);
        (self.once + self.token * t + self.channel * d * s + self.element * t * d).max(0.0)
    }
}
