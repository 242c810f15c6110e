//! The two formulations agree, and the outputs have the shapes and meanings that they promise.

mod common;

use common::{Generator, Packing, every_packing_with_empty};
use packscan_reference::selective_scan::{self, Inputs, Outputs, Pack};

const CHANNELS: usize = 3;
const STATES: usize = 5;

struct Case {
    packing: Packing,
    u: Vec<f64>,
    delta: Vec<f64>,
    z: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    d_skip: Vec<f64>,
    delta_bias: Vec<f64>,
    initial_state: Vec<f64>,
}

impl Case {
    fn new(generator: &mut Generator, packing: Packing) -> Self {
        let (t, s) = (packing.tokens(), packing.lengths.len());
        let mut numbers = |count, low, high| (0..count).map(|_| generator.uniform(low, high)).collect();
        Self {
            u: numbers(t * CHANNELS, -1.0, 1.0),
            delta: numbers(t * CHANNELS, -4.0, 1.0),
            z: numbers(t * CHANNELS, -3.0, 3.0),
            a: numbers(CHANNELS * STATES, -4.0, -0.1),
            b: numbers(t * STATES, -1.0, 1.0),
            c: numbers(t * STATES, -1.0, 1.0),
            d_skip: numbers(CHANNELS, -1.0, 1.0),
            delta_bias: numbers(CHANNELS, -1.0, 1.0),
            initial_state: numbers(s * CHANNELS * STATES, -1.0, 1.0),
            packing,
        }
    }

    fn pack(&self) -> Pack<'_, f64> {
        Pack { lengths: &self.packing.lengths, continued: &self.packing.continued, initial_state: &self.initial_state }
    }

    fn inputs(&self) -> Inputs<'_, f64> {
        Inputs {
            channels: CHANNELS,
            states: STATES,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: Some(&self.d_skip),
            delta_bias: Some(&self.delta_bias),
            z: Some(&self.z),
            softplus: true,
        }
    }
}

fn assert_agree(left: &Outputs<f64>, right: &Outputs<f64>) {
    let all = |outputs: &Outputs<f64>| [outputs.out.clone(), outputs.states.clone(), outputs.final_state.clone()];
    for (left, right) in all(left).iter().zip(&all(right)) {
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right) {
            // Numbers of order one are added, so what cancels keeps an error of that order.
            assert!((left - right).abs() <= 1e-12 * right.abs().max(1.0), "{left} and {right}");
        }
    }
}

#[test]
fn forward_and_segmented_agree() {
    let mut generator = Generator(2);
    let small = (0..=4).flat_map(|tokens| every_packing_with_empty(tokens, 3));
    let mut packings: Vec<_> = small.collect();
    packings.extend([100, 513, 1000].map(|tokens| generator.packing(tokens)));
    for packing in packings {
        let case = Case::new(&mut generator, packing);
        let forward = selective_scan::forward(&case.pack(), &case.inputs());
        assert_agree(&selective_scan::segmented(&case.pack(), &case.inputs()), &forward);
        for segment in [1, 2, 7, 10_000] {
            assert_agree(&selective_scan::forward_in_segments(&case.pack(), &case.inputs(), segment), &forward);
        }
    }
}

#[test]
fn a_long_sequence_continued_piecewise_is_the_same_bit_for_bit() {
    let mut generator = Generator(3);
    let whole = Case::new(&mut generator, Packing { lengths: vec![60], continued: vec![true] });
    let expected = selective_scan::forward(&whole.pack(), &whole.inputs());

    let mut state = whole.initial_state.clone();
    let mut out = Vec::new();
    for piece in [0..7, 7..7, 7..30, 30..60] {
        let pack = Pack { lengths: &[piece.len()], continued: &[true], initial_state: &state };
        let outputs = selective_scan::forward(&pack, &whole.inputs().of_tokens(piece));
        out.extend(outputs.out);
        state = outputs.final_state;
    }
    assert_eq!(out, expected.out);
    assert_eq!(state, expected.final_state);
}

#[test]
fn checkpoints_are_the_states_that_chunks_start_from() {
    let mut generator = Generator(4);
    let packing = Packing { lengths: vec![3, 0, 3, 5], continued: vec![false, true, true, false] };
    let case = Case::new(&mut generator, packing);
    let outputs = selective_scan::forward(&case.pack(), &case.inputs());
    let state_len = CHANNELS * STATES;
    let initial_state = &case.initial_state[2 * state_len..][..state_len];

    // Chunks of 3 start at tokens 0 (fresh), 3 (continued), 6 (fresh), 9 (inside).
    let checkpoints = outputs.checkpoints(3);
    assert_eq!(checkpoints.len(), 4 * state_len);
    assert!(checkpoints[..state_len].iter().all(|h| *h == 0.0));
    assert_eq!(&checkpoints[state_len..][..state_len], initial_state);
    assert!(checkpoints[2 * state_len..][..state_len].iter().all(|h| *h == 0.0));
    let three_tokens = Pack::fresh(&[3]);
    let inside = selective_scan::forward(&three_tokens, &case.inputs().of_tokens(6..9)).final_state;
    assert_eq!(&checkpoints[3 * state_len..], inside);

    // The empty sequence hands its initial state on.
    let empty = state_len..2 * state_len;
    assert_eq!(outputs.final_state[empty.clone()], case.initial_state[empty]);
    assert_eq!(outputs.checkpoints(100).len(), state_len);
}

#[test]
fn nan_stays_in_its_sequence() {
    let mut generator = Generator(5);
    let mut case = Case::new(&mut generator, Packing { lengths: vec![4, 3], continued: vec![false; 2] });
    case.u[0] = f64::NAN;
    case.delta[4] = f64::INFINITY;
    for scan in [selective_scan::forward, selective_scan::segmented] {
        let out = scan(&case.pack(), &case.inputs()).out;
        assert!(out[0].is_nan());
        assert!(out[4 * CHANNELS..].iter().all(|out| out.is_finite()));
    }
}

#[test]
#[should_panic(expected = "b has the wrong length for the shape (T, N)")]
fn a_wrong_shape_is_named() {
    let mut case = Case::new(&mut Generator(6), Packing { lengths: vec![4], continued: vec![false] });
    case.b.pop();
    selective_scan::forward(&case.pack(), &case.inputs());
}
