//! The book's model computes what `MambaForCausalLM` of Hugging Face `transformers` does, in f32.
//!
//! `train/tests/data/hf/make.py` made the fixture: random weights, three sequences, their logits, losses and gradients.

use packscan_reference::model::{self, Config, Parameters, Sequence, names_and_shapes};
use safetensors::tensor::{Dtype, SafeTensors};
use std::fs;
use std::path::PathBuf;

const SEQUENCES: usize = 3;

fn read(folder: &str, file: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../train/tests/data/hf").join(folder).join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; make it with make.py beside it", path.display()))
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes")).into();
    tensor.data().chunks_exact(4).map(number).collect()
}

fn i64s(file: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
    tensor.data().chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect()
}

/// The sizes of the model, as its weights have them. `make.py` sets epsilon.
fn config(weights: &SafeTensors<'_>) -> Config {
    let shape = |name: &str| weights.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).shape().to_vec();
    let of_block = |name: &str| shape(&format!("backbone.layers.0.mixer.{name}"));
    Config {
        width: shape("backbone.embeddings.weight")[1],
        layers: weights.names().iter().filter(|name| name.ends_with("A_log")).count(),
        channels: of_block("A_log")[0],
        state: of_block("A_log")[1],
        taps: of_block("conv1d.weight")[2],
        rank: of_block("dt_proj.weight")[1],
        vocabulary: shape("backbone.embeddings.weight")[0],
        tied: !weights.names().contains(&"lm_head.weight"),
        epsilon: 1e-5,
    }
}

/// Positively, so that NaN fails.
fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "{what}[{i}]: {got}, wanted {want} within {tolerance}");
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Each gradient as a whole, and each of its elements against the largest.
fn assert_gradient(name: &str, got: &[f64], want: &[f64]) {
    let largest = want.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    assert!(largest > 0.0, "the fixture's gradient of {name} is nothing");
    assert_near(name, got, want, 1e-3 * largest);
    let (off, whole) = (norm(got.iter().zip(want).map(|(got, want)| got - want)), norm(want.iter().copied()));
    assert!(off <= 1e-3 * whole, "{name} is off by {off} of {whole}");
}

fn assert_is_the_fixture(folder: &str, tied: bool) {
    let (weights, expected) = (read(folder, "model.safetensors"), read(folder, "expected.safetensors"));
    let weights = SafeTensors::deserialize(&weights).expect("the weights are whole");
    let expected = SafeTensors::deserialize(&expected).expect("the expectations are whole");
    let config = config(&weights);
    assert_eq!(config.tied, tied);

    let mut parameters = Parameters::default();
    for (name, shape) in names_and_shapes(&config) {
        assert_eq!(weights.tensor(&name).expect("a parameter is saved").shape(), shape, "{name}");
        parameters.values.insert(name.clone(), f32s(&weights, &name));
    }
    assert_eq!(weights.len(), parameters.values.len(), "{:?}", weights.names());

    let unsigned = |id: i64| u32::try_from(id).ok();
    let numbers = |kind: &str| (0..SEQUENCES).map(|i| i64s(&expected, &format!("{kind}.{i}"))).collect::<Vec<_>>();
    let tokens: Vec<Vec<u32>> =
        numbers("input_ids").into_iter().map(|ids| ids.into_iter().filter_map(unsigned).collect()).collect();
    let targets: Vec<Vec<Option<u32>>> =
        numbers("targets").into_iter().map(|ids| ids.into_iter().map(unsigned).collect()).collect();
    assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), [17, 1, 40]);
    let sequences: Vec<Sequence<'_>> =
        tokens.iter().zip(&targets).map(|(tokens, targets)| Sequence::fresh(tokens, targets)).collect();

    let run = model::run(&config, &parameters, &sequences, 1.0);
    for (i, tokens) in tokens.iter().enumerate() {
        let logits = format!("logits.{i}");
        assert_near(&logits, &run.logits[i], &f32s(&expected, &logits), 1e-4);
        // A sum of f32 logarithms: the tolerance of a logit for each of them.
        let loss = format!("loss_sum.{i}");
        assert_near(&loss, &[run.losses[i].iter().sum()], &f32s(&expected, &loss), 1e-4 * tokens.len() as f64);
    }
    for (name, gradient) in &run.gradients.values {
        assert_gradient(name, gradient, &f32s(&expected, &format!("grad.{name}")));
    }
    let gradients = expected.names().iter().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(gradients, run.gradients.values.len());
}

#[test]
fn a_model_with_a_tied_head() {
    assert_is_the_fixture("tied", true);
}

#[test]
fn a_model_with_its_own_head() {
    assert_is_the_fixture("untied", false);
}
