//! The definition: each sequence alone.

use super::{Inputs, Outputs, Pack};
use crate::Number;
use std::ops::Range;

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

/// The same by another formula: each sequence is cut into segments of `segment` tokens, and what enters each is found first.
///
/// A segment is an affine map of the state that enters it: with `own` what it leaves if it starts from nothing,
///
/// ```text
/// entering[q+1] = exp(A * sum of delta in q) * entering[q] + own[q]     own[q] alone where nothing enters
/// ```
///
/// and what leaves the last segment by this rule is the final state. Within a segment the recurrence starts from `entering`. The values are those of
/// [`forward`]; the rounding of an implementation that does so is bounded by this one only.
///
/// # Panics
///
/// As [`forward`].
pub fn forward_in_segments<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>, segment: usize) -> Outputs<X> {
    let state_len = inputs.channels * inputs.states;
    inputs.check();
    pack.check(inputs.tokens(), state_len);

    let mut outputs = Outputs::empty(inputs.tokens(), pack.lengths.len(), inputs.channels, state_len);
    for (s, tokens) in pack.ranges().enumerate() {
        let sequence = inputs.of_tokens(tokens);
        let (entering, last) = entering(&sequence, pack.initial_state(s, state_len), segment);
        for (tokens, entering) in cuts(sequence.tokens(), segment).zip(&entering) {
            let alone = scan_one(&sequence.of_tokens(tokens), entering.as_deref());
            outputs.out.extend(alone.out);
            outputs.states.extend(alone.states);
        }
        outputs.final_state.extend(last.unwrap_or_else(|| vec![X::constant(0.0); state_len]));
    }
    outputs
}

/// The tokens of each segment of a sequence.
pub(super) fn cuts(tokens: usize, segment: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..tokens.div_ceil(segment)).map(move |q| q * segment..((q + 1) * segment).min(tokens))
}

/// What enters each segment of a sequence, (D, N) each, and what leaves the last; none where there is no past.
pub(super) fn entering<X: Number>(
    sequence: &Inputs<'_, X>,
    initial_state: Option<&[X]>,
    segment: usize,
) -> (Vec<Option<Vec<X>>>, Option<Vec<X>>) {
    let mut state = initial_state.map(<[X]>::to_vec);
    let entering = cuts(sequence.tokens(), segment).map(|tokens| {
        let part = sequence.of_tokens(tokens);
        let own = scan_one(&part, None).final_state;
        let left = handed_on(&part, state.as_deref(), own);
        state.replace(left)
    });
    (entering.collect(), state)
}

/// What leaves a segment into which `entering (D, N)` comes, if anything, from what leaves it otherwise.
pub(super) fn handed_on<X: Number>(segment: &Inputs<'_, X>, entering: Option<&[X]>, own: Vec<X>) -> Vec<X> {
    let Some(entering) = entering else { return own };
    let states = segment.states;
    let sums: Vec<X> =
        (0..segment.channels).map(|d| X::sum((0..segment.tokens()).map(|t| segment.delta(t, d)))).collect();
    let decayed = |i: usize| segment.decay(&sums[i / states], i / states, i % states).mul(&entering[i]);
    own.iter().enumerate().map(|(i, own)| decayed(i).add(own)).collect()
}

/// Scans one sequence, which is all there is. `initial_state: (D, N)`.
pub(super) fn scan_one<X: Number>(sequence: &Inputs<'_, X>, initial_state: Option<&[X]>) -> Outputs<X> {
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
            outputs.out.push(sequence.gated(t, d, &sequence.y(t, d, h)));
        }
    }
    outputs.final_state = h;
    outputs
}
