//! Models of Hugging Face: the committed ones compute what `transformers` says, any layout, type and cut into files gives them back, and
//! what packscan cannot run is refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use packscan_runtime::{Device, Dtype};
use packscan_train::activations::Recompute;
use packscan_train::hugging_face::{self, Format, Names, Pretrained};
use packscan_train::parameters::Layout;
use packscan_train::{DevicePack, Learner};
use safetensors::tensor::{Dtype as Stored, SafeTensors};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf").join(name)
}

fn numbers<const N: usize, T>(file: &SafeTensors<'_>, name: &str, stored: Stored, of: fn([u8; N]) -> T) -> Vec<T> {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(tensor.dtype(), stored, "{name}");
    tensor.data().chunks_exact(N).map(|bytes| of(bytes.try_into().expect("a whole number"))).collect()
}

/// Positively, so that NaN fails.
fn assert_near(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "{what}[{i}]: {got}, wanted {want} within {tolerance}");
    }
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// All sequences in one pack here, each alone there.
fn assert_is_the_fixture(name: &str) {
    let bytes = fs::read(fixture(name).join("expected.safetensors")).expect("the fixture is committed");
    let expected = SafeTensors::deserialize(&bytes).expect("the expectations are whole");
    let f32s = |name: &str| numbers(&expected, name, Stored::F32, f32::from_le_bytes);
    let tokens: Vec<Vec<u32>> = (0..3)
        .map(|i| numbers(&expected, &format!("input_ids.{i}"), Stored::I64, i64::from_le_bytes))
        .map(|ids| ids.into_iter().map(|id| u32::try_from(id).expect("a token")).collect())
        .collect();
    assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), [17, 1, 40]);

    let model = Pretrained::open(&fixture(name)).unwrap().model(&Device::Cpu, Dtype::F32).unwrap();
    let (vocabulary, layout) = (model.config.vocabulary, model.layout.clone());
    let sequences: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let pack = DevicePack::next_token(&Device::Cpu, &sequences, vocabulary).unwrap();
    let recompute = vec![Recompute::None; model.config.layers];
    let mut learner = Learner::new(model, pack.tokens(), 1, &recompute).unwrap();

    let (logits, losses) = (learner.logits(&pack).unwrap(), learner.losses(&pack).unwrap());
    let mut start = 0;
    for (i, tokens) in tokens.iter().enumerate() {
        let end = start + tokens.len();
        let name = format!("logits.{i}");
        assert_near(&name, &logits[start * vocabulary..end * vocabulary], &f32s(&name), 1e-4);
        // A sum of logarithms: the tolerance of a logit for each of them.
        let name = format!("loss_sum.{i}");
        assert_near(&name, &[losses[start..end].iter().sum()], &f32s(&name), 1e-4 * tokens.len() as f32);
        start = end;
    }

    let (_, gradients) = learner.gradients_of(std::slice::from_ref(&pack)).unwrap();
    for p in &layout.table {
        // Here of the mean loss, there of the sum.
        let got: Vec<f32> = gradients[p.slot.range()].iter().map(|g| g * pack.predicted as f32).collect();
        let want = f32s(&format!("grad.{}", p.name));
        let largest = want.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0, "the fixture's gradient of {} is nothing", p.name);
        assert_near(&p.name, &got, &want, 1e-3 * largest);
        let off = norm(got.iter().zip(&want).map(|(got, want)| got - want));
        let whole = norm(want.iter().copied());
        assert!(off <= 1e-3 * whole, "{} is off by {off} of {whole}", p.name);
    }
    let named = expected.names().iter().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(named, layout.table.len());
}

#[test]
fn a_model_with_a_tied_head_computes_what_transformers_does() {
    assert_is_the_fixture("tied");
}

#[test]
fn a_model_with_its_own_head_computes_what_transformers_does() {
    assert_is_the_fixture("untied");
}

#[test]
fn every_layout_type_and_cut_gives_the_model_back() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["tied", "untied"] {
        let from = Pretrained::open(&fixture(name)).unwrap();
        let (config, values) = hugging_face::load(&fixture(name)).unwrap();
        assert_eq!(values.iter().filter(|value| **value != 0.0).count(), Layout::of(&config).parameters());
        for names in [Names::HuggingFace, Names::Original] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                for max_shard_bytes in [usize::MAX, 10_000] {
                    let folder = scratch.path().join(format!("{name}-{names}-{dtype}-{max_shard_bytes}"));
                    hugging_face::convert(&from, &folder, &Format { names, dtype, max_shard_bytes }).unwrap();
                    let one = folder.join("model.safetensors").is_file();
                    assert_eq!(one, max_shard_bytes == usize::MAX);
                    let opened = Pretrained::open(&folder).unwrap();
                    assert_eq!((opened.names, opened.dtype()), (names, dtype));
                    let (again, got) = hugging_face::load(&folder).unwrap();
                    assert_eq!(again, config);
                    let want: Vec<f32> = values.iter().map(|&value| rounded(value, dtype)).collect();
                    assert!(got == want, "{folder:?}: other values");
                    // What has been rounded once stays as it is, back in the first layout too.
                    let back = folder.with_extension("back");
                    hugging_face::convert(&opened, &back, &Format::default()).unwrap();
                    assert!(hugging_face::load(&back).unwrap() == (config.clone(), want), "{back:?}: other values");
                }
            }
        }
    }
}

fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => half::f16::from_f32(value).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

#[test]
fn the_original_names_are_those_of_mamba_ssm() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("original");
    let format = Format { names: Names::Original, ..Format::default() };
    hugging_face::convert(&Pretrained::open(&fixture("tied")).unwrap(), &folder, &format).unwrap();
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("backbone.embedding.weight").unwrap().shape(), [64, 32]);
    // A tied head is stored all the same.
    assert_eq!(file.tensor("lm_head.weight").unwrap().data(), file.tensor("backbone.embedding.weight").unwrap().data());
    assert_eq!(file.tensor("backbone.layers.1.mixer.conv1d.weight").unwrap().shape(), [64, 1, 4]);
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["d_model"], &config["n_layer"], &config["ssm_cfg"]["d_state"]),
        (&json!(32), &json!(2), &json!(8))
    );
}

#[test]
fn an_index_names_files_of_its_own_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    fs::create_dir(&folder).unwrap();
    fs::copy(fixture("tied").join("config.json"), folder.join("config.json")).unwrap();
    fs::copy(fixture("tied").join("model.safetensors"), scratch.path().join("outside.safetensors")).unwrap();
    let index = json!({ "weight_map": { "backbone.embeddings.weight": "../outside.safetensors" } });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let error = hugging_face::load(&folder).unwrap_err().to_string();
    assert!(error.contains("it names ../outside.safetensors, which is no file of this folder"), "{error}");
}

#[test]
fn a_pickle_is_refused_with_the_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    fs::copy(fixture("tied").join("config.json"), scratch.path().join("config.json")).unwrap();
    let error = hugging_face::load(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("neither model.safetensors nor"), "{error}");
    fs::write(scratch.path().join("pytorch_model.bin"), "PK").unwrap();
    let error = hugging_face::load(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin") && error.contains("save_file"), "{error}");
    let error = hugging_face::load(&scratch.path().join("nowhere")).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("not there"), "{error}");
}

#[test]
fn a_file_that_is_missing_among_several_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    let format = Format { max_shard_bytes: 10_000, ..Format::default() };
    hugging_face::convert(&Pretrained::open(&fixture("tied")).unwrap(), &folder, &format).unwrap();
    let shards = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
    let shard = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).find(shards).unwrap();
    fs::remove_file(&shard).unwrap();
    let error = Pretrained::open(&folder).unwrap_err().to_string();
    let name = shard.file_name().unwrap().to_str().unwrap();
    let told =
        format!("model.safetensors.index.json cannot be used: it names {name}, which is not there; get that file too");
    assert!(error.contains(&told), "{error}");
}

/// A copy of a fixture whose configuration has been changed.
fn changed(scratch: &Path, field: &str, value: Value) -> PathBuf {
    let folder = scratch.join(field);
    fs::create_dir_all(&folder).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(fixture("tied").join("config.json")).unwrap()).unwrap();
    config[field] = value;
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::copy(fixture("tied").join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    folder
}

#[test]
fn what_packscan_cannot_run_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |field: &str, value: Value, words: &[&str]| {
        let error = hugging_face::load(&changed(scratch.path(), field, value)).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    };
    refused("use_bias", json!(true), &["config.json", "use_bias is true", "no bias"]);
    refused("use_conv_bias", json!(false), &["use_conv_bias is false"]);
    refused("hidden_act", json!("gelu"), &["hidden_act is gelu", "silu"]);
    refused("model_type", json!("falcon_mamba"), &["model_type is \"falcon_mamba\"", "mamba"]);
    refused("intermediate_size", json!(72), &["intermediate_size is 72", "64"]);
    refused(
        "expand",
        json!(1.5),
        &["config.json", "expand is 1.5: ", "take config.json and weights of the same model"],
    );
    refused("hidden_size", json!("x"), &["hidden_size is \"x\": "]);
    refused("time_step_rank", json!("many"), &["time_step_rank", "many", "auto"]);
    refused("state_size", json!(9), &["model.safetensors", "x_proj.weight", "[20, 64]", "[22, 64]"]);
    refused("num_hidden_layers", json!(3), &["backbone.layers.2", "take config.json and weights of the same model"]);
    refused("num_hidden_layers", json!(1), &["backbone.layers.1", "belongs to no model"]);
    refused("tie_word_embeddings", json!(false), &["lm_head.weight"]);
    refused("vocab_size", json!(0), &["vocab_size is 0"]);
    refused("layer_norm_epsilon", json!(2.0), &["config.json", "epsilon is 2"]);
    let original = |extra: &str| {
        let text = format!(r#"{{"d_model": 32, "n_layer": 2, "vocab_size": 64, {extra}}}"#);
        let folder = changed(scratch.path(), "d_model", json!(32));
        fs::write(folder.join("config.json"), text).unwrap();
        hugging_face::load(&folder).unwrap_err().to_string()
    };
    assert!(original(r#""rms_norm": false"#).contains("rms_norm is false"));
    assert!(original(r#""ssm_cfg": {"layer": "Mamba2"}"#).contains("ssm_cfg.layer is Mamba2"));
    assert!(original(r#""ssm_cfg": {"conv_bias": false}"#).contains("ssm_cfg.conv_bias is false"));
    assert!(original(r#""attn_layer_idx": [1]"#).contains("attn_layer_idx is [1]"));
    // Names of one layout under the configuration of the other.
    assert!(original(r#""ssm_cfg": {"d_state": 8, "dt_rank": 4}"#).contains("backbone.embedding.weight"));
}

#[test]
fn a_tied_head_that_is_another_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    // An untied model whose configuration says that it is tied.
    fs::create_dir(&folder).unwrap();
    fs::copy(fixture("untied").join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(fixture("untied").join("config.json")).unwrap();
    let config = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    fs::write(folder.join("config.json"), config).unwrap();
    let error = hugging_face::load(&folder).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight differs from backbone.embeddings.weight"), "{error}");
}

#[test]
fn nothing_is_written_that_is_not_the_model() {
    let scratch = tempfile::tempdir().unwrap();
    let (config, values) = hugging_face::load(&fixture("tied")).unwrap();
    let layout = Layout::of(&config);
    let folder = scratch.path().join("out");
    let save = |config: &_, format: &Format, large: f32| {
        hugging_face::save(&folder, config, format, |p| {
            Ok(values[p.slot.range()].iter().map(|value| value * large).collect())
        })
    };
    let half = Format { dtype: Dtype::F16, ..Format::default() };
    let error = save(&config, &half, 1e6).unwrap_err().to_string();
    assert!(error.contains("dtype is f16") && error.contains(&layout.table[0].name), "{error}");
    let original = Format { names: Names::Original, ..Format::default() };
    let other = packscan_train::ModelConfig { epsilon: 1e-6, ..config.clone() };
    let error = save(&other, &original, 1.0).unwrap_err().to_string();
    assert!(error.contains("epsilon is 0.000001"), "{error}");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing half-written stays");

    save(&other, &Format::default(), 1.0).unwrap();
    assert!(hugging_face::load(&folder).unwrap() == (other, values.clone()));
    let error = save(&config, &half, 1.0).unwrap_err().to_string();
    assert!(error.contains("there already"), "{error}");
}
