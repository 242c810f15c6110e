//! What cannot be trained, read or gone on with is refused with file, field or record, rule and cure, before anything is written.

mod common;

use std::fs;

use common::refused;
use common::training::Bench;

/// Refuses a run in these words, and leaves no folder of one.
#[track_caller]
fn no_run(bench: &Bench, arguments: &str, words: &[&str]) {
    refused(&bench.run(&format!("train {arguments} -o run")), words);
    assert!(!bench.path("run").exists(), "{arguments}: {:?} was left", bench.names("run"));
}

#[test]
fn text_that_is_none() {
    let bench = Bench::new();
    let file = |name: &str, bytes: &[u8]| fs::write(bench.path(name), bytes).unwrap();
    file("empty.txt", b"");
    file("latin.txt", b"caf\xe9");
    file("a.jsonl", b"{\"text\": \"x\"}\n{\"body\": \"y\"}\n{\"text\": 3}\n");
    file("a.parquet", b"PAR1 or so");
    file("short.txt", b"so few words");
    fs::create_dir(bench.path("nothing")).unwrap();
    // The head of a compressed file, and nothing after it.
    file("cut.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03");
    for (arguments, words) in [
        ("absent", &["absent cannot be read", "name files"][..]),
        ("nothing", &["the corpus is empty", "nothing", "name files"]),
        ("empty.txt", &["the corpus is empty", "1 documents without text"]),
        ("latin.txt", &["latin.txt: byte 3 is not valid UTF-8", "iconv"]),
        ("a.jsonl", &["a.jsonl, line 2: it has no field \"text\"", "--text-field", "--skip-bad"]),
        ("a.parquet", &["a.parquet: it is no whole Parquet file", "download it again"]),
        ("cut.txt.gz", &["cut.txt.gz is not whole", "download it again"]),
        ("short.txt", &["held out: 0.02 of 13 tokens", "0 to hold out nothing"]),
        ("text --tokenizer a.jsonl", &["a.jsonl is no tokenizer"]),
        ("text --tokenizer absent.json", &["absent.json cannot be read"]),
    ] {
        no_run(&bench, arguments, words);
    }
    let skipping = bench.good("train a.jsonl text --skip-bad --model model.toml --tokens 256 --steps 1 -o run");
    assert!(
        skipping.err.contains("left out: 2 bad records, the first: ") && skipping.err.contains("line 2"),
        "{skipping:?}"
    );
}

#[test]
fn settings_that_make_no_sense() {
    let bench = Bench::new();
    for (arguments, words) in [
        ("--tokens 0", &["tokens is 0", "from two tokens", "take some thousands"][..]),
        ("--tokens 1", &["tokens is 1", "from two tokens"]),
        ("--tokens 99999999999", &["tokens is 99999999999", "2^31"]),
        ("--steps 0", &["steps is 0", "at least one step"]),
        ("--packs 0", &["packs is 0", "at least one pack"]),
        ("--scheme padded --batch 0", &["batch is 0", "take 8"]),
        ("--scheme padded --batch 100 --tokens 128", &["tokens is 128", "a sequence needs two tokens"]),
        ("--held-out 1", &["held_out is 1", "below 1"]),
        ("--held-out -0.1", &["held_out is -0.1", "from 0"]),
        ("--held-out NaN", &["held_out is NaN"]),
        ("--save-every 0", &["save_every is 0", "take at least 1"]),
        ("--eval-every 0", &["eval_every is 0"]),
        ("--learning-rate NaN", &["learning_rate is NaN", "1e-4 to 3e-3"]),
        ("--learning-rate -1", &["learning_rate is -1", "1e-4 to 3e-3"]),
        ("--learning-rate 0", &["learning_rate is 0", "above 0"]),
        ("--learning-rate 7", &["learning_rate is 7", "at most 1"]),
        ("--warmup 300", &["warmup is 300", "the run has 200 steps", "take fewer"]),
        ("--final-share 2", &["final_share is 2", "from 0 to 1"]),
        ("--decay NaN", &["decay is NaN"]),
        ("--clip -1", &["max_norm is -1"]),
        ("--memory 0", &["--memory", "5GB"]),
        ("--dtype f64", &["f64", "f32, f16, bf16"]),
    ] {
        no_run(&bench, &format!("text {arguments}"), words);
    }
}

#[test]
fn models_that_are_none() {
    let bench = Bench::new();
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    fs::write(bench.path("heads.toml"), "width = 32\nlayers = 2\nheads = 4\n").unwrap();
    fs::write(bench.path("narrow.toml"), "width = 32\nlayers = 2\nvocabulary = 100\n").unwrap();
    fs::write(bench.path("deep.toml"), "width = 32\nlayers = 2\nstate = 2000\n").unwrap();
    for (arguments, words) in [
        ("--model 3b", &["\"3b\"", "TOML file", "130m"][..]),
        ("--model heads.toml", &["heads.toml", "line 3", "heads"]),
        ("--model narrow.toml", &["vocabulary is 100", "the tokenizer has 257 entries"]),
        ("--model deep.toml", &["state is 2000", "from 1 to 1024"]),
        ("--init absent", &["absent", "config.json and model.safetensors"]),
        ("--init text", &["text", "it has no config.json"]),
    ] {
        no_run(&bench, &format!("text {arguments}"), words);
    }
    let tied = format!("text --init {repository}/train/tests/data/hf/tied");
    no_run(
        &bench,
        &tied,
        &["vocabulary is 64", "the tokenizer has 257 entries", "take the tokenizer that it was made for"],
    );
    let tokenizer = format!("{tied} --tokenizer {repository}/data/tests/fixtures/tokenizer.json");
    no_run(&bench, &tokenizer, &["vocabulary is 64", "the tokenizer has 300 entries"]);
}

#[test]
fn more_memory_than_there_is() {
    let bench = Bench::new();
    for (arguments, words) in [
        ("--memory 100MB --plan", &["more than the 100 MB", "parameters, f32", "take a smaller model"][..]),
        ("--memory 100MB", &["more than the 100 MB", "take a smaller model"]),
        ("--memory 4GB --tokens 65536", &["activations of 24 blocks, recompute full", "--tokens 8192 would fit"]),
        ("--memory 4GB --recompute none", &["recompute none", "4.0 GB of memory", "--recompute auto would fit"]),
    ] {
        no_run(&bench, &format!("text --model 130m {arguments}"), words);
    }
}

#[test]
fn several_processes_without_gpus() {
    let bench = Bench::new();
    let mut command = bench.command("train text --model model.toml --device cpu -o run");
    let world = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29555"),
    ];
    command.envs(world);
    refused(&common::finish(command), &["the CPU of one of 2 ranks", "NCCL", "start a single process"]);
    assert!(!bench.path("run").exists());
}

#[test]
fn runs_that_cannot_go_on() {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 256 --steps 2 -o run");
    let refuse = |arguments: &str, words: &[&str]| refused(&bench.run(arguments), words);
    refuse("train text -o run", &["run has a run already", "--resume run", "another folder"]);
    refuse("train --resume text", &["text cannot be used", "no run.toml", "name the folder"]);
    refuse("train --resume run/step-00000002", &["no run.toml", "name that of the run, run"]);
    refuse("train --resume run", &["steps is 2", "has taken 2 steps", "--steps"]);
    refuse("train --resume run --steps 1", &["steps is 1", "has taken 2 steps"]);
    for given in ["--learning-rate 1e-3", "--tokens 512", "--dtype bf16", "--seed 4", "--keep 3"] {
        refuse(
            &format!("train {given} --resume run --steps 4"),
            &["cannot be used with", "--resume", given.split(' ').next().unwrap()],
        );
    }
    fs::write(bench.path("text/new.txt"), "the text is another now").unwrap();
    refuse("train --resume run --steps 4", &["the documents", "differ", "begin anew"]);
    fs::remove_file(bench.path("text/new.txt")).unwrap();

    // Of another shape, and cut short.
    let settings = bench.path("run/run.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("state = 8", "state = 16")).unwrap();
    refuse("train --resume run --steps 4", &["x_proj.weight", "[18, 64]", "[34, 64]"]);
    fs::write(&settings, text.replace("seed = 0", "seed = \"none\"")).unwrap();
    refuse("train --resume run --steps 4", &["run.toml", "seed"]);
    fs::write(&settings, text).unwrap();
    let weights = bench.path("run/step-00000002/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    refuse("train --resume run --steps 4", &["step-00000002 is left out", "model.safetensors", "no whole checkpoint"]);
    refuse("generate run x", &["no whole checkpoint"]);
    refuse("eval run/step-00000002 text", &["model.safetensors"]);
    fs::write(&weights, &whole).unwrap();
    bench.good("train --resume run --steps 4");
}

#[test]
fn what_cannot_be_generated_or_evaluated() {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 256 --steps 2 -o run");
    fs::write(bench.path("empty.txt"), "").unwrap();
    for (arguments, words) in [
        (
            "generate absent x",
            &["absent", "it is not there", "name a run, a checkpoint of one, or a Hugging Face folder"][..],
        ),
        ("eval absent text", &["absent", "it is not there", "name a run"]),
        ("generate model.toml x", &["model.toml", "it is no folder", "name a run"]),
        ("generate text x", &["it has no config.json", "name a run"]),
        ("generate run x --batch 0", &["batch is 0", "take 1"]),
        ("generate run x --temperature -1", &["temperature is -1", "from 0 on"]),
        ("generate run x --top-p 0", &["top_p is 0", "1 draws among all"]),
        ("eval run", &["<FILES>"]),
        ("eval run absent", &["absent cannot be read"]),
        ("eval run empty.txt", &["the corpus is empty"]),
        ("eval run text --tokens 1", &["tokens is 1"]),
    ] {
        refused(&bench.run(arguments), words);
    }
}
