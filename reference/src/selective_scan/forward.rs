//! The definition: each sequence alone.

use super::{Inputs, Outputs, Pack};
use crate::Number;

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
