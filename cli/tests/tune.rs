//! `packscan tune` where there is no GPU, and which variants `packscan train` runs and keeps.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::training::Bench;
use common::{command, finish, refused};

/// The command as on a machine without a GPU.
fn without_gpu(arguments: &str) -> common::Ran {
    let mut command = command();
    command.env("CUDA_VISIBLE_DEVICES", "-1").args(arguments.split_whitespace());
    finish(command)
}

#[test]
fn without_a_gpu_there_is_nothing_to_tune() {
    for arguments in ["tune --model 1.4b", "tune --channels 4096 --state 16 --tokens 65536 --op selective-scan"] {
        refused(&without_gpu(arguments), &["tune needs an NVIDIA GPU", "packscan doctor", "gen --emit stats"]);
    }
}

#[test]
fn what_cannot_be_tuned_is_told_before_a_gpu_is_looked_for() {
    for (arguments, words) in [
        ("tune", &["--model"][..]),
        ("tune --model 1.4b --channels 64", &["cannot be used with"]),
        ("tune --model 9b", &["no model is known as \"9b\"", "1.4b"]),
        ("tune --channels 0", &["from 1 to"]),
        ("tune --channels 64 --state 2000", &["state is 2000", "1 to 1024"]),
        ("tune --model tiny --dtype u32", &["f32, f16, bf16"]),
        ("tune --model tiny --seconds 0", &["number of seconds"]),
        ("tune --model tiny --op fft", &["unknown operator", "selective-scan"]),
        ("tune --model tiny --op sum-rows", &["sum-rows has nothing to tune", "causal-conv1d"]),
        ("tune --model tiny --lengths no-such-file", &["no-such-file", "cannot be read"]),
        ("tune --model tiny --lengths some-file --tokens 64", &["cannot be used with"]),
    ] {
        refused(&without_gpu(arguments), words);
    }
}

#[test]
fn lengths_are_numbers_told_by_their_line() {
    let bench = Bench::new();
    for (text, words) in
        [("3 4\n5 -6\n", &["line 2", "\"-6\"", "whole number"][..]), ("0 0\n", &["no token"]), ("", &["no token"])]
    {
        fs::write(bench.path("lengths"), text).unwrap();
        refused(&bench.run("tune --model tiny --lengths lengths"), words);
    }
}

/// The part of `run.toml` that names variants.
fn variants(bench: &Bench) -> BTreeMap<String, String> {
    let text = fs::read_to_string(bench.path("run/run.toml")).unwrap();
    let rows = text.split("[variants]\n").nth(1).expect("variants are kept").lines();
    let rows = rows.take_while(|row| !row.is_empty() && !row.starts_with('['));
    rows.map(|row| row.split_once(" = ").unwrap())
        .map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()))
        .collect()
}

const RUN: &str = "train text --model model.toml --tokens 256 --steps 2 -o run";

#[test]
fn a_run_keeps_what_it_launches_and_goes_on_with_that() {
    let bench = Bench::new();
    let ran = bench.good(RUN);
    assert!(!ran.err.contains("picked by hand"), "on the CPU there is nothing to choose: {}", ran.err);
    let began = variants(&bench);
    assert_eq!(began.len(), 15);
    assert!(
        began["scan"].starts_with("selective_scan_fwd-n8-") && began["loss"].starts_with("cross_entropy-"),
        "{began:?}"
    );

    // As if it had begun with what was tuned on a GPU.
    let other = "cross_entropy-b64-k3-v2-f32";
    assert_ne!(began["loss"], other);
    let path = bench.path("run/run.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&began["loss"], other)).unwrap();
    bench.good("train --resume run --steps 3");
    let now = variants(&bench);
    assert_eq!(now["loss"], other, "not what would be picked now");
    assert_eq!(now.iter().filter(|(name, id)| began[*name] != **id).count(), 1);
}

#[test]
fn a_run_from_before_variants_were_kept_goes_on_with_those_picked_by_hand() {
    let bench = Bench::new();
    bench.good(RUN);
    let (path, began) = (bench.path("run/run.toml"), variants(&bench));
    let text = fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once("[variants]\n").unwrap();
    let rest: String = after.split_inclusive('\n').skip(14).collect();
    fs::write(&path, format!("{before}{rest}")).unwrap();
    bench.good("train --resume run --steps 3");
    assert_eq!(variants(&bench), began);
}

#[test]
fn variants_that_a_run_cannot_launch_are_refused() {
    let bench = Bench::new();
    bench.good(RUN);
    let (path, began) = (bench.path("run/run.toml"), variants(&bench));
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, words) in [
        (began["loss"].as_str(), "cross_entropy-b64-k3-v2-bf16", &["variants is cross_entropy-b64", "its io"][..]),
        (&began["loss"], "voodoo", &["voodoo", "must start with cross_entropy"]),
        ("\nloss = ", "\nlose = ", &["one for lose", "embedding_bwd"]),
    ] {
        fs::write(&path, text.replace(from, to)).unwrap();
        refused(&bench.run("train --resume run --steps 3"), words);
    }
    refused(&bench.run("train --resume run --no-tune"), &["cannot be used with"]);
}
