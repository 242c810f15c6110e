//! The folder of a run, whatever befalls it: a full disk, files cut short, another process.

mod common;

use std::fs;

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
    // What another program has done to it.
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
