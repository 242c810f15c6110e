//! What the tests of whole models share: small models, the book's view of them, comparisons.
#![allow(dead_code, reason = "each test uses a part")]

use packscan_reference::model as book;
use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::parameters::Layout;
use packscan_train::{DevicePack, Learner, Model, ModelConfig};

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

/// The same parameters in f64, by name.
pub fn book_parameters(layout: &Layout, values: &[f32]) -> book::Parameters {
    let mut parameters = book::Parameters::default();
    for p in &layout.table {
        let wide = values[p.slot.range()].iter().map(|&x| f64::from(x)).collect();
        parameters.values.insert(p.name.clone(), wide);
    }
    parameters
}

/// Mean loss and its gradients of texts, by the book.
pub fn book_run(config: &ModelConfig, parameters: &book::Parameters, texts: &[Vec<u32>]) -> (f64, book::Run) {
    let targets: Vec<Vec<Option<u32>>> =
        texts.iter().map(|t| (0..t.len()).map(|i| t.get(i + 1).copied()).collect()).collect();
    let predicted = targets.iter().flatten().flatten().count() as f64;
    let sequences: Vec<book::Sequence<'_>> =
        texts.iter().zip(&targets).map(|(tokens, targets)| book::Sequence::fresh(tokens, targets)).collect();
    let run = book::run(&book_config(config), parameters, &sequences, 1.0 / predicted);
    (run.losses.iter().flatten().sum::<f64>() / predicted, run)
}

/// The largest element of the difference of a parameter's gradients as a share of the largest gradient, for the worst parameter.
///
/// # Panics
/// If a gradient is not a number, or is 0 throughout.
pub fn worst(layout: &Layout, got: &[f32], want: &book::Parameters) -> (f64, String) {
    let share = |p: &packscan_train::parameters::Parameter| {
        let (got, want) = (&got[p.slot.range()], &want[p.name.as_str()]);
        let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let off = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs());
        assert!(largest > 0.0 && got.iter().all(|g| g.is_finite()), "{} has gradients {got:?}", p.name);
        (off.fold(0.0f64, f64::max) / largest, p.name.clone())
    };
    layout.table.iter().map(share).max_by(|a, b| a.0.total_cmp(&b.0)).expect("a model has parameters")
}
