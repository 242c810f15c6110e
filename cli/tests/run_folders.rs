//! The folder of a run, whatever befalls it: a full disk, files cut short, another process.

mod common;

use std::fs;

use common::refused;
use common::training::Bench;

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
