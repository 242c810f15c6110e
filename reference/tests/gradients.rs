//! Every gradient is the slope of the loss: central differences in f64.

mod common;

use common::arrays::{Arrays, Options};
use common::{Generator, Packing, every_packing_with_empty};
use packscan_reference::selective_scan::{self, Gradients};

const CHANNELS: usize = 2;
const STATES: usize = 3;

/// Half the distance of the two points of a difference. The scan's third derivatives are of order 1 to 100.
const STEP: f64 = 1e-5;

fn random(generator: &mut Generator, packing: Packing, options: Options) -> Arrays<f64> {
    Arrays::new(packing, (CHANNELS, STATES), options, |name, count| {
        let (low, high) = match name {
            "delta" if options.softplus => (-3.0, 1.0),
            "delta" => (0.05, 0.8),
            "delta_bias" => (0.0, 0.3),
            "a" => (-3.0, -0.1),
            "z" => (-3.0, 3.0),
            _ => (-1.0, 1.0),
        };
        (0..count).map(|_| generator.uniform(low, high)).collect()
    })
}

fn gradients(arrays: &Arrays<f64>) -> Gradients<f64> {
    selective_scan::backward(&arrays.pack(), &arrays.inputs(), &arrays.upstream())
}

/// The loss of which `g` and `final_gradient` are the derivatives: linear in what the scan computes.
fn loss(arrays: &Arrays<f64>) -> f64 {
    let outputs = selective_scan::forward(&arrays.pack(), &arrays.inputs());
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let of_states = if arrays.options.final_gradient { dot(&arrays.final_gradient, &outputs.final_state) } else { 0.0 };
    dot(&arrays.g, &outputs.out) + of_states
}

type Field = fn(&mut Arrays<f64>) -> &mut Vec<f64>;

/// Each input, under its name, and the gradient that the book gives for it, if any.
fn named(gradients: &Gradients<f64>) -> [(&'static str, Field, Option<&Vec<f64>>); 9] {
    [
        ("u", |arrays| &mut arrays.u, Some(&gradients.u)),
        ("delta", |arrays| &mut arrays.delta, Some(&gradients.delta)),
        ("z", |arrays| &mut arrays.z, gradients.z.as_ref()),
        ("a", |arrays| &mut arrays.a, Some(&gradients.a)),
        ("b", |arrays| &mut arrays.b, Some(&gradients.b)),
        ("c", |arrays| &mut arrays.c, Some(&gradients.c)),
        ("d_skip", |arrays| &mut arrays.d_skip, gradients.d_skip.as_ref()),
        ("delta_bias", |arrays| &mut arrays.delta_bias, gradients.delta_bias.as_ref()),
        ("initial_state", |arrays| &mut arrays.initial_state, Some(&gradients.initial_state)),
    ]
}

/// The first input of which the gradient is not the slope of the loss.
fn complaint(arrays: &Arrays<f64>, gradients: &Gradients<f64>) -> Option<String> {
    let mut moved = arrays.clone();
    for (name, field, gradient) in named(gradients) {
        let Some(gradient) = gradient else { continue };
        assert_eq!(gradient.len(), field(&mut moved).len(), "shape of the gradient of {name}");
        for (i, &gradient) in gradient.iter().enumerate() {
            let here = field(&mut moved)[i];
            let mut loss_at = |x| {
                field(&mut moved)[i] = x;
                loss(&moved)
            };
            let slope = (loss_at(here + STEP) - loss_at(here - STEP)) / (2.0 * STEP);
            field(&mut moved)[i] = here;
            // 1e-9 is what rounding does: 2^-53 of a loss of order 10, divided by the step.
            let close = (gradient - slope).abs() <= 1e-6 * slope.abs() + 1e-9;
            if !close {
                return Some(format!("{name}[{i}]: {gradient}, slope {slope}, {:?}", arrays.packing));
            }
        }
    }
    None
}

#[test]
fn every_gradient_is_a_slope() {
    let mut generator = Generator(11);
    for options in Options::every() {
        for _ in 0..4 {
            let packing = generator.packing(12);
            let arrays = random(&mut generator, packing, options);
            let gradients = gradients(&arrays);
            assert_eq!(complaint(&arrays, &gradients), None, "{options:?}");
            let optional = (gradients.d_skip.is_some(), gradients.delta_bias.is_some(), gradients.z.is_some());
            assert_eq!(optional, (options.d_skip, options.delta_bias, options.gate));
        }
    }
}

#[test]
fn every_gradient_is_a_slope_in_every_small_packing() {
    let mut generator = Generator(12);
    for packing in (0..=3).flat_map(|tokens| every_packing_with_empty(tokens, 3)) {
        let arrays = random(&mut generator, packing, Options::ALL);
        assert_eq!(complaint(&arrays, &gradients(&arrays)), None);
    }
}

fn assert_agree(got: &Gradients<f64>, expected: &Gradients<f64>) {
    for ((name, _, got), (_, _, expected)) in named(got).into_iter().zip(named(expected)) {
        let (Some(got), Some(expected)) = (got, expected) else {
            assert_eq!(got, expected, "{name}");
            continue;
        };
        assert_eq!(got.len(), expected.len(), "{name}");
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-11 * expected.abs().max(1.0), "{name}: {got}, {expected}");
        }
    }
}

#[test]
fn backward_and_segmented_backward_agree() {
    let mut generator = Generator(18);
    for options in Options::every() {
        for tokens in [20, 150] {
            let packing = generator.packing(tokens);
            let arrays = random(&mut generator, packing, options);
            let expected = gradients(&arrays);
            let (pack, inputs, upstream) = (arrays.pack(), arrays.inputs(), arrays.upstream());
            assert_agree(&selective_scan::segmented_backward(&pack, &inputs, &upstream), &expected);
            for segment in [1, 2, 7, 10_000] {
                let got = selective_scan::backward_in_segments(&pack, &inputs, &upstream, segment);
                assert_agree(&got, &expected);
            }
        }
    }
}

#[test]
fn a_wrong_gradient_is_no_slope() {
    let packing = Packing { lengths: vec![4, 0, 3], continued: vec![true, true, false] };
    let arrays = random(&mut Generator(13), packing, Options::ALL);
    let right = gradients(&arrays);
    for input in 0..9 {
        let mut wrong = right.clone();
        let gradient = match input {
            0 => &mut wrong.u,
            1 => &mut wrong.delta,
            2 => wrong.z.as_mut().expect("gated"),
            3 => &mut wrong.a,
            4 => &mut wrong.b,
            5 => &mut wrong.c,
            6 => wrong.d_skip.as_mut().expect("with skip"),
            7 => wrong.delta_bias.as_mut().expect("with bias"),
            _ => &mut wrong.initial_state,
        };
        *gradient.last_mut().expect("not empty") += 1e-5;
        let (name, ..) = named(&right)[input];
        let complaint = complaint(&arrays, &wrong).expect("a wrong gradient");
        assert!(complaint.starts_with(&format!("{name}[")), "{complaint}");
    }
}

#[test]
fn an_empty_sequence_hands_the_gradient_of_its_state_back() {
    let packing = Packing { lengths: vec![2, 0, 0, 3], continued: vec![false, true, false, true] };
    let mut arrays = random(&mut Generator(14), packing, Options::ALL);
    let state_len = CHANNELS * STATES;
    let of_sequence = |values: &[f64], s: usize| values[s * state_len..][..state_len].to_vec();
    let dinitial = gradients(&arrays).initial_state;
    assert_eq!(of_sequence(&dinitial, 1), of_sequence(&arrays.final_gradient, 1));
    for fresh in [0, 2] {
        assert_eq!(of_sequence(&dinitial, fresh), vec![0.0; state_len]);
    }
    arrays.options.final_gradient = false;
    assert_eq!(of_sequence(&gradients(&arrays).initial_state, 1), vec![0.0; state_len]);
}

#[test]
fn a_long_sequence_continued_piecewise_has_the_same_gradients_bit_for_bit() {
    let packing = Packing { lengths: vec![60], continued: vec![true] };
    let whole = random(&mut Generator(15), packing, Options::ALL);
    let expected = gradients(&whole);
    let outputs = selective_scan::forward(&whole.pack(), &whole.inputs());
    let state_len = CHANNELS * STATES;

    let mut final_gradient = whole.final_gradient.clone();
    for piece in [30..60, 7..30, 7..7, 0..7] {
        let initial_state = &outputs.states[piece.start * state_len..][..state_len];
        let pack = selective_scan::Pack { lengths: &[piece.len()], continued: &[true], initial_state };
        let channels = piece.start * CHANNELS..piece.end * CHANNELS;
        let upstream = selective_scan::Upstream { out: &whole.g[channels.clone()], final_state: Some(&final_gradient) };
        let part = selective_scan::backward(&pack, &whole.inputs().of_tokens(piece.clone()), &upstream);
        assert_eq!(part.u, expected.u[channels.clone()]);
        assert_eq!(part.delta, expected.delta[channels]);
        assert_eq!(part.b, expected.b[piece.start * STATES..piece.end * STATES]);
        final_gradient = part.initial_state;
    }
    assert_eq!(final_gradient, expected.initial_state);
}

#[test]
fn nan_stays_in_its_sequence() {
    let packing = Packing { lengths: vec![4, 3, 2], continued: vec![false; 3] };
    let clean = random(&mut Generator(16), packing, Options::ALL);
    let expected = gradients(&clean);
    let mut spoilt = clean;
    for (at, bad) in [(0, f64::NAN), (8 * CHANNELS, f64::INFINITY)] {
        spoilt.u[at] = bad;
        spoilt.g[at + 1] = bad;
        spoilt.delta[at] = bad;
    }
    let got = gradients(&spoilt);
    let tokens = 4 * CHANNELS..7 * CHANNELS;
    assert!(!got.u[0].is_finite() && !got.delta[8 * CHANNELS].is_finite());
    assert_eq!(got.u[tokens.clone()], expected.u[tokens.clone()]);
    assert_eq!(got.delta[tokens.clone()], expected.delta[tokens.clone()]);
    assert_eq!(got.z.expect("gated")[tokens.clone()], expected.z.expect("gated")[tokens]);
    assert_eq!(got.b[4 * STATES..7 * STATES], expected.b[4 * STATES..7 * STATES]);
    assert_eq!(got.c[4 * STATES..7 * STATES], expected.c[4 * STATES..7 * STATES]);
}

#[test]
#[should_panic(expected = "the gradient of out has the wrong length for the shape (T, D)")]
fn a_wrong_shape_is_named() {
    let packing = Packing { lengths: vec![4], continued: vec![false] };
    let mut arrays = random(&mut Generator(17), packing, Options::ALL);
    arrays.g.pop();
    gradients(&arrays);
}
