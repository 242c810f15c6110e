//! One associative scan over the whole pack, with boundaries.

use super::tokens::{Terms, Token, Tokens};
use super::{Gradients, Inputs, Outputs, Pack, Upstream};
use crate::Number;

/// The same by one associative scan over the whole pack, boundaries and all.
///
/// This is how a parallel machine may do it, and nothing like [`forward`](super::forward): every token becomes a map `h -> a*h + x`, maps are
/// composed as a tree, and a sequence's start is a map that does not read `h`. Run with [`Traced`](crate::Traced), it
/// shows that such a reset lets nothing across.
///
/// # Panics
///
/// As [`forward`](super::forward).
pub fn segmented<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Outputs<X> {
    let (channels, states, tokens) = (inputs.channels, inputs.states, inputs.tokens());
    let state_len = channels * states;
    inputs.check();
    pack.check(tokens, state_len);

    let after = states_after(pack, inputs);
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
            let y = inputs.y(t, d, &after[t * state_len + d * states..][..states]);
            outputs.out.push(inputs.gated(t, d, &y));
        }
    }
    outputs
}

/// The gradients by one associative scan over the whole pack, in reverse, boundaries and all.
///
/// As [`segmented`], for the gradients of the states: every token becomes a map from the next token's gradient to its own, and a
/// sequence's end is a map that does not read it.
///
/// # Panics
///
/// As [`backward`](super::backward).
pub fn segmented_backward<X: Number>(
    pack: &Pack<'_, X>,
    inputs: &Inputs<'_, X>,
    upstream: &Upstream<'_, X>,
) -> Gradients<X> {
    let (channels, states, tokens) = (inputs.channels, inputs.states, inputs.tokens());
    let state_len = channels * states;
    inputs.check();
    pack.check(tokens, state_len);
    upstream.check(tokens, channels, pack.lengths.len() * state_len);

    let here = Tokens { inputs, g: upstream.out };
    let after = states_after(pack, inputs);
    let dh = columns(tokens, state_len, |column| {
        let mut spans = gradient_spans_of_column(pack, &here, upstream, column / states, column % states);
        spans.reverse();
        inclusive_scan(&mut spans);
        spans.reverse();
        spans
    });

    let nothing = vec![X::constant(0.0); state_len];
    let mut terms = Terms::none();
    for (s, range) in pack.ranges().enumerate() {
        let mut before = pack.initial_state(s, state_len);
        for t in range.clone() {
            let row = t * state_len..(t + 1) * state_len;
            here.add(&Token { t, before, after: &after[row.clone()], dh: &dh[row.clone()] }, &mut terms);
            before = Some(&after[row]);
        }
        let told = |(column, dh): (usize, &X)| {
            let (d, n) = (column / states, column % states);
            inputs.decay(&inputs.delta(range.start, d), d, n).mul(dh)
        };
        let of_initial_state = if pack.initial_state(s, state_len).is_none() {
            nothing.clone()
        } else if range.is_empty() {
            upstream.final_gradient(s, state_len).unwrap_or(&nothing).to_vec()
        } else {
            dh[range.start * state_len..][..state_len].iter().enumerate().map(told).collect()
        };
        terms.initial_state.extend(of_initial_state);
    }
    terms.into_gradients(inputs)
}

/// h[t] of every token, (T, D, N).
fn states_after<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Vec<X> {
    columns(inputs.tokens(), inputs.channels * inputs.states, |column| {
        let mut spans = spans_of_column(pack, inputs, column / inputs.states, column % inputs.states);
        inclusive_scan(&mut spans);
        spans
    })
}

/// What the spans of each column leave, token-major, (T, columns).
fn columns<X: Number>(tokens: usize, columns: usize, spans: impl Fn(usize) -> Vec<Span<X>>) -> Vec<X> {
    let mut values = vec![X::constant(0.0); tokens * columns];
    for column in 0..columns {
        for (t, span) in spans(column).into_iter().enumerate() {
            values[t * columns + column] = span.input;
        }
    }
    values
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

/// One span a token, from the gradient of the next token's state to that of its own. The gradient of a final state is an input of
/// its sequence's last token.
fn gradient_spans_of_column<X: Number>(
    pack: &Pack<'_, X>,
    here: &Tokens<'_, X>,
    upstream: &Upstream<'_, X>,
    d: usize,
    n: usize,
) -> Vec<Span<X>> {
    let inputs = here.inputs;
    let mut spans = Vec::with_capacity(inputs.tokens());
    for (s, range) in pack.ranges().enumerate() {
        for t in range.clone() {
            let own = inputs.c[t * inputs.states + n].mul(&here.dy(t, d));
            spans.push(if t + 1 < range.end {
                Span { decay: Some(inputs.decay(&inputs.delta(t + 1, d), d, n)), input: own }
            } else if let Some(gradient) = upstream.final_gradient(s, inputs.channels * inputs.states) {
                Span { decay: None, input: own.add(&gradient[d * inputs.states + n]) }
            } else {
                Span { decay: None, input: own }
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
