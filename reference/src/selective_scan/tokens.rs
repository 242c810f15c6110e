//! What a token contributes to the gradients once the states around it and their gradients are known.
//!
//! Nothing here looks along the sequence.

use super::{Gradients, Inputs};
use crate::Number;

/// The tokens of a sequence or of a pack.
pub(super) struct Tokens<'a, X> {
    pub(super) inputs: &'a Inputs<'a, X>,
    /// dL/dout, (T, D).
    pub(super) g: &'a [X],
}

/// The states around one token.
pub(super) struct Token<'a, X> {
    pub(super) t: usize,
    /// h[t-1], (D, N); none at the first token of a fresh sequence.
    pub(super) before: Option<&'a [X]>,
    /// h[t], (D, N)
    pub(super) after: &'a [X],
    /// dL/dh[t], through this token's output and all later ones, (D, N).
    pub(super) dh: &'a [X],
}

impl<X: Number> Tokens<'_, X> {
    /// dy = g * silu(z), of token t and channel d.
    pub(super) fn dy(&self, t: usize, d: usize) -> X {
        self.inputs.gated(t, d, &self.g[t * self.inputs.channels + d])
    }

    /// Adds what a token contributes, after the tokens before it.
    pub(super) fn add(&self, token: &Token<'_, X>, terms: &mut Terms<X>) {
        for d in 0..self.inputs.channels {
            self.add_channel(token, d, terms);
        }
        self.add_weights(token, terms);
    }

    /// The gradients of what the token has in one channel, and the channel's terms of A and D_skip.
    fn add_channel(&self, token: &Token<'_, X>, d: usize, terms: &mut Terms<X>) {
        let (inputs, t) = (self.inputs, token.t);
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
        let (inputs, t) = (self.inputs, token.t);
        let Inputs { channels, states, .. } = *inputs;
        let dy: Vec<X> = (0..channels).map(|d| self.dy(t, d)).collect();
        let delta_u: Vec<X> = (0..channels).map(|d| inputs.delta(t, d).mul(&inputs.u[t * channels + d])).collect();
        for n in 0..states {
            terms.b.push(X::sum((0..channels).map(|d| token.dh[d * states + n].mul(&delta_u[d]))));
            terms.c.push(X::sum((0..channels).map(|d| dy[d].mul(&token.after[d * states + n]))));
        }
    }
}

/// What the tokens contribute, row after row.
pub(super) struct Terms<X> {
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
    pub(super) initial_state: Vec<X>,
}

impl<X: Number> Terms<X> {
    pub(super) fn none() -> Self {
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

    /// The gradients, in which those of parameters are sums over all tokens.
    pub(super) fn into_gradients(self, inputs: &Inputs<'_, X>) -> Gradients<X> {
        Gradients {
            a: sum_rows(&self.a, inputs.channels * inputs.states),
            d_skip: inputs.d_skip.map(|_| sum_rows(&self.d_skip, inputs.channels)),
            delta_bias: inputs.delta_bias.map(|_| sum_rows(&self.delta, inputs.channels)),
            u: self.u,
            delta: self.delta,
            b: self.b,
            c: self.c,
            z: inputs.z.map(|_| self.z),
            initial_state: self.initial_state,
        }
    }
}

/// Sums each column of `rows: (_, width)`.
fn sum_rows<X: Number>(rows: &[X], width: usize) -> Vec<X> {
    (0..width).map(|column| X::sum(rows.iter().skip(column).step_by(width).cloned())).collect()
}
