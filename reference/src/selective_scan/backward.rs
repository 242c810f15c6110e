//! The gradients of the scan, by hand.
//!
//! With `g` for dL/dout and a dash for the derivative, `a[t] = exp(delta * A)`, and t's neighbours in its own sequence only:
//!
//! ```text
//! dy         = g * silu(z)
//! dz         = g * y * silu'(z)
//! dh[t]      = C*dy + a[t+1]*dh[t+1]                     at a sequence's last token the second term is the gradient of its
//!                                                        final state, or there is none
//! S1         = sum_n dh*B
//! S2         = sum_n dh*(a*h[t-1])*A                     0 at the first token of a fresh sequence
//! du         = delta*S1 + D_skip*dy
//! ddelta     = u*S1 + S2
//! ddelta_raw = ddelta * sigmoid(delta_raw + delta_bias)  the factor only with softplus
//! dB         = sum_d dh*(delta*u)
//! dC         = sum_d dy*h
//! dA         = sum_t dh*(a*h[t-1])*delta                 no term for the first token of a fresh sequence
//! dD_skip    = sum_t dy*u
//! ddelta_bias = sum_t ddelta_raw
//! dinitial   = a[0]*dh[0]                                of a continued sequence; of an empty one, the gradient of its final state
//! ```
//!
//! Only `dh` looks along the sequence, backwards, and `h` forwards. `Bounded` covers an f32 kernel that computes these products and
//! sums, with the factors of a product in any order, every sum in any order (those over tokens: over all tokens of the pack), and
//! `h` as forward does, from wherever it kept it in f32.

use super::forward::{cuts, entering, handed_on, scan_one};
use super::tokens::{Terms, Token, Tokens};
use super::{Inputs, Pack};
use crate::Number;
use std::ops::Range;

/// Derivatives of the loss by what the scan computes.
pub struct Upstream<'a, X> {
    /// By the output, (T, D).
    pub out: &'a [X],
    /// By the state after each sequence's last token, (S, D, N). None where the loss does not depend on those.
    pub final_state: Option<&'a [X]>,
}

impl<'a, X> Upstream<'a, X> {
    /// The gradient of the final state of sequence s, (D, N), if it has one.
    pub(super) fn final_gradient(&self, s: usize, state_len: usize) -> Option<&'a [X]> {
        self.final_state.map(|gradient| &gradient[s * state_len..][..state_len])
    }

    pub(super) fn check(&self, tokens: usize, channels: usize, final_states_len: usize) {
        assert_eq!(self.out.len(), tokens * channels, "the gradient of out has the wrong length for the shape (T, D)");
        if let Some(gradient) = self.final_state {
            let got = gradient.len();
            assert_eq!(
                got, final_states_len,
                "the gradient of final_state has the wrong length for the shape (S, D, N)"
            );
        }
    }
}

/// Derivatives of the loss by what the scan reads, each under the name and in the shape of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<X> {
    /// (T, D)
    pub u: Vec<X>,
    /// By the step size before bias and softplus, (T, D).
    pub delta: Vec<X>,
    /// (D, N)
    pub a: Vec<X>,
    /// (T, N)
    pub b: Vec<X>,
    /// (T, N)
    pub c: Vec<X>,
    /// (D); none if there was no `d_skip`.
    pub d_skip: Option<Vec<X>>,
    /// (D); none if there was no `delta_bias`.
    pub delta_bias: Option<Vec<X>>,
    /// (T, D); none if there was no gate.
    pub z: Option<Vec<X>>,
    /// (S, D, N). 0 for a fresh sequence; for an empty continued one the gradient of its final state.
    pub initial_state: Vec<X>,
}

/// The book, backward: each sequence of the pack alone, concatenated. The gradients of parameters are sums over all tokens.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape, or the sequences' lengths do not sum to T.
pub fn backward<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>, upstream: &Upstream<'_, X>) -> Gradients<X> {
    let (channels, state_len) = (inputs.channels, inputs.channels * inputs.states);
    inputs.check();
    pack.check(inputs.tokens(), state_len);
    upstream.check(inputs.tokens(), channels, pack.lengths.len() * state_len);

    let mut all = Terms::none();
    for (s, tokens) in pack.ranges().enumerate() {
        let g = &upstream.out[tokens.start * channels..tokens.end * channels];
        let alone = Sequence {
            tokens: Tokens { inputs: &inputs.of_tokens(tokens), g },
            initial_state: pack.initial_state(s, state_len),
            final_gradient: upstream.final_gradient(s, state_len),
        };
        let dinitial = alone.add_terms(&mut all);
        let nothing = || vec![X::constant(0.0); state_len];
        all.initial_state.extend(if alone.initial_state.is_some() { dinitial } else { nothing() });
    }
    all.into_gradients(inputs)
}

/// The same by the formula of [`forward_in_segments`](super::forward_in_segments), which finds the states: each segment also takes the carry that
/// enters it from behind, and hands on
///
/// ```text
/// behind[q-1] = exp(A * sum of delta in q) * behind[q] + own[q]         own[q] alone where nothing enters
/// ```
///
/// with `own` the carry that leaves it where nothing enters. What leaves the first segment is the gradient of the initial state.
///
/// # Panics
///
/// As [`backward`].
pub fn backward_in_segments<X: Number>(
    pack: &Pack<'_, X>,
    inputs: &Inputs<'_, X>,
    upstream: &Upstream<'_, X>,
    segment: usize,
) -> Gradients<X> {
    let (channels, state_len) = (inputs.channels, inputs.channels * inputs.states);
    inputs.check();
    pack.check(inputs.tokens(), state_len);
    upstream.check(inputs.tokens(), channels, pack.lengths.len() * state_len);

    let mut all = Terms::none();
    for (s, tokens) in pack.ranges().enumerate() {
        let g = &upstream.out[tokens.start * channels..tokens.end * channels];
        let (sequence, initial_state) = (inputs.of_tokens(tokens), pack.initial_state(s, state_len));
        let mut behind = upstream.final_gradient(s, state_len).map(<[X]>::to_vec);
        let part = |tokens: &Range<usize>| {
            (sequence.of_tokens(tokens.clone()), &g[tokens.start * channels..tokens.end * channels])
        };
        let mut gradients: Vec<Option<Vec<X>>> = cuts(sequence.tokens(), segment)
            .rev()
            .map(|tokens| {
                let (inputs, g) = part(&tokens);
                let tokens = Tokens { inputs: &inputs, g };
                let own = Sequence { tokens, initial_state: None, final_gradient: None }.state_gradients().1;
                let left = handed_on(&inputs, behind.as_deref(), own);
                behind.replace(left)
            })
            .collect();
        gradients.reverse();
        let (states, _) = entering(&sequence, initial_state, segment);
        for ((tokens, state), gradient) in cuts(sequence.tokens(), segment).zip(&states).zip(&gradients) {
            let (inputs, g) = part(&tokens);
            let tokens = Tokens { inputs: &inputs, g };
            Sequence { tokens, initial_state: state.as_deref(), final_gradient: gradient.as_deref() }
                .add_terms(&mut all);
        }
        let dinitial = behind.filter(|_| initial_state.is_some());
        all.initial_state.extend(dinitial.unwrap_or_else(|| vec![X::constant(0.0); state_len]));
    }
    all.into_gradients(inputs)
}

/// One sequence, which is all there is.
struct Sequence<'a, X> {
    tokens: Tokens<'a, X>,
    /// (D, N); none if the sequence is fresh.
    initial_state: Option<&'a [X]>,
    /// Of the final state, (D, N), if it has one.
    final_gradient: Option<&'a [X]>,
}

impl<X: Number> Sequence<'_, X> {
    /// Adds what the tokens contribute; returns what leaves the sequence towards the tokens before it, (D, N).
    fn add_terms(&self, terms: &mut Terms<X>) -> Vec<X> {
        let inputs = self.tokens.inputs;
        let state_len = inputs.channels * inputs.states;
        let forward = scan_one(inputs, self.initial_state);
        // Row t is the state that token t receives, row t + 1 the one that it leaves.
        let h = [forward.states, forward.final_state].concat();
        let (dh, dinitial) = self.state_gradients();
        for t in 0..inputs.tokens() {
            let has_past = t > 0 || self.initial_state.is_some();
            let token = Token {
                t,
                before: has_past.then(|| &h[t * state_len..][..state_len]),
                after: &h[(t + 1) * state_len..][..state_len],
                dh: &dh[t * state_len..][..state_len],
            };
            self.tokens.add(&token, terms);
        }
        dinitial
    }

    /// The gradient of the state that each token leaves, (T, D, N), and of the state that the first receives, (D, N).
    fn state_gradients(&self) -> (Vec<X>, Vec<X>) {
        let inputs = self.tokens.inputs;
        let (channels, states) = (inputs.channels, inputs.states);
        let (tokens, state_len) = (inputs.tokens(), channels * states);
        let nothing = vec![X::constant(0.0); state_len];
        let mut dh = vec![X::constant(0.0); tokens * state_len];
        // a[t+1]*dh[t+1]: what token t is told by the next one.
        let mut carry = self.final_gradient.unwrap_or(&nothing).to_vec();
        for t in (0..tokens).rev() {
            let has_future = t + 1 < tokens || self.final_gradient.is_some();
            for d in 0..channels {
                let (dy, delta) = (self.tokens.dy(t, d), inputs.delta(t, d));
                for n in 0..states {
                    let (column, own) = (d * states + n, inputs.c[t * states + n].mul(&dy));
                    let total = if has_future { own.add(&carry[column]) } else { own };
                    carry[column] = inputs.decay(&delta, d, n).mul(&total);
                    dh[t * state_len + column] = total;
                }
            }
        }
        (dh, carry)
    }
}
