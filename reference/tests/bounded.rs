//! The bound of the scan: no f32 implementation of the formula exceeds it, and faults do.

mod common;

use common::machine::{Machine, PLAIN, largest_share, machines};
use common::{Generator, Packing};
use packscan_reference::selective_scan::{self, Inputs, Outputs, Pack};
use packscan_reference::{Bounded, Number};

const CHANNELS: usize = 4;
const STATES: usize = 8;

/// What the random data are like.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Range of delta where there is no softplus; with softplus, of what it is given before the bias.
    delta: (f64, f64),
    /// Range of -A.
    decay: (f64, f64),
    softplus: bool,
    /// Magnitude of u, B and C.
    data: f64,
}

/// As in the initialisation of Mamba: delta between 0.001 and 0.1, A from -1 to -16.
const ORDINARY: Scale = Scale { delta: (-6.9, -2.3), decay: (1.0, 16.0), softplus: true, data: 1.0 };

struct Data {
    packing: Packing,
    softplus: bool,
    u: Vec<f32>,
    delta: Vec<f32>,
    z: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    d_skip: Vec<f32>,
    delta_bias: Vec<f32>,
    initial_state: Vec<f32>,
}

impl Data {
    fn new(generator: &mut Generator, packing: Packing, scale: Scale) -> Self {
        let (t, s) = (packing.tokens(), packing.lengths.len());
        let mut data = |count| generator.f32s(count).into_iter().map(|x| x * scale.data as f32).collect();
        let (u, b, c) = (data(t * CHANNELS), data(t * STATES), data(t * STATES));
        let (low, high) = scale.delta;
        let mut delta = || {
            if scale.softplus { generator.uniform(low, high) } else { generator.log_uniform(low, high) }
        };
        let delta = (0..t * CHANNELS).map(|_| delta() as f32).collect();
        let mut decay = || -generator.log_uniform(scale.decay.0, scale.decay.1) as f32;
        let a = (0..CHANNELS * STATES).map(|_| decay()).collect();
        let delta_bias = if scale.softplus { generator.f32s(CHANNELS) } else { vec![0.0; CHANNELS] };
        let z = generator.f32s(t * CHANNELS).into_iter().map(|z| z * 4.0).collect();
        let d_skip = generator.f32s(CHANNELS);
        let initial_state = generator.f32s(s * CHANNELS * STATES);
        Self { packing, softplus: scale.softplus, u, delta, z, a, b, c, d_skip, delta_bias, initial_state }
    }

    fn bound(&self) -> Outputs<Bounded> {
        let bounded = |values: &[f32]| -> Vec<_> { values.iter().map(|x| Bounded::constant(f64::from(*x))).collect() };
        selective_scan::forward(
            &Pack {
                lengths: &self.packing.lengths,
                continued: &self.packing.continued,
                initial_state: &bounded(&self.initial_state),
            },
            &Inputs {
                channels: CHANNELS,
                states: STATES,
                u: &bounded(&self.u),
                delta: &bounded(&self.delta),
                a: &bounded(&self.a),
                b: &bounded(&self.b),
                c: &bounded(&self.c),
                d_skip: Some(&bounded(&self.d_skip)),
                delta_bias: Some(&bounded(&self.delta_bias)),
                z: Some(&bounded(&self.z)),
                softplus: self.softplus,
            },
        )
    }

    /// The scan in f32, in the manner of a kernel: one walk over the pack, A * log2e beforehand, a reset that is a choice.
    fn run(&self, machine: Machine) -> Outputs<f32> {
        let state_len = CHANNELS * STATES;
        let a2: Vec<f32> = self.a.iter().map(|a| a * std::f32::consts::LOG2_E).collect();
        let mut outputs = Outputs { out: vec![], states: vec![], final_state: vec![], state_len };
        let mut start = 0;
        for (s, &length) in self.packing.lengths.iter().enumerate() {
            let continued = self.packing.continued[s];
            let mut h = self.initial_state[s * state_len..][..state_len].to_vec();
            if !continued {
                h.fill(0.0);
            }
            for t in start..start + length {
                outputs.states.extend_from_slice(&h);
                for d in 0..CHANNELS {
                    let h = &mut h[d * STATES..][..STATES];
                    let at = t * CHANNELS + d;
                    let raw = self.delta[at] + self.delta_bias[d];
                    let delta = if self.softplus { machine.softplus(raw) } else { raw };
                    let delta_u = machine.store(delta * self.u[at]);
                    for (n, h) in h.iter_mut().enumerate() {
                        let x = machine.store(delta_u * self.b[t * STATES + n]);
                        let decay = machine.ex2(delta * a2[d * STATES + n]);
                        *h = if t == start && !continued { x } else { machine.fma(decay, *h, x) };
                    }
                    let y = machine.dot(&self.c[t * STATES..][..STATES], h);
                    let y = machine.fma(self.d_skip[d], self.u[at], y);
                    outputs.out.push(machine.store(y * machine.silu(self.z[at])));
                }
            }
            outputs.final_state.extend_from_slice(&h);
            start += length;
        }
        outputs
    }
}

#[test]
fn no_f32_implementation_exceeds_the_bound() {
    let direct = |delta, decay, data| Scale { delta, decay, softplus: false, data };
    let scales = [
        ORDINARY,
        Scale { delta: (-30.0, 10.0), decay: (1.0, 1024.0), softplus: true, data: 1.0 },
        direct((1e-3, 1e-3), (1.0, 1.0), 1.0),
        direct((1e-3, 10.0), (1.0, 1024.0), 1.0),
        direct((1.0, 10.0), (512.0, 1024.0), 1.0),
        direct((1e-3, 1.0), (1.0, 16.0), 1e6),
        direct((1e-3, 1.0), (1.0, 16.0), 1e-13),
    ];
    let mut generator = Generator(7);
    for scale in scales {
        let mut packing = generator.packing(200);
        packing.lengths.push(2000);
        packing.continued.push(true);
        let data = Data::new(&mut generator, packing, scale);
        let bound = data.bound();
        let mut used = 0f64;
        for machine in machines() {
            let got = data.run(machine);
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Ordinary data: two fresh sequences of 300 tokens.
fn ordinary() -> Data {
    let packing = Packing { lengths: vec![300, 300], continued: vec![false; 2] };
    Data::new(&mut Generator(8), packing, ORDINARY)
}

#[test]
fn on_ordinary_data_the_bound_is_a_small_part_of_the_value() {
    let bound = ordinary().bound();
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
    let bound = data.bound();
    assert_eq!(caught(&bound, &data.run(PLAIN), 0..600), 0.0);

    let fault = |spoil: &dyn Fn(&mut Data)| {
        let mut data = ordinary();
        spoil(&mut data);
        data.run(PLAIN)
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
