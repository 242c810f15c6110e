//! What the tests of whole models share: small models, the book's view of them, comparisons.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use packscan_data::Tokenizer;
use packscan_reference::{Number, Perturbed, model as book, perturbed};
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::checkpoint::{self, Beside};
use packscan_train::parameters::{Layout, Parameter};
use packscan_train::{DevicePack, Learner, Model, ModelConfig, Result};
use serde_json::Value;

/// A model with sizes that are neither equal nor powers of two where that is possible.
pub fn config(tied: bool) -> ModelConfig {
    let open = ModelConfig { state: 5, taps: 3, rank: 3, tied, ..ModelConfig::of(12, 3) };
    open.for_vocabulary(24).expect("the sizes are legal")
}

/// Parameters none of which is where it starts: a norm's weight that is 1 would hide a factor that is left out.
pub fn values(layout: &Layout) -> Vec<f32> {
    let mut values = layout.fresh(7);
    for (i, value) in values.iter_mut().enumerate() {
        *value += 0.1 * ((i as f32 * 0.7).sin() + 0.3);
    }
    values
}

/// A checkpoint of a run that trains on bytes.
pub fn save(run: &Path, step: u32, learner: &mut Learner, trainer: &Value, keep: usize) -> Result<PathBuf> {
    checkpoint::save(run, step, learner, &Beside { tokenizer: &Tokenizer::Bytes, trainer }, keep)
}

/// Sequences of these lengths with tokens below `vocabulary`.
pub fn texts(lengths: &[usize], vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |s: usize, t: usize| ((s * 31 + t * t * 7 + t * 3 + 5) % vocabulary) as u32;
    lengths.iter().enumerate().map(|(s, &length)| (0..length).map(|t| token(s, t)).collect()).collect()
}

/// A pack of texts that predict each its own next token.
pub fn pack(device: &Device, texts: &[Vec<u32>], vocabulary: usize) -> DevicePack {
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    DevicePack::next_token(device, &texts, vocabulary).expect("the tokens are below the vocabulary")
}

/// A learner for packs of up to `tokens`, two a step.
pub fn learner(
    device: &Device,
    io: Dtype,
    config: &ModelConfig,
    values: &[f32],
    tokens: usize,
    how: Recompute,
) -> Learner {
    let model = Model::new(device, io, config, values).expect("a small model fits");
    Learner::new(model, tokens, 2, &vec![how; config.layers]).expect("its activations fit")
}

/// A model's parameters, where a flat buffer has them.
pub fn weights(model: &Model) -> Vec<f32> {
    let mut flat = vec![0.0; model.layout.elements];
    for p in &model.layout.table {
        flat[p.slot.range()].copy_from_slice(&model.values_of(p).expect("they can be read"));
    }
    flat
}

/// The book's model of the same sizes.
pub fn book_config(config: &ModelConfig) -> book::Config {
    book::Config {
        width: config.width,
        layers: config.layers,
        channels: config.channels(),
        state: config.state,
        taps: config.taps,
        rank: config.rank,
        vocabulary: config.vocabulary,
        tied: config.tied,
        epsilon: f64::from(config.epsilon),
    }
}

/// The same parameters, by name.
pub fn book_parameters<X: Number>(layout: &Layout, values: &[f32]) -> book::Parameters<X> {
    let wide = |p: &Parameter| values[p.slot.range()].iter().map(|&x| X::constant(x.into())).collect();
    book::Parameters { values: layout.table.iter().map(|p| (p.name.clone(), wide(p))).collect() }
}

/// Mean loss and its gradients of texts, by the book.
pub fn book_run<X: Number>(
    config: &ModelConfig,
    parameters: &book::Parameters<X>,
    texts: &[Vec<u32>],
) -> (X, book::Run<X>) {
    let targets: Vec<Vec<Option<u32>>> =
        texts.iter().map(|t| (0..t.len()).map(|i| t.get(i + 1).copied()).collect()).collect();
    let predicted = targets.iter().flatten().flatten().count() as f64;
    let sequences: Vec<book::Sequence<'_, X>> =
        texts.iter().zip(&targets).map(|(tokens, targets)| book::Sequence::fresh(tokens, targets)).collect();
    let run = book::run(&book_config(config), parameters, &sequences, 1.0 / predicted);
    (X::sum(run.losses.iter().flatten().cloned()).div(&X::constant(predicted)), run)
}

/// What the book says of gradients, and how far from that f32 may be.
pub struct Gradients {
    want: book::Parameters,
    off: BTreeMap<String, Vec<f64>>,
}

/// No gradient may be off by more than this share of the largest of its parameter, whatever is expected.
const MOST_SHARE: f64 = 1e-5;

impl Gradients {
    /// `exactly` is a computation of gradients by the book, and `perturbed` the same computation.
    pub fn of(exactly: book::Parameters, perturbed: impl Fn() -> book::Parameters<Perturbed>) -> Gradients {
        let sample = |by| {
            perturbed::seed(by);
            perturbed()
        };
        let samples: Vec<_> = (0..perturbed::SAMPLES as u64).map(sample).collect();
        let off = |(name, exact): (&String, &Vec<f64>)| {
            let values = |sample: &book::Parameters<Perturbed>| sample[name.as_str()].iter().map(|x| x.0).collect();
            let expected = perturbed::expected_error(exact, &samples.iter().map(values).collect::<Vec<_>>());
            let most = MOST_SHARE * exact.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            (name.clone(), expected.into_iter().map(|off| off.min(most)).collect())
        };
        Gradients { off: exactly.values.iter().map(off).collect(), want: exactly }
    }

    /// Those of the mean loss of texts.
    pub fn of_texts(config: &ModelConfig, layout: &Layout, values: &[f32], texts: &[Vec<u32>]) -> Gradients {
        let exactly = book_run(config, &book_parameters::<f64>(layout, values), texts).1.gradients;
        Gradients::of(exactly, || book_run(config, &book_parameters(layout, values), texts).1.gradients)
    }

    /// Asserts that every gradient is the book's within what f32 may be off.
    #[track_caller]
    pub fn check(&self, layout: &Layout, got: &[f32], what: &str) {
        let mut worst = 0.0f64;
        for p in &layout.table {
            let (got, want, off) = (&got[p.slot.range()], &self.want[p.name.as_str()], &self.off[&p.name]);
            assert!(want.iter().any(|x| *x != 0.0), "{} has no gradient", p.name);
            for (i, ((&got, want), off)) in got.iter().zip(want).zip(off).enumerate() {
                let distance = (f64::from(got) - want).abs();
                assert!(
                    distance <= *off,
                    "{what}: element {i} of {} is {got:e}, not {want:e} within {off:.1e}",
                    p.name
                );
                worst = worst.max(if *off > 0.0 { distance / off } else { 0.0 });
            }
        }
        println!("{what}: off by at most {worst:.2} of what may be");
    }
}

/// The largest element of the difference of a parameter's gradients as a share of the largest gradient, for the worst parameter.
pub fn worst(layout: &Layout, got: &[f32], want: &book::Parameters) -> f64 {
    let share = |p: &Parameter| {
        let (got, want) = (&got[p.slot.range()], &want[p.name.as_str()]);
        let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let off = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs());
        off.fold(0.0f64, f64::max) / largest
    };
    layout.table.iter().map(share).fold(0.0, f64::max)
}
