//! The bound of the scan: no f32 implementation of the formula exceeds it, and faults do.

mod common;

use common::arrays::Arrays;
use common::machine::{Machine, ORDINARY, PLAIN, bounded, largest_share, machines, median, random, scales};
use common::{Generator, Packing};
use packscan_reference::Bounded;
use packscan_reference::selective_scan::{self, Outputs};

const CHANNELS: usize = 4;
const STATES: usize = 8;

fn bound(data: &Arrays<f32>) -> Outputs<Bounded> {
    let data = bounded(data);
    selective_scan::forward(&data.pack(), &data.inputs())
}

/// The scan in f32, in the manner of a kernel: one walk over the pack, A * log2e beforehand, a reset that is a choice.
fn run(data: &Arrays<f32>, machine: Machine) -> Outputs<f32> {
    let state_len = CHANNELS * STATES;
    let a2: Vec<f32> = data.a.iter().map(|a| a * std::f32::consts::LOG2_E).collect();
    let mut outputs = Outputs { out: vec![], states: vec![], final_state: vec![], state_len };
    let mut start = 0;
    for (s, &length) in data.packing.lengths.iter().enumerate() {
        let continued = data.packing.continued[s];
        let mut h = data.initial_state[s * state_len..][..state_len].to_vec();
        if !continued {
            h.fill(0.0);
        }
        for t in start..start + length {
            outputs.states.extend_from_slice(&h);
            for d in 0..CHANNELS {
                let h = &mut h[d * STATES..][..STATES];
                let at = t * CHANNELS + d;
                let raw = data.delta[at] + data.delta_bias[d];
                let delta = if data.options.softplus { machine.softplus(raw) } else { raw };
                let delta_u = machine.store(delta * data.u[at]);
                for (n, h) in h.iter_mut().enumerate() {
                    let x = machine.store(delta_u * data.b[t * STATES + n]);
                    let decay = machine.ex2(delta * a2[d * STATES + n]);
                    *h = if t == start && !continued { x } else { machine.fma(decay, *h, x) };
                }
                let y = machine.dot(&data.c[t * STATES..][..STATES], h);
                let y = machine.fma(data.d_skip[d], data.u[at], y);
                outputs.out.push(machine.store(y * machine.silu(data.z[at])));
            }
        }
        outputs.final_state.extend_from_slice(&h);
        start += length;
    }
    outputs
}

#[test]
fn no_f32_implementation_exceeds_the_bound() {
    let mut generator = Generator(7);
    for scale in scales() {
        let mut packing = generator.packing(200);
        packing.lengths.push(2000);
        packing.continued.push(true);
        let data = random(&mut generator, packing, (CHANNELS, STATES), scale);
        let bound = bound(&data);
        let mut used = 0f64;
        for machine in machines() {
            let got = run(&data, machine);
            for (bound, got) in
                [(&bound.out, &got.out), (&bound.states, &got.states), (&bound.final_state, &got.final_state)]
            {
                let share = largest_share(bound, got);
                assert!(share <= 1.0, "{machine:?} exceeds the bound on {scale:?}");
                used = used.max(share);
            }
        }
        // Somewhere the worst machine uses a good part of the bound: it is not slack throughout.
        assert!(used > 0.3, "{scale:?} uses {used} of the bound");
    }
}

/// Ordinary data: two fresh sequences of 300 tokens.
fn ordinary() -> Arrays<f32> {
    let packing = Packing { lengths: vec![300, 300], continued: vec![false; 2] };
    random(&mut Generator(8), packing, (CHANNELS, STATES), ORDINARY)
}

#[test]
fn on_ordinary_data_the_bound_is_a_small_part_of_the_value() {
    let bound = bound(&ordinary());
    for results in [&bound.out, &bound.final_state] {
        let relative = median(results.iter().map(|x| x.error / x.value.abs()).collect());
        assert!(relative < 1e-4, "{relative}");
    }
}

/// Share of the outputs of some tokens that a fault drives out of their bounds.
fn caught(bound: &Outputs<Bounded>, faulty: &Outputs<f32>, tokens: std::ops::Range<usize>) -> f64 {
    let outputs = tokens.start * CHANNELS..tokens.end * CHANNELS;
    let count = outputs.len() as f64;
    outputs.filter(|&at| !bound.out[at].allows(f64::from(faulty.out[at]))).count() as f64 / count
}

#[test]
fn faults_exceed_the_bound() {
    let data = ordinary();
    let bound = bound(&data);
    assert_eq!(caught(&bound, &run(&data, PLAIN), 0..600), 0.0);

    let fault = |spoil: &dyn Fn(&mut Arrays<f32>)| {
        let mut data = ordinary();
        spoil(&mut data);
        run(&data, PLAIN)
    };
    let no_reset = fault(&|data| data.packing = Packing { lengths: vec![600], continued: vec![false] });
    let late_reset = fault(&|data| data.packing.lengths = vec![301, 299]);
    let early_reset = fault(&|data| data.packing.lengths = vec![299, 301]);
    let dropped_term = fault(&|data| data.c.iter_mut().skip(STATES - 1).step_by(STATES).for_each(|c| *c = 0.0));
    let other_token = fault(&|data| data.b.rotate_right(STATES));
    let no_skip = fault(&|data| data.d_skip.fill(0.0));

    assert!(caught(&bound, &no_reset, 300..310) > 0.95);
    assert!(caught(&bound, &late_reset, 300..310) > 0.95);
    assert!(caught(&bound, &early_reset, 299..309) > 0.95);
    assert!(caught(&bound, &dropped_term, 0..600) > 0.95);
    assert!(caught(&bound, &other_token, 0..600) > 0.95);
    assert!(caught(&bound, &no_skip, 0..600) > 0.95);

    // Before the boundary, a forgotten reset changes nothing.
    assert_eq!(caught(&bound, &no_reset, 0..300), 0.0);
}
