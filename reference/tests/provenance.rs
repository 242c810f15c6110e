//! The proof: every output depends on exactly the inputs that the formula names, for every packing of up to 8 tokens.
//!
//! `Traced` runs through the segmented formulation (and through the book). What is found is compared with sets written down here
//! from the definition, as sets, so a leak (too much) and a loss (too little) both fail.

mod common;

use common::{Generator, Packing, every_packing, every_packing_with_empty};
use packscan_reference::selective_scan::{self, Inputs, Outputs, Pack};
use packscan_reference::{IndexSet, Number, Traced};
use std::ops::Range;

/// Traced inputs of a pack; each element of each has an index of its own.
struct Case {
    packing: Packing,
    channels: usize,
    states: usize,
    /// Whether bias, softplus, skip and gate are in use.
    options: bool,
    u: Vec<Traced>,
    delta: Vec<Traced>,
    z: Vec<Traced>,
    a: Vec<Traced>,
    b: Vec<Traced>,
    c: Vec<Traced>,
    d_skip: Vec<Traced>,
    delta_bias: Vec<Traced>,
    initial_state: Vec<Traced>,
}

impl Case {
    fn new(packing: Packing, channels: usize, states: usize, options: bool) -> Self {
        let (t, s, d, n) = (packing.tokens(), packing.lengths.len(), channels, states);
        let mut next = 0;
        let mut traced = |count: usize| -> Vec<Traced> {
            let indices = next..next + count;
            next += count;
            indices.map(|index| Traced::input(0.5 + index as f64 / 64.0, index)).collect()
        };
        Self {
            u: traced(t * d),
            delta: traced(t * d),
            z: traced(t * d),
            a: traced(d * n),
            b: traced(t * n),
            c: traced(t * n),
            d_skip: traced(d),
            delta_bias: traced(d),
            initial_state: traced(s * d * n),
            packing,
            channels,
            states,
            options,
        }
    }

    fn inputs(&self) -> Inputs<'_, Traced> {
        Inputs {
            channels: self.channels,
            states: self.states,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: self.options.then_some(&self.d_skip),
            delta_bias: self.options.then_some(&self.delta_bias),
            z: self.options.then_some(&self.z),
            softplus: self.options,
        }
    }

    fn pack(&self) -> Pack<'_, Traced> {
        Pack { lengths: &self.packing.lengths, continued: &self.packing.continued, initial_state: &self.initial_state }
    }

    /// Expected influences on the state (d, n) of sequence s after these, the first, of its tokens.
    fn expected_state(&self, s: usize, tokens: Range<usize>, d: usize, n: usize) -> IndexSet {
        let column = d * self.states + n;
        let (continued, length) = (self.packing.continued[s], tokens.len());
        let mut expected = IndexSet::default();
        for t in tokens {
            expected.union_with(&self.u[t * self.channels + d].influences);
            expected.union_with(&self.delta[t * self.channels + d].influences);
            expected.union_with(&self.b[t * self.states + n].influences);
        }
        if continued {
            let at = s * self.channels * self.states + column;
            expected.union_with(&self.initial_state[at].influences);
        }
        // A decays what was there before: the first token of a fresh sequence finds nothing.
        if length >= 2 || continued && length >= 1 {
            expected.union_with(&self.a[column].influences);
        }
        if self.options && length >= 1 {
            expected.union_with(&self.delta_bias[d].influences);
        }
        expected
    }

    /// Expected influences on the output of token t, the last of `tokens`, in channel d.
    fn expected_out(&self, s: usize, tokens: Range<usize>, d: usize) -> IndexSet {
        let t = tokens.end - 1;
        let mut expected = IndexSet::default();
        for n in 0..self.states {
            expected.union_with(&self.expected_state(s, tokens.clone(), d, n));
            expected.union_with(&self.c[t * self.states + n].influences);
        }
        if self.options {
            expected.union_with(&self.d_skip[d].influences);
            expected.union_with(&self.z[t * self.channels + d].influences);
        }
        expected
    }

    /// Compares the influences on everything that was computed with the expected ones.
    fn check(&self, outputs: &Outputs<Traced>) -> Result<(), String> {
        let state_len = self.channels * self.states;
        let sequences = self.packing.lengths.len();
        let numbers = (outputs.out.len(), outputs.states.len(), outputs.final_state.len());
        let shapes = (self.u.len(), self.packing.tokens() * state_len, sequences * state_len);
        if numbers != shapes {
            return Err(format!("{numbers:?} numbers where the shapes ask for {shapes:?}"));
        }
        for (s, tokens) in self.pack().ranges().enumerate() {
            for d in 0..self.channels {
                for t in tokens.clone() {
                    let got = &outputs.out[t * self.channels + d];
                    self.compare("out", (s, t, d, 0), got, self.expected_out(s, tokens.start..t + 1, d))?;
                }
                for n in 0..self.states {
                    let column = d * self.states + n;
                    for t in tokens.clone() {
                        let got = &outputs.states[t * state_len + column];
                        self.compare("states", (s, t, d, n), got, self.expected_state(s, tokens.start..t, d, n))?;
                    }
                    let got = &outputs.final_state[s * state_len + column];
                    let expected = self.expected_state(s, tokens.clone(), d, n);
                    self.compare("final_state", (s, tokens.end, d, n), got, expected)?;
                }
            }
        }
        Ok(())
    }

    fn compare(
        &self,
        what: &str,
        place: (usize, usize, usize, usize),
        got: &Traced,
        expected: IndexSet,
    ) -> Result<(), String> {
        if got.influences == expected {
            return Ok(());
        }
        let leaked: Vec<_> = got.influences.iter().filter(|&index| !expected.contains(index)).collect();
        let lost: Vec<_> = expected.iter().filter(|&index| !got.influences.contains(index)).collect();
        Err(format!("{what} at (s, t, d, n) = {place:?} of {:?}: leaked {leaked:?}, lost {lost:?}", self.packing))
    }
}

fn prove(packing: Packing, channels: usize, states: usize, options: bool) {
    let case = Case::new(packing, channels, states, options);
    case.check(&selective_scan::segmented(&case.pack(), &case.inputs())).expect("segmented");
    case.check(&selective_scan::forward(&case.pack(), &case.inputs())).expect("forward");
    for segment in [1, 2, 3] {
        case.check(&selective_scan::forward_in_segments(&case.pack(), &case.inputs(), segment)).expect("in segments");
    }
}

#[test]
fn every_packing_of_up_to_eight_tokens_leaks_nothing_and_loses_nothing() {
    let mut packings = 0;
    for packing in (0..=8).flat_map(every_packing) {
        prove(packing.clone(), 2, 2, true);
        prove(packing, 2, 2, false);
        packings += 1;
    }
    // One of no tokens; of T tokens 2 * 3^(T-1): each gap is none, or a boundary before a fresh or a continued sequence.
    assert_eq!(packings, 1 + (0..8).map(|gaps| 2 * 3usize.pow(gaps)).sum::<usize>());
}

#[test]
fn every_packing_with_empty_sequences_leaks_nothing_and_loses_nothing() {
    for sequences in 1..=5 {
        for packing in (0..=4).flat_map(|tokens| every_packing_with_empty(tokens, sequences)) {
            prove(packing, 2, 2, true);
        }
    }
}

#[test]
fn random_packs_of_hundreds_of_tokens_leak_nothing_and_lose_nothing() {
    let mut generator = Generator(1);
    for tokens in [129, 200, 311] {
        prove(generator.packing(tokens), 2, 3, true);
    }
}

/// A scan over the whole pack that resets by multiplying the decay with zero, as some kernels do. Fresh sequences, no options.
fn reset_by_zero(case: &Case) -> Outputs<Traced> {
    let (channels, states) = (case.channels, case.states);
    let starts: Vec<usize> = case.pack().ranges().map(|range| range.start).collect();
    let ends: Vec<usize> = case.pack().ranges().map(|range| range.end).collect();
    let mut h = vec![Traced::constant(0.0); channels * states];
    let mut outputs = Outputs { out: vec![], states: vec![], final_state: vec![], state_len: h.len() };
    for t in 0..case.packing.tokens() {
        let keep = Traced::constant(if starts.contains(&t) { 0.0 } else { 1.0 });
        outputs.states.extend(h.iter().map(|h| keep.mul(h)));
        for d in 0..channels {
            let delta = &case.delta[t * channels + d];
            let h = &mut h[d * states..][..states];
            for (n, h) in h.iter_mut().enumerate() {
                let decay = delta.mul(&case.a[d * states + n]).exp().mul(&keep);
                let x = delta.mul(&case.u[t * channels + d]).mul(&case.b[t * states + n]);
                *h = decay.mul(h).add(&x);
            }
            let c = &case.c[t * states..][..states];
            outputs.out.push(Traced::sum(h.iter().zip(c).map(|(h, c)| h.mul(c))));
        }
        if ends.contains(&(t + 1)) {
            outputs.final_state.extend_from_slice(&h);
        }
    }
    outputs
}

#[test]
fn a_reset_by_multiplying_with_zero_is_caught() {
    let fresh = |lengths: &[usize]| Packing { lengths: lengths.to_vec(), continued: vec![false; lengths.len()] };
    let case = Case::new(fresh(&[3, 2]), 2, 2, false);
    let sabotaged = reset_by_zero(&case);

    // Its values are the book's, which is why only the influences give it away.
    let book = selective_scan::forward(&case.pack(), &case.inputs());
    for (sabotaged, book) in sabotaged.out.iter().zip(&book.out) {
        assert!((sabotaged.value - book.value).abs() <= 1e-12 * book.value.abs());
    }
    let complaint = case.check(&sabotaged).unwrap_err();
    assert!(complaint.contains("lost []") && !complaint.contains("leaked []"), "{complaint}");
}

#[test]
fn wrong_boundaries_are_caught() {
    let case = Case::new(Packing { lengths: vec![3, 2, 4], continued: vec![false, true, false] }, 2, 2, true);
    let run = |lengths: &[usize], continued: &[bool]| {
        let pack = Pack { lengths, continued, initial_state: &case.initial_state };
        case.check(&selective_scan::segmented(&pack, &case.inputs()))
    };
    run(&[3, 2, 4], &[false, true, false]).unwrap();
    for wrong in [[4, 1, 4], [2, 3, 4], [3, 3, 3], [5, 0, 4], [9, 0, 0]] {
        run(&wrong, &[false, true, false]).unwrap_err();
    }
    run(&[3, 2, 4], &[false, false, false]).unwrap_err();
    run(&[3, 2, 4], &[true, true, false]).unwrap_err();
}
