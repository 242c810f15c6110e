//! What a run has saved, when some of it is not there: the memory of a cut document, the tokenizer, the settings.

mod common;

use std::fs;

use common::training::Bench;

/// Of short steps, each of which is saved.
const RUN: &str = "train text --model model.toml --tokens 256 --save-every 1 -o run";

#[test]
fn a_checkpoint_without_its_memory_is_left_out() {
    let bench = Bench::new();
    bench.good(&format!("{RUN} --strategy split --steps 3"));
    let path = bench.path("run/step-00000003/memory.safetensors");
    let whole = fs::read(&path).expect("a document was cut there");
    let left_out = |what: &str| {
        let ran = bench.good("convert run to");
        let told = "the checkpoint run/step-00000003 is left out: ";
        assert!(ran.err.contains(told) && ran.err.contains("memory.safetensors"), "{what}: {}", ran.err);
        fs::remove_dir_all(bench.path("to")).unwrap();
    };
    for bytes in [0, 7, 100, 1000, whole.len() - 1] {
        fs::write(&path, &whole[..bytes]).unwrap();
        left_out(&format!("{bytes} bytes"));
    }
    fs::remove_file(&path).unwrap();
    left_out("no file");
    let ran = bench.good("train --resume run --steps 4");
    assert!(ran.err.contains("step-00000003 is left out") && !ran.err.contains("skipped"), "{}", ran.err);

    // One of before state.json said whether there is a memory.
    let state = bench.path("run/step-00000004/state.json");
    let text = fs::read_to_string(&state).unwrap();
    let before: String = text.lines().filter(|line| !line.contains("\"memory\"")).collect();
    assert_ne!(text.lines().collect::<String>(), before);
    fs::write(&state, before).unwrap();
    assert!(!bench.good("train --resume run --steps 5").err.contains("left out"));
}
