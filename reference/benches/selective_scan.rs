//! How long the bounds of one verification take: `cargo bench -p packscan-reference`.

use packscan_reference::selective_scan::{self, Inputs, Pack, Upstream};
use packscan_reference::{Bounded, Number};
use std::time::Instant;

fn main() {
    let (tokens, channels, states) = (5000, 24, 16);
    // A wave of `count` numbers between low and high: the time does not depend on them.
    let wave = |count: usize, low: f64, high: f64| -> Vec<Bounded> {
        let at = |i: usize| low + (high - low) * (0.5 + 0.5 * (i as f64).sin());
        (0..count).map(|i| Bounded::constant(at(i))).collect()
    };
    let inputs = Inputs {
        channels,
        states,
        u: &wave(tokens * channels, -1.0, 1.0),
        delta: &wave(tokens * channels, -7.0, -2.0),
        a: &wave(channels * states, -16.0, -1.0),
        b: &wave(tokens * states, -1.0, 1.0),
        c: &wave(tokens * states, -1.0, 1.0),
        d_skip: Some(&wave(channels, -1.0, 1.0)),
        delta_bias: Some(&wave(channels, -1.0, 1.0)),
        z: Some(&wave(tokens * channels, -4.0, 4.0)),
        softplus: true,
    };
    let pack = Pack::fresh(&[1000, 4000]);
    println!("T = {tokens}, D = {channels}, N = {states}");

    let start = Instant::now();
    let outputs = selective_scan::forward(&pack, &inputs);
    println!("forward: {} outputs in {} ms", outputs.out.len(), start.elapsed().as_millis());

    let g = wave(tokens * channels, -1.0, 1.0);
    let start = Instant::now();
    let gradients = selective_scan::backward(&pack, &inputs, &Upstream { out: &g, final_state: None });
    println!("backward: {} gradients of u in {} ms", gradients.u.len(), start.elapsed().as_millis());
}
