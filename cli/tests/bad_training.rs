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
    fs::create_dir(bench.path("folder")).unwrap();
    file("folder/latin.txt", b"caf\xe9");
    file("a.jsonl", b"{\"text\": \"x\"}\n{\"body\": \"y\"}\n{\"text\": 3}\n");
    file("a.parquet", b"PAR1 or so");
    file("short.txt", b"so few words");
    fs::create_dir(bench.path("nothing")).unwrap();
    // The head of a compressed file, and nothing after it.
    file("cut.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03");
    for (arguments, words) in [
        ("absent", &["absent cannot be read", "name files"][..]),
        ("nothing", &["the corpus is empty", "nothing", "name files"]),
        ("empty.txt", &["the corpus is empty", "1 document without a token"]),
        ("latin.txt", &["latin.txt: byte 3 is not valid UTF-8", "iconv", "--skip-bad"]),
        ("text folder", &["folder/latin.txt: byte 3 is not valid UTF-8", "iconv", "--skip-bad"]),
        ("a.jsonl", &["a.jsonl, line 2: it has no field \"text\"", "--text-field", "--skip-bad"]),
        ("a.parquet", &["a.parquet: it is no whole Parquet file", "download it again"]),
        ("cut.txt.gz", &["cut.txt.gz is not whole", "download it again"]),
        ("short.txt", &["held out: 0.02 of 13 tokens", "0 to hold out nothing"]),
        ("text --tokenizer folder", &["folder is no tokenizer: it cannot be read", "the tokenizer.json"]),
        ("text --tokenizer a.jsonl", &["a.jsonl is no tokenizer"]),
        (
            "text --tokenizer absent.json",
            &["absent.json is no tokenizer: it cannot be read", "or none to train on bytes"],
        ),
    ] {
        no_run(&bench, arguments, words);
    }
    file("folder/picture.png", b"\x89PNG\r\n\x1a\n\0");
    let skipping = bench.good("train a.jsonl folder text --skip-bad --model model.toml --tokens 256 --steps 1 -o run");
    for told in [
        "left out: 1 binary file in folders\n",
        "folder/picture.png: byte 0 is no text\n",
        "left out: 3 bad records\n",
        "a.jsonl, line 2: it has no field \"text\", only ",
        "folder/latin.txt: byte 3 is not valid UTF-8\n",
    ] {
        assert!(skipping.err.contains(told), "{told:?} is not in\n{}", skipping.err);
    }
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
        ("--packs 100000000000", &["packs is 100000000000", "at most 1048576"]),
        ("--decay 1e9", &["decay is 1000000000", "below 1", "take about 0.1"]),
        ("--scheme padded --batch 0", &["batch is 0", "take 8"]),
        ("--scheme padded --batch 100 --tokens 128", &["batch is 100", "needs two; take a smaller batch"]),
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
        ("--clip -1", &["clip is -1", "above 0", "--clip 0 clips nothing"]),
        ("--clip nan", &["clip is NaN", "--clip 0 clips nothing"]),
        ("--memory 0", &["--memory", "5GB"]),
        ("--memory -3", &["'-3' for '--memory <SIZE>'", "5GB"]),
        ("--memory -3GB", &["'-3GB' for '--memory <SIZE>'", "5GB"]),
        ("--steps -3", &["'-3' for '--steps <N>'"]),
        ("--tokens -3", &["'-3' for '--tokens <T>'", "a whole number from 0"]),
        ("--seed 1.5", &["'1.5' for '--seed <SEED>'", "a whole number from 0"]),
        ("--cut flow", &["--cut does nothing without --strategy split", "leave out --cut"]),
        ("--cut flow --strategy first-fit", &["--cut does nothing without --strategy split"]),
        ("--batch 4", &["--batch does nothing without --scheme padded"]),
        ("--scheme single --strategy split", &["--strategy does nothing without --scheme packed"]),
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
        (
            "--model nosuch.toml",
            &["nosuch.toml cannot be used: there is no such file", "name one that is there", "130m"],
        ),
        ("--model no/such", &["no/such cannot be used: there is no such file"]),
        ("--model text", &["text cannot be used: it is a folder", "--init"]),
        ("--model heads.toml", &["heads.toml", "line 3", "heads"]),
        ("--model narrow.toml", &["narrow.toml cannot be used: vocabulary is 100", "the tokenizer has 257 entries"]),
        ("--model deep.toml", &["deep.toml cannot be used: state is 2000", "from 1 to 1024"]),
        ("--init absent", &["absent", "config.json and model.safetensors"]),
        ("--init text", &["text", "it has no config.json"]),
    ] {
        no_run(&bench, &format!("text {arguments}"), words);
    }
    let tied = format!("text --init {repository}/train/tests/data/hf/tied");
    no_run(
        &bench,
        &tied,
        &[
            "vocabulary is 64",
            "the tokenizer has 257 entries",
            "name the tokenizer that it was made for with --tokenizer",
        ],
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
        ("--memory 4GB --tokens 65536", &["activations of 24 blocks, recompute full", "--tokens 16384 would fit"]),
        ("--memory 4GB --packs 100000", &["tokens, targets and boundaries of packs", "--packs 1562 would fit"]),
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
    let shapes = ["x_proj.weight", "[18, 64]", "the model of run.toml has [34, 64]", "put back the sizes"];
    refuse("train --resume run --steps 4", &shapes);
    for (was, now) in [("layers = 2", "layers = 3"), ("layers = 2", "layers = 1"), ("tied = false", "tied = true")] {
        fs::write(&settings, text.replace(was, now)).unwrap();
        let words = [&format!("it is of a model with {was}, but run.toml has {now}; write {was} there again")[..]];
        refuse("train --resume run --steps 4", &words);
    }
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

/// A file where the folder of a run is to be: told before anything is read.
#[test]
fn an_output_that_is_a_file() {
    let bench = Bench::new();
    fs::write(bench.path("file"), "in the way").unwrap();
    for output in ["file", "file/run"] {
        let ran = bench.run(&format!("train text --model model.toml --tokens 256 --steps 1 -o {output}"));
        refused(&ran, &[&format!("{output} cannot be written: not a directory; name another with -o")]);
    }
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
