//! The selective scan over a pack, forward and backward.
//!
//! For a channel d and a state n (Mamba, arXiv 2312.00752, equation 2a with the discretisation of its code, `B delta` for
//! the input):
//!
//! ```text
//! delta   = softplus(delta_raw + delta_bias)        the bias and softplus are optional
//! h[t]    = exp(delta * A) * h[t-1] + delta*u*B     h[-1] is the initial state of a continued sequence;
//!                                                   a fresh sequence has no first term: h[0] = delta*u*B
//! y[t]    = sum_n C*h[t] + D_skip*u                 D_skip is optional
//! out     = y * silu(z)                             the gate is optional
//! ```
//!
//! Twice over: [`forward`] is the definition, each sequence alone; [`segmented`] is a formulation over the whole pack, with
//! boundaries, of the kind that runs in parallel. So are the gradients, by hand: [`backward`] and [`segmented_backward`].
//!
//! [`forward_in_segments`] and [`backward_in_segments`] are the definition by another formula, with sequences cut along time, for the rounding
//! of implementations that do so.

mod backward;
mod forward;
mod segmented;
mod tokens;

pub use backward::{Gradients, Upstream, backward, backward_in_segments};
pub use forward::{forward, forward_in_segments};
pub use segmented::{segmented, segmented_backward};

use crate::Number;
use std::ops::Range;

/// What the scan reads for every token and channel, and its options.
pub struct Inputs<'a, X> {
    /// Channels, D. At least 1.
    pub channels: usize,
    /// State size, N. At least 1.
    pub states: usize,
    /// The sequence itself, (T, D).
    pub u: &'a [X],
    /// Step size, before bias and softplus, (T, D).
    pub delta: &'a [X],
    /// Rate of decay, negative in a trained model, (D, N).
    pub a: &'a [X],
    /// Input weights, (T, N).
    pub b: &'a [X],
    /// Output weights, (T, N).
    pub c: &'a [X],
    /// Weight of `u` in the output, (D).
    pub d_skip: Option<&'a [X]>,
    /// Added to `delta` before softplus, (D).
    pub delta_bias: Option<&'a [X]>,
    /// The gate, (T, D).
    pub z: Option<&'a [X]>,
    /// Whether the step size is the softplus of `delta`.
    pub softplus: bool,
}

impl<'a, X: Number> Inputs<'a, X> {
    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.u.len() / self.channels
    }

    /// The inputs of some of the tokens. Parameters are those of all.
    pub fn of_tokens(&self, tokens: Range<usize>) -> Inputs<'a, X> {
        let channels = tokens.start * self.channels..tokens.end * self.channels;
        let states = tokens.start * self.states..tokens.end * self.states;
        Inputs {
            u: &self.u[channels.clone()],
            delta: &self.delta[channels.clone()],
            b: &self.b[states.clone()],
            c: &self.c[states],
            z: self.z.map(|z| &z[channels]),
            ..*self
        }
    }

    /// delta_raw + delta_bias, of token t and channel d.
    fn biased_delta(&self, t: usize, d: usize) -> X {
        let raw = &self.delta[t * self.channels + d];
        self.delta_bias.map_or_else(|| raw.clone(), |bias| raw.add(&bias[d]))
    }

    /// delta = softplus(delta_raw + delta_bias), of token t and channel d.
    fn delta(&self, t: usize, d: usize) -> X {
        let biased = self.biased_delta(t, d);
        if self.softplus { biased.softplus() } else { biased }
    }

    /// a = exp(delta * A)
    fn decay(&self, delta: &X, d: usize, n: usize) -> X {
        delta.mul(&self.a[d * self.states + n]).exp()
    }

    /// y = sum_n C*h + D_skip*u, of token t and channel d, from that channel's state `h: (N)`.
    fn y(&self, t: usize, d: usize, h: &[X]) -> X {
        let c = &self.c[t * self.states..][..self.states];
        let skip = self.d_skip.map(|d_skip| d_skip[d].mul(&self.u[t * self.channels + d]));
        X::sum(c.iter().zip(h).map(|(c, h)| c.mul(h)).chain(skip))
    }

    /// y * silu(z), of token t and channel d: out from y, and by the same product dL/dy from dL/dout.
    fn gated(&self, t: usize, d: usize, y: &X) -> X {
        match self.z {
            Some(z) => y.mul(&z[t * self.channels + d].silu()),
            None => y.clone(),
        }
    }

    fn check(&self) {
        let (d, n, t) = (self.channels, self.states, self.tokens());
        assert!(d >= 1 && n >= 1, "the scan needs a channel and a state, got D = {d} and N = {n}");
        let expect = |name: &str, values: &[X], shape: &str, length: usize| {
            assert_eq!(values.len(), length, "{name} has the wrong length for the shape {shape}");
        };
        expect("u", self.u, "(T, D)", t * d);
        expect("delta", self.delta, "(T, D)", t * d);
        expect("a", self.a, "(D, N)", d * n);
        expect("b", self.b, "(T, N)", t * n);
        expect("c", self.c, "(T, N)", t * n);
        self.d_skip.iter().for_each(|values| expect("d_skip", values, "(D)", d));
        self.delta_bias.iter().for_each(|values| expect("delta_bias", values, "(D)", d));
        self.z.iter().for_each(|values| expect("z", values, "(T, D)", t * d));
    }
}

/// Where the sequences of a pack lie, and what they start from.
pub struct Pack<'a, X> {
    /// Length of each sequence, (S). They sum to T; 0 is legal.
    pub lengths: &'a [usize],
    /// Whether each sequence goes on from its initial state, (S).
    pub continued: &'a [bool],
    /// The state that each continued sequence starts from, (S, D, N). Not read for the others.
    pub initial_state: &'a [X],
}

impl<'a, X> Pack<'a, X> {
    /// A pack of sequences that all start from nothing. `continued` and `initial_state` are empty.
    pub fn fresh(lengths: &'a [usize]) -> Self {
        Self { lengths, continued: &[], initial_state: &[] }
    }

    /// The tokens of each sequence, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start..*end)
        })
    }

    /// The state that sequence s goes on from, (D, N); none if it starts from nothing.
    fn initial_state(&self, s: usize, state_len: usize) -> Option<&'a [X]> {
        let continued = self.continued.get(s).is_some_and(|continued| *continued);
        continued.then(|| &self.initial_state[s * state_len..][..state_len])
    }

    fn check(&self, tokens: usize, state_len: usize) {
        let sequences = self.lengths.len();
        assert_eq!(self.lengths.iter().sum::<usize>(), tokens, "the lengths do not sum to T");
        if !self.continued.is_empty() {
            assert_eq!(self.continued.len(), sequences, "continued has the wrong length for the shape (S)");
            let got = self.initial_state.len();
            assert_eq!(got, sequences * state_len, "initial_state has the wrong length for the shape (S, D, N)");
        }
    }
}

/// What the scan computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<X> {
    /// (T, D)
    pub out: Vec<X>,
    /// The state that each token's recurrence receives, (T, D, N): h[t-1] inside a sequence, the initial state at the start of a
    /// continued one, 0 at the start of a fresh one.
    pub states: Vec<X>,
    /// The state after each sequence's last token, (S, D, N). Of an empty sequence: its initial state, or 0 if it is fresh.
    pub final_state: Vec<X>,
    /// Numbers in one state, D * N.
    pub state_len: usize,
}

impl<X: Number> Outputs<X> {
    /// The states that the tokens 0, L, 2L, ... receive, (ceil(T / L), D, N), with L = `every`, at least 1.
    pub fn checkpoints(&self, every: usize) -> Vec<X> {
        self.states.chunks(self.state_len).step_by(every).flatten().cloned().collect()
    }

    fn empty(tokens: usize, sequences: usize, channels: usize, state_len: usize) -> Self {
        Self {
            out: Vec::with_capacity(tokens * channels),
            states: Vec::with_capacity(tokens * state_len),
            final_state: Vec::with_capacity(sequences * state_len),
            state_len,
        }
    }
}
