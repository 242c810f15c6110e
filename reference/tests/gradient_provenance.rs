//! Every gradient depends on exactly the inputs that the formula names, for every packing of up to 6 tokens.
//!
//! As `provenance.rs`, for the backward pass: what `Traced` finds in the segmented formulation and in the book is compared, as sets,
//! with sets written down here from the definition.

mod common;

use common::arrays::{Arrays, Options};
use common::{Generator, Packing, every_packing, every_packing_with_empty};
use packscan_reference::selective_scan::{self, Gradients, Upstream};
use packscan_reference::{IndexSet, Number, Traced};
use std::ops::Range;

/// Traced inputs and upstream gradients; each element of each has an index of its own.
fn traced(packing: Packing, states: usize, options: Options) -> Arrays<Traced> {
    let mut next = 0;
    Arrays::new(packing, (2, states), options, |_, count| {
        let indices = next..next + count;
        next += count;
        indices.map(|index| Traced::input(0.5 + index as f64 / 64.0, index)).collect()
    })
}

fn union(sets: impl IntoIterator<Item = IndexSet>) -> IndexSet {
    sets.into_iter().fold(IndexSet::default(), |mut all, set| {
        all.union_with(&set);
        all
    })
}

fn when(condition: bool, set: impl FnOnce() -> IndexSet) -> IndexSet {
    if condition { set() } else { IndexSet::default() }
}

/// One sequence of a case, and what may influence what in it.
struct Expected<'a> {
    case: &'a Arrays<Traced>,
    s: usize,
    tokens: Range<usize>,
}

impl Expected<'_> {
    fn per_channel(&self, values: &[Traced], t: usize, d: usize) -> IndexSet {
        values[t * self.case.channels + d].influences.clone()
    }

    fn per_state(&self, values: &[Traced], t: usize, n: usize) -> IndexSet {
        values[t * self.case.states + n].influences.clone()
    }

    fn of_sequence(&self, values: &[Traced], d: usize, n: usize) -> IndexSet {
        values[(self.s * self.case.channels + d) * self.case.states + n].influences.clone()
    }

    fn over_states(&self, set: impl Fn(usize) -> IndexSet) -> IndexSet {
        union((0..self.case.states).map(set))
    }

    fn over_channels(&self, set: impl Fn(usize) -> IndexSet) -> IndexSet {
        union((0..self.case.channels).map(set))
    }

    fn has_past(&self, t: usize) -> bool {
        t > self.tokens.start || self.case.packing.continued[self.s]
    }

    fn u(&self, t: usize, d: usize) -> IndexSet {
        self.per_channel(&self.case.u, t, d)
    }

    /// The step size: delta_raw and the bias.
    fn step(&self, t: usize, d: usize) -> IndexSet {
        let bias = when(self.case.options.delta_bias, || self.case.delta_bias[d].influences.clone());
        union([self.per_channel(&self.case.delta, t, d), bias])
    }

    /// The decays of some tokens: their step sizes, and A if there are any.
    fn decays(&self, tokens: Range<usize>, d: usize, n: usize) -> IndexSet {
        let a = when(!tokens.is_empty(), || self.per_state(&self.case.a, d, n));
        union(tokens.map(|t| self.step(t, d)).chain([a]))
    }

    /// The state that token t receives: what earlier tokens put in, and the decays between, the first token's of a fresh sequence not
    /// among them except for its step size.
    fn before(&self, t: usize, d: usize, n: usize) -> IndexSet {
        let past = self.tokens.start..t;
        let put_in = past.clone().map(|j| union([self.u(j, d), self.step(j, d), self.per_state(&self.case.b, j, n)]));
        let decaying = past.clone().filter(|&j| self.has_past(j)).map(|j| self.decays(j..j + 1, d, n));
        let initial = when(self.case.packing.continued[self.s], || self.of_sequence(&self.case.initial_state, d, n));
        union(put_in.chain(decaying).chain([initial]))
    }

    /// h[t], which is what the next token receives.
    fn after(&self, t: usize, d: usize, n: usize) -> IndexSet {
        self.before(t + 1, d, n)
    }

    fn dy(&self, t: usize, d: usize) -> IndexSet {
        let gate = when(self.case.options.gate, || self.per_channel(&self.case.z, t, d));
        union([self.per_channel(&self.case.g, t, d), gate])
    }

    /// dh[t]: the outputs from token t to the last, their C, and the decays on the way back.
    fn dh(&self, t: usize, d: usize, n: usize) -> IndexSet {
        let outputs = (t..self.tokens.end).map(|j| union([self.dy(j, d), self.per_state(&self.case.c, j, n)]));
        let of_final = when(self.case.options.final_gradient, || self.of_sequence(&self.case.final_gradient, d, n));
        union(outputs.chain([self.decays(t + 1..self.tokens.end, d, n), of_final]))
    }

    /// The gradient of delta*A: nothing where nothing decays.
    fn by_exponent(&self, t: usize, d: usize, n: usize) -> IndexSet {
        when(self.has_past(t), || union([self.dh(t, d, n), self.decays(t..t + 1, d, n), self.before(t, d, n)]))
    }

    fn du(&self, t: usize, d: usize) -> IndexSet {
        let by_state = self.over_states(|n| union([self.dh(t, d, n), self.per_state(&self.case.b, t, n)]));
        let skip = when(self.case.options.d_skip, || union([self.dy(t, d), self.case.d_skip[d].influences.clone()]));
        union([self.step(t, d), by_state, skip])
    }

    fn ddelta(&self, t: usize, d: usize) -> IndexSet {
        let by_input = self.over_states(|n| union([self.dh(t, d, n), self.per_state(&self.case.b, t, n)]));
        let by_decay = self.over_states(|n| self.by_exponent(t, d, n));
        let by_softplus = when(self.case.options.softplus, || self.step(t, d));
        union([self.u(t, d), by_input, by_decay, by_softplus])
    }

    fn dz(&self, t: usize, d: usize) -> IndexSet {
        let y = self.over_states(|n| union([self.after(t, d, n), self.per_state(&self.case.c, t, n)]));
        let skip = when(self.case.options.d_skip, || union([self.u(t, d), self.case.d_skip[d].influences.clone()]));
        union([self.dy(t, d), y, skip])
    }

    fn db(&self, t: usize, n: usize) -> IndexSet {
        self.over_channels(|d| union([self.dh(t, d, n), self.step(t, d), self.u(t, d)]))
    }

    fn dc(&self, t: usize, n: usize) -> IndexSet {
        self.over_channels(|d| union([self.dy(t, d), self.after(t, d, n)]))
    }

    /// Of this sequence's part of the gradient of A.
    fn da(&self, d: usize, n: usize) -> IndexSet {
        let terms = self.tokens.clone().filter(|&t| self.has_past(t));
        union(terms.map(|t| union([self.by_exponent(t, d, n), self.step(t, d)])))
    }

    fn dinitial(&self, d: usize, n: usize) -> IndexSet {
        let Range { start, end } = self.tokens;
        when(self.case.packing.continued[self.s], || {
            if start < end {
                union([self.decays(start..start + 1, d, n), self.dh(start, d, n)])
            } else {
                when(self.case.options.final_gradient, || self.of_sequence(&self.case.final_gradient, d, n))
            }
        })
    }
}

/// Compares the influences on `got: (_, width)`, from row `first` on, with the expected ones.
fn compare(
    what: &str,
    got: &[Traced],
    first: usize,
    (rows, width): (usize, usize),
    expected: impl Fn(usize, usize) -> IndexSet,
) -> Result<(), String> {
    for row in first..first + rows {
        for column in 0..width {
            let (got, expected) = (&got[row * width + column].influences, expected(row, column));
            if *got != expected {
                let leaked: Vec<_> = got.iter().filter(|&index| !expected.contains(index)).collect();
                let lost: Vec<_> = expected.iter().filter(|&index| !got.contains(index)).collect();
                return Err(format!("{what}[{row}, {column}]: leaked {leaked:?}, lost {lost:?}"));
            }
        }
    }
    Ok(())
}

fn check(case: &Arrays<Traced>, got: &Gradients<Traced>) -> Result<(), String> {
    let (channels, states) = (case.channels, case.states);
    let sequences: Vec<_> = case.pack().ranges().enumerate().map(|(s, tokens)| Expected { case, s, tokens }).collect();
    for sequence in &sequences {
        let (first, length) = (sequence.tokens.start, sequence.tokens.len());
        let (by_channel, by_state) = ((length, channels), (length, states));
        compare("du", &got.u, first, by_channel, |t, d| sequence.du(t, d))?;
        compare("ddelta", &got.delta, first, by_channel, |t, d| sequence.ddelta(t, d))?;
        compare("db", &got.b, first, by_state, |t, n| sequence.db(t, n))?;
        compare("dc", &got.c, first, by_state, |t, n| sequence.dc(t, n))?;
        if let Some(dz) = &got.z {
            compare("dz", dz, first, by_channel, |t, d| sequence.dz(t, d))?;
        }
        compare("dinitial_state", &got.initial_state, sequence.s, (1, channels * states), |_, column| {
            sequence.dinitial(column / states, column % states)
        })?;
    }
    // Parameters: of all sequences together.
    let over_tokens = |set: &dyn Fn(&Expected<'_>, usize) -> IndexSet| {
        union(sequences.iter().flat_map(|sequence| sequence.tokens.clone().map(move |t| set(sequence, t))))
    };
    compare("da", &got.a, 0, (channels, states), |d, n| union(sequences.iter().map(|sequence| sequence.da(d, n))))?;
    if let Some(dd_skip) = &got.d_skip {
        compare("dd_skip", dd_skip, 0, (1, channels), |_, d| {
            over_tokens(&|sequence, t| union([sequence.dy(t, d), sequence.u(t, d)]))
        })?;
    }
    if let Some(ddelta_bias) = &got.delta_bias {
        compare("ddelta_bias", ddelta_bias, 0, (1, channels), |_, d| {
            over_tokens(&|sequence, t| sequence.ddelta(t, d))
        })?;
    }
    Ok(())
}

fn prove(packing: Packing, states: usize, options: Options) {
    let case = traced(packing, states, options);
    for (name, backward) in
        [("segmented", selective_scan::segmented_backward as fn(&_, &_, &_) -> _), ("book", selective_scan::backward)]
    {
        let complaint = check(&case, &backward(&case.pack(), &case.inputs(), &case.upstream()));
        assert_eq!(complaint, Ok(()), "{name}, {:?}, {options:?}", case.packing);
    }
    for segment in [1, 2, 3] {
        let (pack, inputs, upstream) = (case.pack(), case.inputs(), case.upstream());
        let complaint = check(&case, &selective_scan::backward_in_segments(&pack, &inputs, &upstream, segment));
        assert_eq!(complaint, Ok(()), "in segments of {segment}, {:?}, {options:?}", case.packing);
    }
}

#[test]
fn every_packing_of_up_to_six_tokens_leaks_nothing_and_loses_nothing() {
    for packing in (0..=6).flat_map(every_packing) {
        prove(packing.clone(), 2, Options::ALL);
        prove(packing, 2, Options::NONE);
    }
}

#[test]
fn every_option_leaks_nothing_and_loses_nothing() {
    for options in Options::every() {
        for packing in every_packing(3) {
            prove(packing, 2, options);
        }
    }
}

#[test]
fn every_packing_with_empty_sequences_leaks_nothing_and_loses_nothing() {
    for sequences in 1..=4 {
        for packing in (0..=3).flat_map(|tokens| every_packing_with_empty(tokens, sequences)) {
            prove(packing, 2, Options::ALL);
        }
    }
}

#[test]
fn random_packs_of_many_tokens_leak_nothing_and_lose_nothing() {
    let mut generator = Generator(21);
    for tokens in [40, 70] {
        prove(generator.packing(tokens), 3, Options::ALL);
    }
}

/// The gradient of a pack whose boundaries are cut by a product with zero: those of one long sequence, where a carry that should
/// not pass is multiplied by 0. `h` is cut as it should be.
fn cut_by_zero(case: &Arrays<Traced>) -> Vec<Traced> {
    let starts: Vec<usize> = case.pack().ranges().map(|range| range.start).collect();
    let mut carry = Traced::constant(0.0);
    let mut du = vec![];
    for t in (0..case.packing.tokens()).rev() {
        let keep = Traced::constant(if starts.contains(&(t + 1)) { 0.0 } else { 1.0 });
        let dh = case.c[t].mul(&case.g[t]).add(&carry.mul(&keep));
        du.push(case.delta[t].mul(&dh.mul(&case.b[t])));
        carry = case.delta[t].mul(&case.a[0]).exp().mul(&dh);
    }
    du.reverse();
    du
}

#[test]
fn a_carry_multiplied_by_zero_is_caught() {
    let packing = Packing { lengths: vec![3, 2], continued: vec![false; 2] };
    let mut next = 0;
    let case = Arrays::new(packing, (1, 1), Options::NONE, |_, count| {
        next += count;
        (next - count..next).map(|index| Traced::input(0.5 + index as f64 / 64.0, index)).collect()
    });
    let mut gradients = selective_scan::backward(&case.pack(), &case.inputs(), &case.upstream());
    check(&case, &gradients).expect("the book");
    let sabotaged = cut_by_zero(&case);
    for (sabotaged, book) in sabotaged.iter().zip(&gradients.u) {
        assert!((sabotaged.value - book.value).abs() <= 1e-12 * book.value.abs());
    }
    gradients.u = sabotaged;
    let complaint = check(&case, &gradients).unwrap_err();
    assert!(complaint.contains("lost []") && !complaint.contains("leaked []"), "{complaint}");
}

#[test]
fn wrong_boundaries_are_caught() {
    let packing = Packing { lengths: vec![3, 2, 4], continued: vec![false, true, false] };
    let case = traced(packing, 2, Options::ALL);
    let run = |lengths: &[usize], continued: &[bool], final_gradient: bool| {
        let pack = selective_scan::Pack { lengths, continued, initial_state: &case.initial_state };
        let upstream = Upstream { out: &case.g, final_state: final_gradient.then_some(&case.final_gradient) };
        check(&case, &selective_scan::segmented_backward(&pack, &case.inputs(), &upstream))
    };
    run(&[3, 2, 4], &[false, true, false], true).unwrap();
    for wrong in [[4, 1, 4], [2, 3, 4], [3, 3, 3], [5, 0, 4], [9, 0, 0]] {
        run(&wrong, &[false, true, false], true).unwrap_err();
    }
    run(&[3, 2, 4], &[false, false, false], true).unwrap_err();
    run(&[3, 2, 4], &[true, true, false], true).unwrap_err();
    run(&[3, 2, 4], &[false, true, false], false).unwrap_err();
}
