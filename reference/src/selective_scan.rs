//! The selective scan over a pack, forward.
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
//! boundaries, of the kind that runs in parallel.

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

    /// delta = softplus(delta_raw + delta_bias), of token t and channel d.
    fn delta(&self, t: usize, d: usize) -> X {
        let mut delta = self.delta[t * self.channels + d].clone();
        if let Some(bias) = self.delta_bias {
            delta = delta.add(&bias[d]);
        }
        if self.softplus { delta.softplus() } else { delta }
    }

    /// a = exp(delta * A)
    fn decay(&self, delta: &X, d: usize, n: usize) -> X {
        delta.mul(&self.a[d * self.states + n]).exp()
    }

    /// out = (sum_n C*h + D_skip*u) * silu(z), of token t and channel d, from that channel's state `h: (N)`.
    fn read_out(&self, t: usize, d: usize, h: &[X]) -> X {
        let at = t * self.channels + d;
        let c = &self.c[t * self.states..][..self.states];
        let skip = self.d_skip.map(|d_skip| d_skip[d].mul(&self.u[at]));
        let y = X::sum(c.iter().zip(h).map(|(c, h)| c.mul(h)).chain(skip));
        match self.z {
            Some(z) => y.mul(&z[at].silu()),
            None => y,
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

/// The book: scans each sequence of the pack alone, and concatenates.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape, or the sequences' lengths do not sum to T.
pub fn forward<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Outputs<X> {
    let state_len = inputs.channels * inputs.states;
    inputs.check();
    pack.check(inputs.tokens(), state_len);

    let mut outputs = Outputs::empty(inputs.tokens(), pack.lengths.len(), inputs.channels, state_len);
    for (s, tokens) in pack.ranges().enumerate() {
        let alone = scan_one(&inputs.of_tokens(tokens), pack.initial_state(s, state_len));
        outputs.out.extend(alone.out);
        outputs.states.extend(alone.states);
        outputs.final_state.extend(alone.final_state);
    }
    outputs
}

/// Scans one sequence, which is all there is. `initial_state: (D, N)`.
fn scan_one<X: Number>(sequence: &Inputs<'_, X>, initial_state: Option<&[X]>) -> Outputs<X> {
    let (channels, states, tokens) = (sequence.channels, sequence.states, sequence.tokens());
    let mut outputs = Outputs::empty(tokens, 1, channels, channels * states);
    let mut h = initial_state.map_or_else(|| vec![X::constant(0.0); channels * states], <[X]>::to_vec);

    for t in 0..tokens {
        let has_past = t > 0 || initial_state.is_some();
        outputs.states.extend_from_slice(&h);
        for d in 0..channels {
            let h = &mut h[d * states..][..states];
            let delta = sequence.delta(t, d);
            let delta_u = delta.mul(&sequence.u[t * channels + d]);
            for (n, h) in h.iter_mut().enumerate() {
                let x = delta_u.mul(&sequence.b[t * states + n]);
                *h = if has_past { sequence.decay(&delta, d, n).mul(h).add(&x) } else { x };
            }
            outputs.out.push(sequence.read_out(t, d, h));
        }
    }
    outputs.final_state = h;
    outputs
}

/// The same by one associative scan over the whole pack, boundaries and all.
///
/// This is how a parallel machine may do it, and nothing like [`forward`]: every token becomes a map `h -> a*h + x`, maps are
/// composed as a tree, and a sequence's start is a map that does not read `h`. Run with [`Traced`](crate::Traced), it
/// shows that such a reset lets nothing across.
///
/// # Panics
///
/// As [`forward`].
pub fn segmented<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Outputs<X> {
    let (channels, states, tokens) = (inputs.channels, inputs.states, inputs.tokens());
    let state_len = channels * states;
    inputs.check();
    pack.check(tokens, state_len);

    // h[t], token-major, one column (d, n) at a time.
    let mut after = vec![X::constant(0.0); tokens * state_len];
    for column in 0..state_len {
        let mut spans = spans_of_column(pack, inputs, column / states, column % states);
        inclusive_scan(&mut spans);
        for (t, span) in spans.into_iter().enumerate() {
            after[t * state_len + column] = span.input;
        }
    }

    let mut outputs = Outputs::empty(tokens, pack.lengths.len(), channels, state_len);
    for (s, range) in pack.ranges().enumerate() {
        let nothing = vec![X::constant(0.0); state_len];
        let mut before = pack.initial_state(s, state_len).unwrap_or(&nothing);
        for t in range {
            outputs.states.extend_from_slice(before);
            before = &after[t * state_len..][..state_len];
        }
        outputs.final_state.extend_from_slice(before);
    }
    for t in 0..tokens {
        for d in 0..channels {
            outputs.out.push(inputs.read_out(t, d, &after[t * state_len + d * states..][..states]));
        }
    }
    outputs
}

/// What a run of tokens does to one state: `h -> decay * h + input`.
#[derive(Clone)]
struct Span<X> {
    /// Product of the tokens' decays. None where a sequence starts within the span: what was before is not read.
    decay: Option<X>,
    /// What the tokens leave of their own.
    input: X,
}

impl<X: Number> Span<X> {
    /// This span followed by another. Associative, also across starts.
    fn then(&self, next: &Self) -> Self {
        match &next.decay {
            None => next.clone(),
            Some(decay) => Self {
                decay: self.decay.as_ref().map(|before| before.mul(decay)),
                input: decay.mul(&self.input).add(&next.input),
            },
        }
    }
}

/// One span a token, for channel d and state n. A continued sequence's initial state is an input of its first token.
fn spans_of_column<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>, d: usize, n: usize) -> Vec<Span<X>> {
    let (channels, states) = (inputs.channels, inputs.states);
    let mut spans = Vec::with_capacity(inputs.tokens());
    for (s, range) in pack.ranges().enumerate() {
        for t in range.clone() {
            let delta = inputs.delta(t, d);
            let decay = inputs.decay(&delta, d, n);
            let x = delta.mul(&inputs.u[t * channels + d]).mul(&inputs.b[t * states + n]);
            spans.push(if t > range.start {
                Span { decay: Some(decay), input: x }
            } else if let Some(initial_state) = pack.initial_state(s, channels * states) {
                Span { decay: None, input: decay.mul(&initial_state[d * states + n]).add(&x) }
            } else {
                Span { decay: None, input: x }
            });
        }
    }
    spans
}

/// Replaces each span by all up to and including it, joined as a tree (Sklansky, *Conditional-Sum Addition Logic*, 1960).
fn inclusive_scan<X: Number>(spans: &mut [Span<X>]) {
    if spans.len() > 1 {
        let (left, right) = spans.split_at_mut(spans.len() / 2);
        inclusive_scan(left);
        inclusive_scan(right);
        let carry = &left[left.len() - 1];
        right.iter_mut().for_each(|span| *span = carry.then(span));
    }
}
