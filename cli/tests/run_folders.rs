//! The folder of a run, whatever befalls it: a full disk, files cut short, another process.

mod common;

use std::fs;
use std::path::Path;

use common::refused;
use common::training::Bench;
use packscan_train::run::Lock;

/// Of few and short steps.
const RUN: &str = "train text --model model.toml --tokens 256 --steps 2 -o run";

#[test]
#[cfg(unix)]
fn a_disk_that_is_full_at_the_start_leaves_no_half_of_a_run() {
    let bench = Bench::new();
    // The text is in the cache.
    bench.good("train text --model model.toml --tokens 256 --steps 1 --keep 0 -o other");
    for blocks in [0, 1] {
        refused(&bench.limited(blocks, RUN), &["cannot write run/run.toml: File too large", "raise the limit"]);
        assert!(!bench.path("run").exists(), "{:?}", bench.names("run"));
    }
    fs::create_dir(bench.path("run")).unwrap();
    fs::write(bench.path("run/notes"), "mine").unwrap();
    bench.limited(0, RUN);
    assert_eq!(bench.names("run"), ["notes"]);
    bench.good(RUN);
    // One that ended before it saved anything, and what another program has done to it.
    bench.good(&RUN.replace("-o run", "--keep 0 -o none"));
    let none = "the run in none has no whole checkpoint to go on from; remove the folder, or begin anew in another";
    refused(&bench.run("train text -o none"), &[none]);
    refused(&bench.run("train --resume none --steps 3"), &[none]);
    fs::write(bench.path("run/run.toml"), "").unwrap();
    refused(&bench.run("train --resume run --steps 3"), &["run/run.toml", "missing field", "begin anew in another"]);
}

#[test]
fn one_process_at_a_time_trains_in_a_folder() {
    let bench = Bench::new();
    bench.good(RUN);
    let files = bench.names("run");
    let lock = Lock::take(&bench.path("run")).unwrap();
    let owner = format!("run is in use: process {} trains there", std::process::id());
    let ran = bench.run("train --resume run --steps 3");
    refused(&ran, &[&owner, "wait until it has ended", "another folder"]);
    assert!(!ran.err.contains("text: "), "it is refused at once: {}", ran.err);
    refused(&bench.run(RUN), &[&owner]);
    assert_eq!(bench.names("run"), files);
    // Whoever only reads may.
    bench.good("train --resume run --steps 3 --plan");
    bench.good("generate run x -n 1");
    drop(lock);
    bench.good("train --resume run --steps 3");

    // Two that begin in the same new folder.
    fs::create_dir(bench.path("new")).unwrap();
    let lock = Lock::take(&bench.path("new")).unwrap();
    let begin = RUN.replace("-o run", "-o new");
    refused(&bench.run(&begin), &["new is in use", "another folder"]);
    assert_eq!(bench.names("new"), [".lock"]);
    drop(lock);
    bench.good(&begin);
}

/// Cuts off the second half of a file.
fn halve(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn who_takes_an_older_checkpoint_says_so() {
    let bench = Bench::new();
    bench.good(&RUN.replace("--steps 2", "--steps 2 --save-every 1"));
    let newest = bench.good("convert run whole");
    assert!(!newest.err.contains("left out"), "{}", newest.err);
    let weights = |folder: &str| fs::read(bench.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("whole") == weights("run/step-00000002") && weights("whole") != weights("run/step-00000001"));

    halve(&bench.path("run/step-00000002/model.safetensors"));
    for command in [
        "eval run text/lib.rs",
        "generate run x -n 1",
        "convert run older",
        "train text --init run --tokens 256 --steps 1 -o more",
        "train --resume run --steps 2",
    ] {
        let ran = bench.good(command);
        let told = "the checkpoint run/step-00000002 is left out: run/step-00000002/model.safetensors cannot be used";
        assert_eq!(ran.err.matches(told).count(), 1, "{command}: {}", ran.err);
        if command.starts_with("convert") {
            assert!(weights("older") == weights("run/step-00000001"));
        }
    }
    for step in ["run/step-00000001", "run/step-00000002"] {
        halve(&bench.path(step).join("optimizer.safetensors"));
    }
    let words = ["run cannot be used: the run has no whole checkpoint", "of 2", "step-00000002/optimizer.safetensors"];
    refused(&bench.run("generate run x"), &words);
    refused(&bench.run("convert run nothing"), &words);
}

#[test]
fn fewer_steps_than_the_warm_up_that_nobody_chose() {
    let bench = Bench::new();
    let begin = |steps: &str, run: &str| {
        bench.good(&format!("train text --model model.toml --tokens 256 --save-every 1 {steps} -o {run}"));
        let path = bench.path(run).join("run.toml");
        let settings = fs::read_to_string(&path).unwrap();
        assert!(settings.contains("steps = 2\n"), "{settings}");
        // As if it had been begun for more, and stopped after two.
        fs::write(path, settings.replace("steps = 2\n", "steps = 4000\n").replace("warmup = 0\n", "warmup = 400\n"))
            .unwrap();
    };
    let warmup = |run: &str| {
        let settings = fs::read_to_string(bench.path(run).join("run.toml")).unwrap();
        settings.lines().find(|line| line.starts_with("warmup")).unwrap().to_owned()
    };
    begin("--steps 2", "run");
    let ran = bench.good("train --resume run --steps 6");
    assert!(ran.err.contains("warm-up: 0 steps, a tenth of the steps now; it was to be 400"), "{}", ran.err);
    assert_eq!(warmup("run"), "warmup = 0");
    // More steps leave it where it is.
    assert!(!bench.good("train --resume run --steps 20").err.contains("warm-up"));
    assert_eq!(warmup("run"), "warmup = 0");

    // One that somebody chose is not passed over; what the message says helps.
    begin("--steps 2 --warmup 1", "chosen");
    let path = bench.path("chosen/run.toml");
    let settings = fs::read_to_string(&path).unwrap();
    let settings = settings.replace("warmup = 1\n", "warmup = 7\n");
    fs::write(&path, &settings).unwrap();
    let ran = bench.run("train --resume chosen --steps 6");
    refused(&ran, &["warmup is 7; the run has 6 steps", "settings in chosen/run.toml", "other --steps"]);
    bench.good("train --resume chosen --steps 8");
    fs::write(&path, settings.replace("warmup = 7\n", "warmup = 3\n").replace("learning_rate = ", "learning_rate = 9"))
        .unwrap();
    let ran = bench.run("train --resume chosen --steps 10");
    refused(&ran, &["learning_rate is 9", "settings in chosen/run.toml: mend that one there"]);
    assert!(!ran.err.contains("--learning-rate"), "which --resume refuses: {}", ran.err);
}
