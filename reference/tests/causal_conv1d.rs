//! The convolution of the book: its two formulations agree, its gradients are the derivatives, and every result depends on exactly the
//! inputs that the formula names, for every packing of up to 8 tokens.

mod common;

use common::{Generator, Packing, every_packing, every_packing_with_empty};
use packscan_reference::causal_conv1d::{Gradients, Inputs, Outputs, Pack, Upstream, backward, forward, segmented};
use packscan_reference::{IndexSet, Number, Traced};
use std::ops::Range;

/// The inputs of a pack, as numbers of any kind.
#[derive(Clone)]
struct Case<X> {
    packing: Packing,
    channels: usize,
    width: usize,
    /// Whether bias and silu are in use.
    options: bool,
    x: Vec<X>,
    w: Vec<X>,
    b: Vec<X>,
    history: Vec<X>,
    /// Gradients of the output and of the histories left behind.
    g: Vec<X>,
    kept: Vec<X>,
}

impl<X: Number> Case<X> {
    fn new(packing: Packing, width: usize, options: bool, mut number: impl FnMut() -> X) -> Self {
        let (t, s, channels) = (packing.tokens(), packing.lengths.len(), 2);
        let mut numbers = |count: usize| -> Vec<X> { (0..count).map(|_| number()).collect() };
        Case {
            x: numbers(t * channels),
            w: numbers(channels * width),
            b: numbers(channels),
            history: numbers(s * (width - 1) * channels),
            g: numbers(t * channels),
            kept: numbers(s * (width - 1) * channels),
            packing,
            channels,
            width,
            options,
        }
    }

    fn inputs(&self) -> Inputs<'_, X> {
        let Case { channels, width, options, .. } = *self;
        Inputs { channels, width, x: &self.x, w: &self.w, b: options.then_some(&self.b), silu: options }
    }

    fn pack(&self) -> Pack<'_, X> {
        Pack { lengths: &self.packing.lengths, continued: &self.packing.continued, history: &self.history }
    }

    fn forward(&self) -> Outputs<X> {
        forward(&self.pack(), &self.inputs())
    }

    fn backward(&self) -> Gradients<X> {
        let upstream = Upstream { out: &self.g, history: self.options.then_some(&self.kept) };
        backward(&self.pack(), &self.inputs(), &upstream)
    }

    /// Place in `x` or in `history` of what lies `back` tokens before place `place` of sequence s, if anything.
    fn earlier(&self, s: usize, tokens: &Range<usize>, place: usize, back: usize) -> Option<Source> {
        let past = self.width - 1;
        if place >= back {
            return Some(Source::Token(tokens.start + place - back));
        }
        (self.packing.continued[s] && back <= past + place).then(|| Source::History(s * past + past + place - back))
    }

    fn of_source<'a>(&self, source: Source, d: usize, x: &'a [X], history: &'a [X]) -> &'a X {
        match source {
            Source::Token(row) => &x[row * self.channels + d],
            Source::History(row) => &history[row * self.channels + d],
        }
    }
}

/// A row of `x` or of `history`.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Token(usize),
    History(usize),
}

fn random(generator: &mut Generator, packing: Packing, width: usize, options: bool) -> Case<f64> {
    Case::new(packing, width, options, || generator.uniform(-1.5, 1.5))
}

fn traced(packing: Packing, width: usize, options: bool) -> Case<Traced> {
    let mut next = 0;
    Case::new(packing, width, options, || {
        next += 1;
        Traced::input(0.5 + next as f64 / 64.0, next)
    })
}

#[test]
fn forward_and_segmented_agree_to_the_bit() {
    let mut generator = Generator(2);
    let mut packings: Vec<_> = (0..=4).flat_map(|tokens| every_packing_with_empty(tokens, 3)).collect();
    packings.extend([100, 513].map(|tokens| generator.packing(tokens)));
    for packing in packings {
        for width in [2, 4, 8] {
            let case = random(&mut generator, packing.clone(), width, true);
            assert_eq!(case.forward(), segmented(&case.pack(), &case.inputs()));
        }
    }
}

#[test]
fn a_long_sequence_continued_piecewise_is_the_same_bit_for_bit() {
    let mut generator = Generator(3);
    let whole = random(&mut generator, Packing { lengths: vec![40], continued: vec![true] }, 5, true);
    let expected = whole.forward();
    let (mut history, mut out) = (whole.history.clone(), vec![]);
    // Some of the pieces are shorter than the taps reach.
    for piece in [0..1, 1..3, 3..3, 3..20, 20..40] {
        let pack = Pack { lengths: &[piece.len()], continued: &[true], history: &history };
        let x = &whole.x[piece.start * whole.channels..piece.end * whole.channels];
        let outputs = forward(&pack, &Inputs { x, ..whole.inputs() });
        out.extend(outputs.out);
        history = outputs.history;
    }
    assert_eq!(out, expected.out);
    assert_eq!(history, expected.history);
}

/// The loss whose gradients `Upstream` gives.
fn loss(case: &Case<f64>) -> f64 {
    let outputs = case.forward();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&outputs.out, &case.g) + if case.options { dot(&outputs.history, &case.kept) } else { 0.0 }
}

#[test]
fn gradients_are_the_central_differences() {
    const STEP: f64 = 1e-5;
    let mut generator = Generator(4);
    let packing = Packing { lengths: vec![3, 0, 1, 2, 0, 9], continued: vec![false, true, true, true, false, true] };
    for (width, options) in [(2, true), (4, true), (4, false), (8, true)] {
        let case = random(&mut generator, packing.clone(), width, options);
        let gradients = case.backward();
        type Field = fn(&mut Case<f64>) -> &mut Vec<f64>;
        let fields: [(&str, &[f64], Field); 4] = [
            ("x", &gradients.x, |case| &mut case.x),
            ("w", &gradients.w, |case| &mut case.w),
            ("b", gradients.b.as_deref().unwrap_or(&[]), |case| &mut case.b),
            ("history", &gradients.history, |case| &mut case.history),
        ];
        for (name, gradient, field) in fields {
            assert!(gradient.len() == field(&mut case.clone()).len() || name == "b" && !options);
            for (i, gradient) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = case.clone();
                    field(&mut moved)[i] += by;
                    loss(&moved)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                assert!((slope - gradient).abs() <= 1e-8, "{name}[{i}], K = {width}: {gradient} is not {slope}");
            }
        }
    }
}

/// Compares the influences on a number with those of the inputs that it should depend on.
fn compare(what: &str, packing: &Packing, got: &Traced, inputs: &[&Traced]) -> Result<(), String> {
    let mut expected = IndexSet::default();
    inputs.iter().for_each(|input| expected.union_with(&input.influences));
    if got.influences == expected {
        return Ok(());
    }
    let leaked: Vec<_> = got.influences.iter().filter(|&index| !expected.contains(index)).collect();
    let lost: Vec<_> = expected.iter().filter(|&index| !got.influences.contains(index)).collect();
    Err(format!("{what} of {packing:?}: leaked {leaked:?}, lost {lost:?}"))
}

impl Case<Traced> {
    /// What the sum before silu depends on, of the token at `place` of sequence s, with what each tap sees.
    fn of_sum(&self, s: usize, tokens: &Range<usize>, place: usize, d: usize) -> Vec<&Traced> {
        let mut inputs = if self.options { vec![&self.b[d]] } else { vec![] };
        for k in 0..self.width {
            if let Some(source) = self.earlier(s, tokens, place, self.width - 1 - k) {
                inputs.push(&self.w[d * self.width + k]);
                inputs.push(self.of_source(source, d, &self.x, &self.history));
            }
        }
        inputs
    }

    /// What the slope of that sum depends on.
    fn of_slope(&self, s: usize, tokens: &Range<usize>, place: usize, d: usize) -> Vec<&Traced> {
        let mut inputs = if self.options { self.of_sum(s, tokens, place, d) } else { vec![] };
        inputs.push(&self.g[(tokens.start + place) * self.channels + d]);
        inputs
    }

    fn check_forward(&self, outputs: &Outputs<Traced>) -> Result<(), String> {
        for (s, tokens) in self.pack().ranges().enumerate() {
            for d in 0..self.channels {
                for place in 0..tokens.len() {
                    let got = &outputs.out[(tokens.start + place) * self.channels + d];
                    compare("out", &self.packing, got, &self.of_sum(s, &tokens, place, d))?;
                }
                for row in 0..self.width - 1 {
                    let got = &outputs.history[(s * (self.width - 1) + row) * self.channels + d];
                    let source = self.earlier(s, &tokens, tokens.len(), self.width - 1 - row);
                    let kept = source.map(|source| self.of_source(source, d, &self.x, &self.history));
                    compare("history", &self.packing, got, kept.as_slice())?;
                }
            }
        }
        Ok(())
    }

    fn check_backward(&self, gradients: &Gradients<Traced>) -> Result<(), String> {
        for (s, tokens) in self.pack().ranges().enumerate() {
            let past = self.width - 1;
            let history = (0..past).map(|row| Source::History(s * past + row));
            for source in tokens.clone().map(Source::Token).chain(history) {
                for d in 0..self.channels {
                    let got = self.of_source(source, d, &gradients.x, &gradients.history);
                    compare("gradient", &self.packing, got, &self.of_gradient(s, &tokens, source, d))?;
                }
            }
        }
        Ok(())
    }

    /// What the gradient of a row depends on: the slopes of the tokens that see it, their weights, and what it left behind.
    fn of_gradient(&self, s: usize, tokens: &Range<usize>, source: Source, d: usize) -> Vec<&Traced> {
        let mut inputs = vec![];
        for place in 0..tokens.len() {
            for k in 0..self.width {
                if self.earlier(s, tokens, place, self.width - 1 - k) == Some(source) {
                    inputs.push(&self.w[d * self.width + k]);
                    inputs.extend(self.of_slope(s, tokens, place, d));
                }
            }
        }
        for row in 0..self.width - 1 {
            if self.options && self.earlier(s, tokens, tokens.len(), self.width - 1 - row) == Some(source) {
                inputs.push(&self.kept[(s * (self.width - 1) + row) * self.channels + d]);
            }
        }
        inputs
    }
}

fn prove(packing: &Packing, width: usize, options: bool) {
    let case = traced(packing.clone(), width, options);
    case.check_forward(&case.forward()).expect("forward");
    case.check_forward(&segmented(&case.pack(), &case.inputs())).expect("segmented");
    case.check_backward(&case.backward()).expect("backward");
}

#[test]
fn every_packing_of_up_to_eight_tokens_leaks_nothing_and_loses_nothing() {
    let mut packings = 0;
    for packing in (0..=8).flat_map(every_packing) {
        prove(&packing, 4, true);
        prove(&packing, 3, false);
        packings += 1;
    }
    assert_eq!(packings, 1 + (0..8).map(|gaps| 2 * 3usize.pow(gaps)).sum::<usize>());
}

#[test]
fn every_packing_with_empty_sequences_leaks_nothing_and_loses_nothing() {
    for sequences in 1..=4 {
        for packing in (0..=4).flat_map(|tokens| every_packing_with_empty(tokens, sequences)) {
            prove(&packing, 4, true);
        }
    }
}

#[test]
fn random_packs_of_hundreds_of_tokens_leak_nothing_and_lose_nothing() {
    let mut generator = Generator(1);
    for (tokens, width) in [(129, 2), (200, 4), (311, 8)] {
        prove(&generator.packing(tokens), width, true);
    }
}

#[test]
fn taps_multiplied_by_zero_are_caught() {
    let case = traced(Packing { lengths: vec![3, 2], continued: vec![false; 2] }, 4, false);
    // A convolution over the whole pack whose weights are zero where a tap is before its sequence.
    let mut sabotaged = case.forward();
    let first = 3;
    for t in first..5 {
        for d in 0..case.channels {
            let terms = (0..4usize).filter(|k| t + k >= 3).map(|k| {
                let inside = Traced::constant(if t + k >= 3 + first { 1.0 } else { 0.0 });
                inside.mul(&case.w[d * 4 + k]).mul(&case.x[(t + k - 3) * case.channels + d])
            });
            sabotaged.out[t * case.channels + d] = Traced::sum(terms);
        }
    }
    for (sabotaged, book) in sabotaged.out.iter().zip(&case.forward().out) {
        assert!((sabotaged.value - book.value).abs() <= 1e-12 * book.value.abs(), "its values are the book's");
    }
    let complaint = case.check_forward(&sabotaged).unwrap_err();
    assert!(complaint.contains("lost []") && !complaint.contains("leaked []"), "{complaint}");
}

#[test]
fn wrong_boundaries_are_caught() {
    let case = traced(Packing { lengths: vec![3, 2, 4], continued: vec![false, true, false] }, 4, true);
    let check = |lengths: &[usize], continued: &[bool]| {
        let pack = Pack { lengths, continued, history: &case.history };
        case.check_forward(&segmented(&pack, &case.inputs()))?;
        let upstream = Upstream { out: &case.g, history: Some(&case.kept) };
        case.check_backward(&backward(&pack, &case.inputs(), &upstream))
    };
    check(&[3, 2, 4], &[false, true, false]).unwrap();
    for wrong in [[4, 1, 4], [2, 3, 4], [3, 3, 3], [5, 0, 4], [9, 0, 0]] {
        check(&wrong, &[false, true, false]).unwrap_err();
    }
    check(&[3, 2, 4], &[false, false, false]).unwrap_err();
    check(&[3, 2, 4], &[true, true, false]).unwrap_err();
}

#[test]
#[should_panic(expected = "w has the wrong length for the shape (D, K)")]
fn a_wrong_shape_is_named() {
    let mut case = random(&mut Generator(6), Packing { lengths: vec![4], continued: vec![false] }, 4, true);
    case.w.pop();
    case.forward();
}
