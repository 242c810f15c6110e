//! The norm's hand-written backward against central finite differences, and the bound of its root.

mod common;

use common::Generator;
use packscan_reference::rms_norm::{Incoming, Inputs, Outputs, backward, forward};
use packscan_reference::{Bounded, Number};

const TOKENS: usize = 3;
const WIDTH: usize = 5;
const EPSILON: f64 = 1e-2;
/// Step of the differences: their error is about its square.
const STEP: f64 = 1e-5;
/// What differences of numbers of order 1 may be off by: the square of the step, and 2^-53 over it.
const NEAR: f64 = 1e-8;

struct Data {
    x: Vec<f64>,
    residual: Vec<f64>,
    weight: Vec<f64>,
    dy: Vec<f64>,
    incoming: Vec<f64>,
}

impl Data {
    fn new() -> Self {
        let mut generator = Generator(3);
        let mut numbers = |count| (0..count).map(|_| generator.uniform(-1.0, 1.0)).collect();
        let len = TOKENS * WIDTH;
        Data {
            x: numbers(len),
            residual: numbers(len),
            weight: numbers(WIDTH),
            dy: numbers(len),
            incoming: numbers(len),
        }
    }

    fn forward(&self) -> Outputs<f64> {
        forward(&Inputs {
            width: WIDTH,
            x: &self.x,
            residual: Some(&self.residual),
            weight: &self.weight,
            epsilon: EPSILON,
        })
    }

    /// A loss whose gradients by y and by r are `dy` and `incoming`.
    fn loss(&self) -> f64 {
        let outputs = self.forward();
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        dot(&outputs.y, &self.dy) + dot(&outputs.r, &self.incoming)
    }
}

/// d loss / d value, for each of the values that `of` finds.
fn differences(of: fn(&mut Data) -> &mut Vec<f64>) -> Vec<f64> {
    let mut data = Data::new();
    let count = of(&mut data).len();
    let mut loss_at = |i: usize, step: f64| {
        of(&mut data)[i] += step;
        let loss = data.loss();
        of(&mut data)[i] -= step;
        loss
    };
    (0..count).map(|i| (loss_at(i, STEP) - loss_at(i, -STEP)) / (2.0 * STEP)).collect()
}

fn assert_near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= NEAR, "element {i}: {got}, {want}");
    }
}

#[test]
fn the_backward_pass_is_the_derivative() {
    let data = Data::new();
    let outputs = data.forward();
    let gradients = backward(&Incoming {
        width: WIDTH,
        dy: &data.dy,
        r: &outputs.r,
        rstd: &outputs.rstd,
        weight: &data.weight,
        incoming: Some(&data.incoming),
    });
    assert_near(&gradients.r, &differences(|data| &mut data.x));
    assert_near(&gradients.r, &differences(|data| &mut data.residual));
    assert_near(&gradients.weight, &differences(|data| &mut data.weight));
}

#[test]
fn the_root_stays_within_its_bound() {
    let mut generator = Generator(5);
    for _ in 0..10_000 {
        let x = generator.log_uniform(1e-30, 1e30) as f32;
        let error = f64::from(x) * [0.0, 1e-7, 1e-3, 0.5][generator.index(4)];
        let bound = Bounded { value: x.into(), error }.rsqrt();
        for off in [-error, 0.0, error] {
            // As wrong as `rsqrt.approx` may be, less the rounding of storing it.
            for bias in [-2f64.powf(-22.9) + 6e-8, 0.0, 2f64.powf(-22.9) - 6e-8] {
                let got = (1.0 / (f64::from(x) + off).sqrt() * (1.0 + bias)) as f32;
                assert!(bound.allows(got.into()), "{x} off by {off}: {got}, {bound:?}");
            }
            let got = 1.0 / ((f64::from(x) + off) as f32).sqrt();
            assert!(off != 0.0 || bound.allows(got.into()), "{x}: {got}, {bound:?}");
        }
    }
}

#[test]
fn where_the_root_may_not_exist_there_is_no_bound() {
    for (value, error) in [(0.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (1.0, f64::INFINITY), (1e-40, 0.0)] {
        assert_eq!(Bounded { value, error }.rsqrt().error, f64::INFINITY, "{value} within {error}");
    }
}
