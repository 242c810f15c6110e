//! The bounds of the gradients: no f32 implementation of the formulas exceeds them, and faults do.

mod common;

use common::arrays::Arrays;
use common::machine::{Machine, ORDINARY, PLAIN, bounded, largest_share, machines, median, random, scales};
use common::{Generator, Packing};
use packscan_reference::Bounded;
use packscan_reference::selective_scan::{self, Gradients};
use std::ops::Range;

const CHANNELS: usize = 6;
const STATES: usize = 8;

/// What an implementation may do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// a[t+1]*dh[t+1] crosses from a sequence into the one before.
    CarryNotCut,
    /// a[t]*dh[t+1]
    DecayOfThisToken,
    /// a*h[t-1] reaches into the sequence before.
    PastNotCut,
    /// S1*u - S2
    WrongSign,
    /// du without D_skip*dy.
    NoSkip,
    /// dC from h[t-1].
    OlderState,
    /// ddelta_raw without the derivative of softplus.
    NoSoftplus,
    /// No dA from the last chunk, of 8 tokens.
    LastChunkLost,
}

/// What forward leaves behind, and the gradients of the states.
struct Tape {
    /// (T, D)
    delta: Vec<f32>,
    delta_u: Vec<f32>,
    dy: Vec<f32>,
    /// (T, D, N)
    h: Vec<f32>,
    decayed: Vec<f32>,
    dh: Vec<f32>,
    /// (S, D, N)
    dinitial: Vec<f32>,
}

/// `count` numbers from `first` on, each `stride` after the one before.
fn column(values: &[f32], first: usize, stride: usize) -> Vec<f32> {
    values.iter().skip(first).step_by(stride).copied().collect()
}

/// One implementation at work on one pack.
struct Run<'a> {
    data: &'a Arrays<f32>,
    machine: Machine,
    fault: Fault,
}

impl Run<'_> {
    fn biased_delta(&self, at: usize) -> f32 {
        self.data.delta[at] + self.data.delta_bias[at % CHANNELS]
    }

    /// The pack is walked there and back, `A * log2e` beforehand, boundaries chosen.
    fn tape(&self) -> Tape {
        let (data, machine) = (self.data, self.machine);
        let (channels, states) = (data.u.len(), data.u.len() * STATES);
        let step = |at| {
            let biased = self.biased_delta(at);
            if data.options.softplus { machine.softplus(biased) } else { biased }
        };
        let delta: Vec<f32> = (0..channels).map(step).collect();
        let mut tape = Tape {
            delta_u: (0..channels).map(|at| machine.store(delta[at] * data.u[at])).collect(),
            dy: (0..channels).map(|at| machine.store(data.g[at] * machine.silu(data.z[at]))).collect(),
            delta,
            h: vec![0.0; states],
            decayed: vec![0.0; states],
            dh: vec![0.0; states],
            dinitial: vec![0.0; data.initial_state.len()],
        };
        for column in 0..CHANNELS * STATES {
            let decays = self.walk_forward(column, &mut tape);
            self.walk_backward(column, &decays, &mut tape);
        }
        tape
    }

    /// Fills h and a*h[t-1] of one channel and state; returns a of each token.
    fn walk_forward(&self, column: usize, tape: &mut Tape) -> Vec<f32> {
        let (data, machine, (d, n)) = (self.data, self.machine, (column / STATES, column % STATES));
        let a2 = data.a[column] * std::f32::consts::LOG2_E;
        let (mut decays, mut h) = (vec![], 0.0);
        for (s, tokens) in data.pack().ranges().enumerate() {
            let continued = data.packing.continued[s];
            for t in tokens.clone() {
                let fresh = t == tokens.start && !continued;
                if t == tokens.start && continued {
                    h = data.initial_state[s * CHANNELS * STATES + column];
                }
                let (at, decay) = (t * CHANNELS + d, machine.ex2(tape.delta[t * CHANNELS + d] * a2));
                let x = machine.store(tape.delta_u[at] * data.b[t * STATES + n]);
                if !fresh || self.fault == Fault::PastNotCut {
                    tape.decayed[at * STATES + n] = machine.store(decay * h);
                }
                h = if fresh { x } else { machine.fma(decay, h, x) };
                tape.h[at * STATES + n] = h;
                decays.push(decay);
            }
        }
        decays
    }

    /// Fills dh of one channel and state, and the gradients of the initial states.
    fn walk_backward(&self, column: usize, decays: &[f32], tape: &mut Tape) {
        let (data, machine, (d, n)) = (self.data, self.machine, (column / STATES, column % STATES));
        let (mut next_dh, mut carry) = (0.0, 0.0);
        let ranges: Vec<_> = data.pack().ranges().collect();
        for (s, tokens) in ranges.into_iter().enumerate().rev() {
            let of_state = s * CHANNELS * STATES + column;
            let of_final = data.final_gradient[of_state];
            carry = if self.fault == Fault::CarryNotCut { carry + of_final } else { of_final };
            for t in tokens.clone().rev() {
                let at = t * CHANNELS + d;
                if self.fault == Fault::DecayOfThisToken && t + 1 < tokens.end {
                    carry = machine.store(decays[t] * next_dh);
                }
                next_dh = machine.fma(data.c[t * STATES + n], tape.dy[at], carry);
                tape.dh[at * STATES + n] = next_dh;
                carry = machine.store(decays[t] * next_dh);
            }
            if data.packing.continued[s] {
                tape.dinitial[of_state] = carry;
            }
        }
    }

    fn gradients(&self) -> Gradients<f32> {
        let (data, machine, fault, tape) = (self.data, self.machine, self.fault, self.tape());
        let tokens = data.packing.tokens();
        let by_exponent: Vec<f32> = tape.dh.iter().zip(&tape.decayed).map(|(x, y)| machine.store(x * y)).collect();
        let (mut du, mut ddelta, mut dz) = (vec![], vec![], vec![]);
        for at in 0..tokens * CHANNELS {
            let (t, d, row) = (at / CHANNELS, at % CHANNELS, at * STATES..(at + 1) * STATES);
            let s1 = machine.dot(&tape.dh[row.clone()], &data.b[t * STATES..][..STATES]);
            let s2 = machine.dot(&by_exponent[row.clone()], &data.a[d * STATES..][..STATES]);
            let s2 = if fault == Fault::WrongSign { -s2 } else { s2 };
            let skip = if fault == Fault::NoSkip { 0.0 } else { machine.store(data.d_skip[d] * tape.dy[at]) };
            du.push(machine.fma(tape.delta[at], s1, skip));
            let by_step = machine.fma(data.u[at], s1, s2);
            let softplus = data.options.softplus && fault != Fault::NoSoftplus;
            let slope = if softplus { machine.sigmoid(self.biased_delta(at)) } else { 1.0 };
            ddelta.push(machine.store(by_step * slope));
            let y = machine.fma(data.d_skip[d], data.u[at], machine.dot(&data.c[t * STATES..][..STATES], &tape.h[row]));
            dz.push(machine.store(machine.store(data.g[at] * y) * machine.silu_derivative(data.z[at])));
        }
        let (mut db, mut dc) = (vec![], vec![]);
        for t in 0..tokens {
            let (channels, state_len) = (t * CHANNELS..(t + 1) * CHANNELS, CHANNELS * STATES);
            let states = t * state_len..(t + 1) * state_len;
            let older = t.max(1) * state_len - state_len;
            let read = if fault == Fault::OlderState { older..older + state_len } else { states.clone() };
            for n in 0..STATES {
                let dh = column(&tape.dh[states.clone()], n, STATES);
                db.push(machine.dot(&dh, &tape.delta_u[channels.clone()]));
                dc.push(machine.dot(&tape.dy[channels.clone()], &column(&tape.h[read.clone()], n, STATES)));
            }
        }
        let counted = if fault == Fault::LastChunkLost { tokens - 8 } else { tokens };
        let over_tokens = |x: &[f32], y: &[f32], d| machine.dot(&column(x, d, CHANNELS), &column(y, d, CHANNELS));
        let of_a = |state: usize| {
            let terms = &column(&by_exponent, state, CHANNELS * STATES)[..counted];
            machine.dot(terms, &column(&tape.delta, state / STATES, CHANNELS)[..counted])
        };
        Gradients {
            a: (0..CHANNELS * STATES).map(of_a).collect(),
            d_skip: Some((0..CHANNELS).map(|d| over_tokens(&tape.dy, &data.u, d)).collect()),
            delta_bias: Some((0..CHANNELS).map(|d| over_tokens(&ddelta, &vec![1.0; ddelta.len()], d)).collect()),
            u: du,
            delta: ddelta,
            b: db,
            c: dc,
            z: Some(dz),
            initial_state: tape.dinitial,
        }
    }
}

fn run(data: &Arrays<f32>, machine: Machine, fault: Fault) -> Gradients<f32> {
    Run { data, machine, fault }.gradients()
}

fn bound(data: &Arrays<f32>) -> Gradients<Bounded> {
    let data = bounded(data);
    selective_scan::backward(&data.pack(), &data.inputs(), &data.upstream())
}

/// Every gradient under its name. All options are on.
fn named<X>(gradients: &Gradients<X>) -> [(&'static str, &Vec<X>); 9] {
    let present = "every option is on";
    [
        ("u", &gradients.u),
        ("delta", &gradients.delta),
        ("a", &gradients.a),
        ("b", &gradients.b),
        ("c", &gradients.c),
        ("d_skip", gradients.d_skip.as_ref().expect(present)),
        ("delta_bias", gradients.delta_bias.as_ref().expect(present)),
        ("z", gradients.z.as_ref().expect(present)),
        ("initial_state", &gradients.initial_state),
    ]
}

#[test]
fn no_f32_implementation_exceeds_the_bound() {
    let mut generator = Generator(31);
    for scale in scales() {
        let mut packing = generator.packing(120);
        packing.lengths.push(1000);
        packing.continued.push(true);
        let data = random(&mut generator, packing, (CHANNELS, STATES), scale);
        let bound = bound(&data);
        let mut used = [0f64; 9];
        for machine in machines() {
            let got = run(&data, machine, Fault::None);
            for (i, ((name, bound), (_, got))) in named(&bound).into_iter().zip(named(&got)).enumerate() {
                let share = largest_share(bound, got);
                assert!(share <= 1.0, "{machine:?} exceeds the bound of {name} on {scale:?}");
                used[i] = used[i].max(share);
            }
        }
        // Per token, the worst machine uses a good part of the bound somewhere.
        assert!([0, 1, 3, 4, 7].iter().all(|&i| used[i] > 0.1), "{scale:?} uses {used:?} of the bounds");
    }
}

/// Ordinary data: two fresh sequences of 300 tokens.
fn ordinary() -> Arrays<f32> {
    let packing = Packing { lengths: vec![300, 300], continued: vec![false; 2] };
    random(&mut Generator(32), packing, (CHANNELS, STATES), ORDINARY)
}

#[test]
fn on_ordinary_data_the_bounds_are_a_small_part_of_the_values() {
    let bound = bound(&ordinary());
    for (name, bound) in &named(&bound)[..8] {
        let relative = median(bound.iter().map(|x| x.error / x.value.abs()).collect());
        // Sums over 600 tokens cancel, and in any order they may lose 600 * 2^-24 of the magnitudes.
        let limit = if matches!(*name, "a" | "d_skip" | "delta_bias") { 1e-2 } else { 1e-4 };
        assert!(relative < limit, "{name}: {relative}");
    }
    let of_fresh = named(&bound)[8].1;
    assert!(of_fresh.iter().all(|x| (x.value, x.error) == (0.0, 0.0)));
}

/// Share of some rows of a gradient that are out of their bounds.
fn caught(bound: &[Bounded], faulty: &[f32], width: usize, rows: Range<usize>) -> f64 {
    let elements = rows.start * width..rows.end * width;
    let count = elements.len() as f64;
    elements.filter(|&at| !bound[at].allows(f64::from(faulty[at]))).count() as f64 / count
}

#[test]
fn faults_exceed_the_bound() {
    let data = ordinary();
    let bound = bound(&data);
    let faulty = |fault| run(&data, PLAIN, fault);
    let least = |share: f64, what: &str| assert!(share > 0.9, "{what}: only {share} are out of bounds");

    for (fault, tokens) in
        [(Fault::CarryNotCut, 295..300), (Fault::DecayOfThisToken, 0..299), (Fault::DecayOfThisToken, 300..599)]
    {
        let got = faulty(fault);
        least(caught(&bound.u, &got.u, CHANNELS, tokens.clone()), "du");
        least(caught(&bound.delta, &got.delta, CHANNELS, tokens.clone()), "ddelta");
        least(caught(&bound.b, &got.b, STATES, tokens), "dB");
        if fault == Fault::CarryNotCut {
            // After the boundary, a carry that is not cut changes nothing.
            assert_eq!(caught(&bound.u, &got.u, CHANNELS, 300..600), 0.0);
        }
    }
    let past = faulty(Fault::PastNotCut);
    least(caught(&bound.delta, &past.delta, CHANNELS, 300..301), "ddelta of a first token");
    assert_eq!(caught(&bound.delta, &past.delta, CHANNELS, 0..300), 0.0);
    least(caught(&bound.delta, &faulty(Fault::WrongSign).delta, CHANNELS, 1..300), "ddelta, wrong sign");
    least(caught(&bound.u, &faulty(Fault::NoSkip).u, CHANNELS, 0..600), "du without skip");
    least(caught(&bound.c, &faulty(Fault::OlderState).c, STATES, 1..600), "dC from older states");
    least(caught(&bound.delta, &faulty(Fault::NoSoftplus).delta, CHANNELS, 0..600), "ddelta without softplus");
    least(caught(&bound.a, &faulty(Fault::LastChunkLost).a, STATES, 0..CHANNELS), "dA without the last chunk");
}
