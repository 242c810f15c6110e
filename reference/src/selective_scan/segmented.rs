//! One associative scan over the whole pack, with boundaries.

use super::{Inputs, Outputs, Pack};
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
            let y = inputs.y(t, d, &after[t * state_len + d * states..][..states]);
            outputs.out.push(inputs.gated(t, d, &y));
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
