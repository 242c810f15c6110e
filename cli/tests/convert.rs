//! `packscan convert`: another layout and back, and what it refuses.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Ran, command, finish};
use serde_json::{Map, Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../train/tests/data/hf/tied")
}

fn convert(from: &Path, to: &Path, options: &[&str]) -> Ran {
    let mut command = command();
    command.arg("convert").arg(from).arg(to).args(options);
    finish(command)
}

#[test]
fn there_and_back_again_is_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let (from, there) = (scratch.path().join("from"), scratch.path().join("there"));
    let (back, again) = (scratch.path().join("back"), scratch.path().join("again"));
    fs::create_dir(&from).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture().join(name), from.join(name)).unwrap();
    }
    fs::write(from.join("tokenizer.json"), "{}").unwrap();

    let ran = convert(&from, &there, &["--layout", "original", "--max-shard", "20KB"]);
    assert_eq!((ran.code, ran.out), (0, format!("{}\n", there.display())), "{}", ran.err);
    assert!(ran.err.contains("parameters: f32 in the layout hf are now f32 in original"), "{}", ran.err);
    assert!(there.join("model.safetensors.index.json").is_file() && there.join("tokenizer.json").is_file());
    // The second time, packscan has written both; the first file's tensors lie in another order.
    assert_eq!(convert(&there, &back.join(""), &[]).code, 0, "a slash at the end is no other folder");
    assert_eq!(convert(&from, &again, &[]).code, 0);
    for name in ["model.safetensors", "tokenizer.json"] {
        assert!(fs::read(back.join(name)).unwrap() == fs::read(again.join(name)).unwrap(), "{name}");
    }
    let config = |folder: &Path| -> Map<String, Value> {
        serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
    };
    // The ids that begin and end a text have no place in the original layout.
    let (mut direct, ids) = (config(&again), ["bos_token_id", "eos_token_id", "pad_token_id"]);
    assert_eq!(ids.map(|id| direct.remove(id)), [0; 3].map(|id| Some(json!(id))));
    assert_eq!(config(&back), direct);
    let ran = convert(&from, &scratch.path().join("half"), &["--dtype", "bf16"]);
    assert!(ran.err.contains("are now bf16 in hf"), "{ran:#?}");
    let bytes = |folder: &str| fs::metadata(scratch.path().join(folder).join("model.safetensors")).unwrap().len();
    assert!(bytes("half") < bytes("again") * 6 / 10);
}

#[test]
fn bad_input_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("to");
    let refused = |from: &Path, to: &Path, options: &[&str], words: &[&str]| {
        let ran = convert(from, to, options);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "{word:?} is not in\n{}", ran.err);
        }
    };
    refused(
        &scratch.path().join("nowhere"),
        &to,
        &[],
        &["nowhere cannot be used", "it is not there", "name a run, a checkpoint"],
    );
    refused(scratch.path(), &to, &[], &["it has no config.json"]);
    refused(&fixture(), &to, &["--dtype", "u32"], &["u32", "f32, f16, bf16"]);
    refused(&fixture(), &to, &["--layout", "other"], &["other", "hf, original"]);
    refused(&fixture(), &to, &["--max-shard", "5XB"], &["5XB", "GB"]);
    refused(&fixture(), &to, &["--max-shard", "0"], &["0", "above 0"]);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    refused(&fixture(), scratch.path(), &[], &["there already"]);
}
