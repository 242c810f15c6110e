//! What a run has saved, when some of it is not there: the memory of a cut document, the tokenizer, the settings.

mod common;

use std::fs;
use std::path::Path;

use common::refused;
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

#[test]
fn a_folder_in_which_a_run_left_something_takes_no_other() {
    let bench = Bench::new();
    bench.good(&format!("{RUN} --steps 2"));
    fs::remove_file(bench.path("run/run.toml")).unwrap();
    let metrics = fs::read(bench.path("run/metrics.jsonl")).unwrap();
    let begin = format!("{RUN} --steps 1");
    let words = ["run holds metrics.jsonl, run.html, step-00000001, step-00000002 of another run", "no run.toml"];
    refused(&bench.run(&begin), &[words[0], words[1], "name another folder, or remove them"]);
    assert!(fs::read(bench.path("run/metrics.jsonl")).unwrap() == metrics);
    for name in ["metrics.jsonl", "run.html"] {
        fs::remove_file(bench.path("run").join(name)).unwrap();
    }
    fs::remove_dir_all(bench.path("run/step-00000002")).unwrap();
    refused(&bench.run(&begin), &["run holds step-00000001 of another run"]);
    fs::remove_dir_all(bench.path("run/step-00000001")).unwrap();
    // What is of no run is in nobody's way.
    fs::write(bench.path("run/notes"), "mine").unwrap();
    bench.good(&begin);
}

#[test]
fn the_tokenizer_of_a_run_goes_along() {
    let bench = Bench::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/tokenizer.json");
    fs::create_dir(bench.path("words")).unwrap();
    fs::copy(&fixture, bench.path("words/mine.json")).unwrap();
    fs::write(bench.path("words/tokenizer_config.json"), "{}").unwrap();
    bench.good(&format!("{RUN} --steps 2 --tokenizer words/mine.json"));
    bench.good("convert run to");
    bench.good("convert run/step-00000001 older");
    for to in ["to", "older"] {
        let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        assert_eq!(bench.names(to), names);
        assert!(fs::read(bench.path(to).join("tokenizer.json")).unwrap() == fs::read(&fixture).unwrap());
    }
    // Both count the same tokens.
    let predicted = |model: &str| {
        let out = bench.good(&format!("eval {model} text")).out;
        out.lines().find_map(|line| Some(line.strip_prefix("predicted")?.split(" in ").next()?.to_owned())).unwrap()
    };
    assert_eq!(predicted("to"), predicted("run"));

    // Each checkpoint has its own: what becomes of the file that was named does not matter, nor of the model that a run began from.
    fs::rename(bench.path("words"), bench.path("moved")).unwrap();
    assert_eq!(predicted("to"), predicted("run"));
    bench.good("train --resume run --steps 3");
    bench.good("train text --init older --tokens 256 --steps 1 --save-every 1 -o from-older");
    fs::remove_dir_all(bench.path("older")).unwrap();
    bench.good("train --resume from-older --steps 2");
    assert_eq!(predicted("from-older"), predicted("run"));

    bench.good(&format!("{RUN}-on-bytes --steps 1"));
    bench.good("convert run-on-bytes bytes");
    assert_eq!(bench.names("bytes"), ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(predicted("bytes"), predicted("run-on-bytes"));
    // Their file is bytes again, which need none.
    bench.good("train text --model model.toml --tokens 256 --steps 1 --tokenizer bytes/tokenizer.json -o again");
    assert!(!fs::read_to_string(bench.path("again/run.toml")).unwrap().contains("tokenizer"));

    fs::write(bench.path("to/tokenizer.json"), "").unwrap();
    let cure = "put the one of the model there again, or name it with --tokenizer";
    refused(&bench.run("generate to x"), &["to/tokenizer.json is no tokenizer", cure]);
    // A model of words is not taken for one of bytes.
    fs::remove_file(bench.path("to/tokenizer.json")).unwrap();
    for command in ["eval to text", "generate to x", "train text --init to"] {
        refused(&bench.run(command), &["to has no tokenizer.json", "304 entries", "name it with --tokenizer"]);
    }
    bench.good("eval to text --tokenizer moved/mine.json");
}

#[test]
fn a_run_that_keeps_nothing_says_so() {
    let bench = Bench::new();
    bench.good(&format!("{RUN} --steps 1 --keep 0"));
    for command in ["generate run x", "eval run text", "convert run to"] {
        let ran = bench.run(command);
        refused(&ran, &["the run keeps no checkpoint", "train anew without --keep 0"]);
        assert!(!ran.err.contains("wait"), "{command}: {}", ran.err);
    }
}

#[test]
fn a_run_that_goes_on_names_what_is_not_as_it_was() {
    let bench = Bench::new();
    bench.good(&format!("{RUN} --steps 1"));
    let resume = "train --resume run --steps 2";
    let belongs = "the data position does not belong to these packs";
    let log = bench.path("text/train.log");
    fs::write(&log, "step 1\n").unwrap();
    refused(&bench.run(resume), &[belongs, "newer than the run: ", "text/train.log"]);
    fs::remove_file(&log).unwrap();
    // As long as it was, and other text.
    let (file, text) = (bench.path("text/lib.rs"), fs::read_to_string(bench.path("text/lib.rs")).unwrap());
    fs::write(&file, text.to_uppercase()).unwrap();
    refused(&bench.run(resume), &[belongs, "newer than the run: ", "text/lib.rs"]);
    fs::write(&file, &text).unwrap();
    let settings = fs::read_to_string(bench.path("run/run.toml")).unwrap();
    fs::write(bench.path("run/run.toml"), settings.replace("seed = 0", "seed = 5")).unwrap();
    fs::remove_file(&file).unwrap();
    refused(&bench.run(resume), &[belongs, "no file of its text is newer", "run/run.toml says otherwise"]);
    fs::write(bench.path("run/run.toml"), settings).unwrap();
    fs::write(&file, &text).unwrap();
    fs::rename(bench.path("text"), bench.path("moved")).unwrap();
    refused(&bench.run(resume), &["text cannot be read", "run/run.toml names its text: put it back"]);
    fs::create_dir(bench.path("text")).unwrap();
    refused(&bench.run(resume), &["the corpus is empty", "run/run.toml names its text: put it back"]);
    fs::remove_dir(bench.path("text")).unwrap();
    fs::rename(bench.path("moved"), bench.path("text")).unwrap();
    bench.good(resume);
}
