//! The embedding and its gradient: that of a linear map, so the two are each other's transpose.

mod common;

use common::Generator;
use packscan_reference::embedding::{backward, forward};

const WIDTH: usize = 3;
const VOCABULARY: usize = 5;

#[test]
fn rows_are_those_of_the_ids() {
    let table: Vec<f64> = (0..VOCABULARY * WIDTH).map(|i| i as f64).collect();
    assert_eq!(forward(WIDTH, &table, &[4, 0, 4]), [12.0, 13.0, 14.0, 0.0, 1.0, 2.0, 12.0, 13.0, 14.0]);
}

#[test]
fn the_gradient_is_what_a_finite_difference_sees() {
    let mut generator = Generator(4);
    let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| generator.uniform(-1.0, 1.0)).collect() };
    let ids = [1, 3, 1, 1, 0, 3];
    let (table, dout) = (numbers(VOCABULARY * WIDTH), numbers(ids.len() * WIDTH));
    let loss = |table: &[f64]| -> f64 { forward(WIDTH, table, &ids).iter().zip(&dout).map(|(y, dy)| y * dy).sum() };
    let gradient = backward(WIDTH, VOCABULARY, &dout, &ids);
    for (i, gradient) in gradient.iter().enumerate() {
        let moved = |step: f64| {
            let mut table = table.clone();
            table[i] += step;
            loss(&table)
        };
        // The map is linear: any step will do, and only rounding is left.
        let difference = (moved(0.5) - moved(-0.5)) / 1.0;
        assert!((difference - gradient).abs() <= 1e-13, "element {i}: {difference}, {gradient}");
    }
}
