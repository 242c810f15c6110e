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

use super::forward::scan_one;
use super::{Inputs, Pack};
use crate::Number;

/// Derivatives of the loss by what the scan computes.
pub struct Upstream<'a, X> {
    /// By the output, (T, D).
    pub out: &'a [X],
    /// By the state after each sequence's last token, (S, D, N). None where the loss does not depend on those.
    pub final_state: Option<&'a [X]>,
}

impl<X> Upstream<'_, X> {
    fn check(&self, tokens: usize, channels: usize, final_states_len: usize) {
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
        let alone = Sequence {
            inputs: inputs.of_tokens(tokens.clone()),
            initial_state: pack.initial_state(s, state_len),
            g: &upstream.out[tokens.start * channels..tokens.end * channels],
            final_gradient: upstream.final_state.map(|gradient| &gradient[s * state_len..][..state_len]),
        };
        alone.add_terms(&mut all);
    }
    Gradients {
        a: sum_rows(&all.a, state_len),
        d_skip: inputs.d_skip.map(|_| sum_rows(&all.d_skip, channels)),
        delta_bias: inputs.delta_bias.map(|_| sum_rows(&all.delta, channels)),
        u: all.u,
        delta: all.delta,
        b: all.b,
        c: all.c,
        z: inputs.z.map(|_| all.z),
        initial_state: all.initial_state,
    }
}

/// Sums each column of `rows: (_, width)`.
fn sum_rows<X: Number>(rows: &[X], width: usize) -> Vec<X> {
    (0..width).map(|column| X::sum(rows.iter().skip(column).step_by(width).cloned())).collect()
}

/// What the tokens contribute, row after row.
struct Terms<X> {
    /// (T, D)
    u: Vec<X>,
    /// (T, D). Its rows sum to the gradient of the bias.
    delta: Vec<X>,
    /// (T, N)
    b: Vec<X>,
    /// (T, N)
    c: Vec<X>,
    /// (T, D), empty if there is no gate.
    z: Vec<X>,
    /// A row (D, N) for each token that has a past.
    a: Vec<X>,
    /// (T, D)
    d_skip: Vec<X>,
    /// (S, D, N)
    initial_state: Vec<X>,
}

impl<X> Terms<X> {
    fn none() -> Self {
        Self {
            u: vec![],
            delta: vec![],
            b: vec![],
            c: vec![],
            z: vec![],
            a: vec![],
            d_skip: vec![],
            initial_state: vec![],
        }
    }
}

/// One sequence, which is all there is.
struct Sequence<'a, X> {
    inputs: Inputs<'a, X>,
    /// (D, N); none if the sequence is fresh.
    initial_state: Option<&'a [X]>,
    /// dL/dout, (T, D).
    g: &'a [X],
    /// Of the final state, (D, N), if it has one.
    final_gradient: Option<&'a [X]>,
}

/// What is known of one token before its gradients are.
struct Token<'a, X> {
    t: usize,
    /// h[t-1], (D, N); none at the first token of a fresh sequence.
    before: Option<&'a [X]>,
    /// h[t], (D, N)
    after: &'a [X],
    /// dL/dh[t], through this token's output and all later ones, (D, N).
    dh: &'a [X],
}

impl<X: Number> Sequence<'_, X> {
    fn add_terms(&self, terms: &mut Terms<X>) {
        let state_len = self.inputs.channels * self.inputs.states;
        let forward = scan_one(&self.inputs, self.initial_state);
        // Row t is the state that token t receives, row t + 1 the one that it leaves.
        let h = [forward.states, forward.final_state].concat();
        let (dh, dinitial) = self.state_gradients();
        for t in 0..self.inputs.tokens() {
            let has_past = t > 0 || self.initial_state.is_some();
            let token = Token {
                t,
                before: has_past.then(|| &h[t * state_len..][..state_len]),
                after: &h[(t + 1) * state_len..][..state_len],
                dh: &dh[t * state_len..][..state_len],
            };
            for d in 0..self.inputs.channels {
                self.add_channel(&token, d, terms);
            }
            self.add_weights(&token, terms);
        }
        terms.initial_state.extend(dinitial);
    }

    /// dy = g * silu(z), of token t and channel d.
    fn dy(&self, t: usize, d: usize) -> X {
        self.inputs.gated(t, d, &self.g[t * self.inputs.channels + d])
    }

    /// The gradient of the state that each token leaves, (T, D, N), and of the initial state, (D, N).
    fn state_gradients(&self) -> (Vec<X>, Vec<X>) {
        let Inputs { channels, states, c, .. } = self.inputs;
        let (tokens, state_len) = (self.inputs.tokens(), channels * states);
        let nothing = vec![X::constant(0.0); state_len];
        let mut dh = vec![X::constant(0.0); tokens * state_len];
        // a[t+1]*dh[t+1]: what token t is told by the next one.
        let mut carry = self.final_gradient.unwrap_or(&nothing).to_vec();
        for t in (0..tokens).rev() {
            let has_future = t + 1 < tokens || self.final_gradient.is_some();
            for d in 0..channels {
                let (dy, delta) = (self.dy(t, d), self.inputs.delta(t, d));
                for n in 0..states {
                    let (column, own) = (d * states + n, c[t * states + n].mul(&dy));
                    let total = if has_future { own.add(&carry[column]) } else { own };
                    carry[column] = self.inputs.decay(&delta, d, n).mul(&total);
                    dh[t * state_len + column] = total;
                }
            }
        }
        (dh, if self.initial_state.is_some() { carry } else { nothing })
    }

    /// The gradients of what the token has in one channel, and the channel's terms of A and D_skip.
    fn add_channel(&self, token: &Token<'_, X>, d: usize, terms: &mut Terms<X>) {
        let (inputs, t) = (&self.inputs, token.t);
        let Inputs { channels, states, .. } = *inputs;
        let (at, columns) = (t * channels + d, d * states..(d + 1) * states);
        let (u, delta, dy, dh) = (&inputs.u[at], inputs.delta(t, d), self.dy(t, d), &token.dh[columns.clone()]);

        // dh*(a*h[t-1]), the gradient of delta*A, one for each state; none where nothing decays.
        let decayed = |before: &[X]| -> Vec<X> {
            (0..states).map(|n| dh[n].mul(&inputs.decay(&delta, d, n).mul(&before[n]))).collect()
        };
        let by_exponent = token.before.map_or_else(Vec::new, |before| decayed(&before[columns.clone()]));
        let b = &inputs.b[t * states..][..states];
        let s1 = X::sum(dh.iter().zip(b).map(|(dh, b)| dh.mul(b)));
        let s2 = X::sum(by_exponent.iter().zip(&inputs.a[columns.clone()]).map(|(x, a)| x.mul(a)));

        let du = delta.mul(&s1);
        terms.u.push(inputs.d_skip.map_or_else(|| du.clone(), |d_skip| du.add(&d_skip[d].mul(&dy))));
        let ddelta = u.mul(&s1).add(&s2);
        terms.delta.push(if inputs.softplus { ddelta.mul(&inputs.biased_delta(t, d).sigmoid()) } else { ddelta });
        if let Some(z) = inputs.z {
            let y = inputs.y(t, d, &token.after[columns]);
            terms.z.push(self.g[at].mul(&y).mul(&z[at].silu_derivative()));
        }
        terms.a.extend(by_exponent.iter().map(|x| x.mul(&delta)));
        terms.d_skip.push(dy.mul(u));
    }

    /// The gradients of the token's B and C, which its channels share.
    fn add_weights(&self, token: &Token<'_, X>, terms: &mut Terms<X>) {
        let (inputs, t) = (&self.inputs, token.t);
        let Inputs { channels, states, .. } = *inputs;
        let dy: Vec<X> = (0..channels).map(|d| self.dy(t, d)).collect();
        let delta_u: Vec<X> = (0..channels).map(|d| inputs.delta(t, d).mul(&inputs.u[t * channels + d])).collect();
        for n in 0..states {
            terms.b.push(X::sum((0..channels).map(|d| token.dh[d * states + n].mul(&delta_u[d]))));
            terms.c.push(X::sum((0..channels).map(|d| dy[d].mul(&token.after[d * states + n]))));
        }
    }
}
