//! `packscan train` as a user sees it: what a run leaves, that it goes on bit for bit after whatever ended it, and what a bad step does.

mod common;

use std::fs;
#[cfg(unix)]
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::training::Bench;
use packscan_train::report::{Metrics, read_metrics};

/// Twelve steps, with packs of 2,048 of some tenths of a second each: slow enough to be stopped in between.
const STEPS: &str = "text --model model.toml --steps 12 --save-every 4 --keep 9 --eval-every 5";

fn metrics(run: &Path) -> Vec<Metrics> {
    read_metrics(&run.join("metrics.jsonl")).expect("the metrics can be read")
}

#[test]
fn a_run_learns_and_leaves_its_files() {
    let bench = Bench::new();
    let ran =
        bench.good("train text --model model.toml --tokens 512 --steps 40 --eval-every 20 --save-every 10 -o run");
    let files = [".lock", "metrics.jsonl", "run.html", "run.toml", "step-00000030", "step-00000040"];
    assert_eq!(bench.names("run"), files);
    for told in ["parameters in 2 blocks", "text: ", "cut: ", "step 40/40", "held out", "packscan generate run"] {
        assert!(ran.err.contains(told), "{told:?} is not in\n{}", ran.err);
    }
    let all = metrics(&bench.path("run"));
    assert_eq!(all.iter().map(|m| m.step).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    let mean = |part: &[Metrics]| part.iter().map(|m| m.loss).sum::<f64>() / part.len() as f64;
    assert!(mean(&all[35..]) < 0.8 * mean(&all[..5]), "{} to {}", mean(&all[..5]), mean(&all[35..]));
    let held_out: Vec<u64> = all.iter().filter(|m| m.held_out_loss.is_some()).map(|m| m.step).collect();
    assert_eq!(held_out, [20, 40]);
    assert!(all.iter().all(|m| m.tokens > 0 && m.tokens_per_second > 0.0 && m.elapsed_s > 0.0 && !m.skipped));
    // Each step is told of when it is over: none seems to take no time because another one was waited for.
    let fastest = all.iter().map(|m| m.tokens_per_second).fold(0.0, f64::max);
    let mean = all.iter().map(|m| m.tokens_per_second).sum::<f64>() / all.len() as f64;
    assert!(fastest < 20.0 * mean, "{fastest:.0} of {mean:.0} tokens/s");
    let page = fs::read_to_string(bench.path("run/run.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("width = 32"), "the page has pictures and the settings");
}

#[test]
fn what_is_told_against_cuts_helps_the_scheme() {
    let bench = Bench::new();
    let run = "train text --model model.toml --tokens 256 --steps 1 --keep 0 --scheme";
    for (scheme, cure) in [("single", "take more --tokens\n"), ("padded --batch 2", "or a smaller --batch: a row has")]
    {
        let ran = bench.good(&format!("{run} {scheme} -o run-{}", &scheme[..6]));
        assert!(ran.err.contains(cure) && !ran.err.contains("--strategy split"), "{scheme}: {}", ran.err);
    }
}

#[test]
fn a_trial_keeps_no_checkpoint() {
    let bench = Bench::new();
    let ran = bench.good("train text --model model.toml --tokens 256 --steps 2 --keep 0 -o run");
    assert_eq!(bench.names("run"), [".lock", "metrics.jsonl", "run.html", "run.toml"]);
    assert!(ran.err.contains("no checkpoint was kept"), "{}", ran.err);
}

/// Options that do nothing in one process, of one pack a step, but may in the same command elsewhere.
#[test]
fn what_does_nothing_here_is_said() {
    let bench = Bench::new();
    let small = "text --model model.toml --tokens 256 --steps 1 --keep 0";
    let told = bench.good(&format!("train {small} --shard -o shard")).err;
    assert!(told.contains("--shard: this process is alone") && told.contains("torchrun"), "{told}");
    let told = bench.good(&format!("train {small} --strategy split --cut flow -o flow")).err;
    assert!(told.contains("--cut flow: gradients flow between the packs of a step, and each has one"), "{told}");
    let told = bench.good(&format!("train {small} --strategy split --cut flow --packs 2 -o two")).err;
    assert!(!told.contains("--shard") && !told.contains("--cut flow"), "{told}");
}

#[test]
fn a_run_in_the_folder_that_it_reads_is_not_its_own_text() {
    let bench = Bench::new();
    for run in ["runs/model", "runs/model-2"] {
        let ran = bench.good("train --model model.toml --tokens 256 --steps 2");
        assert!(ran.err.contains(&format!("run: {run}\n")), "{}", ran.err);
    }
    bench.good("train --resume runs/model --steps 3");
    // From another folder too.
    let run = bench.path("runs/model-2");
    let mut elsewhere = bench.command("train --steps 3 --resume");
    elsewhere.arg(&run).current_dir(bench.path("text"));
    let ran = common::finish(elsewhere);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(metrics(&run).len(), 3);
}

/// Starts a run and waits until `ready`, which must be before it ends.
fn begun(bench: &Bench, arguments: &str, ready: impl Fn() -> bool) -> Child {
    let command = bench.command(arguments);
    let mut child = Command::new(command.get_program());
    child.args(command.get_args()).current_dir(bench.path("")).env("PACKSCAN_CACHE", bench.path("cache"));
    let mut child = child.stderr(Stdio::piped()).spawn().expect("the command starts");
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run does not get there");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be stopped");
        sleep(Duration::from_millis(2));
    }
    child
}

/// Asserts that two runs ended alike, in every bit of what they learnt.
fn assert_same(bench: &Bench, how: &str) {
    let (whole, again) = (bench.path("whole"), bench.path("again"));
    let last = bench.names("whole/step-00000012");
    assert_eq!(bench.names("again/step-00000012"), last, "{how}");
    assert_eq!(
        how.contains("split"),
        last.contains(&"memory.safetensors".to_owned()),
        "{how}: a document was cut there"
    );
    for name in last.iter().filter(|name| *name != "state.json") {
        let read = |run: &Path| fs::read(run.join("step-00000012").join(name)).unwrap();
        assert!(read(&whole) == read(&again), "{how}: {name} differs");
    }
    let told = |run: &Path| -> Vec<(u64, u64, u64, f64)> {
        metrics(run).iter().map(|m| (m.step, m.loss.to_bits(), m.gradient_norm.to_bits(), m.epoch)).collect()
    };
    assert_eq!(told(&whole), told(&again), "{how}");
}

/// Twelve steps equal some steps, SIGKILL, and the rest.
fn check_killed(how: &str) {
    let bench = Bench::new();
    bench.good(&format!("train {STEPS} {how} -o whole"));
    let saved = bench.path("again/step-00000004");
    let mut killed = begun(&bench, &format!("train {STEPS} {how} -o again"), || saved.exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!bench.path("again/step-00000012").exists(), "{how}: it was killed too late");
    bench.good("train --resume again");
    assert_same(&bench, how);
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    check_killed("--tokens 2048");
    check_killed("--tokens 2048 --dtype bf16");
}

#[test]
fn a_killed_run_goes_on_bit_for_bit_inside_a_document() {
    check_killed("--strategy split --cut flow --tokens 1024 --packs 2");
    check_killed("--strategy split --tokens 2048 --dtype bf16");
}

#[test]
fn a_killed_run_of_the_baselines_goes_on_bit_for_bit() {
    check_killed("--scheme single --tokens 2048");
    check_killed("--scheme padded --batch 4 --tokens 2048");
}

#[cfg(unix)]
fn send(signal: &str, to: &Child) {
    let kill = Command::new("kill").args([signal, &to.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

/// A signal finishes the step under way, saves, and ends the run so that it can go on.
#[cfg(unix)]
fn check_stopped(signal: &str) {
    let bench = Bench::new();
    bench.good(&format!("train {STEPS} --tokens 2048 -o whole"));
    let run = bench.path("again");
    let two = || fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() >= 2);
    let stopped = begun(&bench, &format!("train {STEPS} --tokens 2048 -o again"), two);
    send(signal, &stopped);
    let output = stopped.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("stopping after this step") && told.contains("--resume again"), "{told}");
    let step = metrics(&run).len();
    assert!((2..12).contains(&step), "it was stopped after {step} steps");
    assert!(run.join(format!("step-{step:08}")).exists(), "{:?}", bench.names("again"));
    // What is computed again in the backward pass changes no bit either.
    bench.good("train --resume again --recompute full");
    assert_same(&bench, "");
}

#[test]
#[cfg(unix)]
fn ctrl_c_finishes_the_step_and_saves() {
    check_stopped("-INT");
}

/// A cluster that takes its machine back says so by SIGTERM; the code is that of Ctrl-C, since the run goes on in the same way.
#[test]
#[cfg(unix)]
fn sigterm_is_ctrl_c() {
    check_stopped("-TERM");
}

#[test]
#[cfg(unix)]
fn a_second_ctrl_c_ends_at_once() {
    let bench = Bench::new();
    // One step of many packs, in which both come.
    let started = bench.path("run/metrics.jsonl");
    let run = "train text --model model.toml --tokens 4096 --packs 200 --steps 1 -o run";
    let mut child = begun(&bench, run, || started.exists());
    send("-INT", &child);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("stopping after this step")));
    send("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(bench.names("run"), [".lock", "metrics.jsonl", "run.toml"], "nothing was saved");
    assert!(metrics(&bench.path("run")).is_empty(), "the step was not finished");
}

#[test]
fn files_of_something_else_in_the_folder_do_not_stop_a_run() {
    let bench = Bench::new();
    fs::write(bench.path("scores.jsonl"), "{\"score\": 1}\n{\"score\": 2}\n").unwrap();
    let ran = bench.good("train --model model.toml --tokens 256 --steps 1");
    for told in ["left out: 1 file in folders without a text", "scores.jsonl: it has no field \"text\""] {
        assert!(ran.err.contains(told), "{told:?} is not in\n{}", ran.err);
    }
    let ran = bench.run("train scores.jsonl text --model model.toml --tokens 256 --steps 1");
    common::refused(&ran, &["scores.jsonl, line 1: it has no field \"text\"", "--skip-bad"]);
}

/// Changes the values of a tensor in a checkpoint, on purpose.
fn change(checkpoint: &Path, name: &str, change: impl Fn(usize, &mut f32)) {
    let path = checkpoint.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    let offset = |i: usize| header + about[name]["data_offsets"][i].as_u64().unwrap() as usize;
    for (i, bytes) in file[offset(0)..offset(1)].chunks_exact_mut(4).enumerate() {
        let mut value = f32::from_le_bytes(bytes.try_into().unwrap());
        change(i, &mut value);
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    fs::write(path, file).unwrap();
    // What it says is of the weights before.
    let _ = fs::remove_file(checkpoint.join("checksums.json"));
}

/// Makes what the model computes of one byte more than a float holds, with weights that are finite: only that byte's embedding has
/// anything in the first channel, and the first norm makes much of it. Packs without it stay as they are.
fn spoil(checkpoint: &Path, byte: usize) {
    change(checkpoint, "backbone.embeddings.weight", |i, value| {
        if i % 32 == 0 {
            *value = f32::from(i / 32 == byte);
        }
    });
    change(checkpoint, "backbone.layers.0.norm.weight", |i, value| {
        if i == 0 {
            *value = 1e15;
        }
    });
}

#[test]
fn a_step_that_is_not_finite_is_skipped_and_ten_in_a_row_end_the_run() {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 256 --steps 1 -o spoilt");
    spoil(&bench.path("spoilt/step-00000001"), usize::from(b'~'));
    for (folder, words) in [("mixed", "plain words\n"), ("bad", "a ~ in each\n")] {
        fs::create_dir(bench.path(folder)).unwrap();
        (0..12).for_each(|i| fs::write(bench.path(folder).join(format!("{i}.txt")), words.repeat(8)).unwrap());
    }
    fs::write(bench.path("mixed/wavy.txt"), "one ~ is enough\n".repeat(6)).unwrap();

    // So slow that no other embedding gets anything there either.
    let start = "--init spoilt --scheme single --tokens 256 --held-out 0 --save-every 5 --learning-rate 1e-30";
    let ran = bench.good(&format!("train mixed {start} --steps 13 -o mixed-run"));
    assert_eq!(ran.err.matches("was skipped").count(), 1, "{}", ran.err);
    assert!(ran.err.contains("wavy.txt) is not finite") && ran.err.contains("1 skipped"), "{}", ran.err);
    let all = metrics(&bench.path("mixed-run"));
    assert_eq!(all.iter().filter(|m| m.skipped).count(), 1);
    assert!(all.iter().all(|m| m.skipped == m.loss.is_nan()), "only the loss of the skipped step is none");

    let ran = bench.run(&format!("train bad {start} --steps 50 -o bad-run"));
    assert_eq!(ran.code, 2, "{ran:#?}");
    let words = ["10 steps in a row were skipped", "step 10", "the loss of pack 0", ".txt", "look at that"];
    common::refused(&ran, &words);
    common::refused(&ran, &["no checkpoint was saved yet", "lower --learning-rate"]);
    assert!(!bench.names("bad-run").iter().any(|name| name.starts_with("step-")), "nothing was learnt");
    assert_eq!(metrics(&bench.path("bad-run")).len(), 10);
    let page = fs::read_to_string(bench.path("bad-run/run.html")).unwrap();
    assert!(page.contains("skipped (10)"), "the page shows them");
}

/// A run over plain text, whose model then diverges: of its checkpoints the good ones stay.
#[test]
fn a_run_that_diverges_keeps_its_good_checkpoints() {
    let bench = Bench::new();
    let file = |name: &str, words: &str| fs::write(bench.path(name), words.repeat(8)).unwrap();
    file("a.txt", "a ~ in each\n");
    bench.good("train a.txt --model model.toml --tokens 256 --held-out 0 --steps 2 --save-every 1 --keep 1 -o run");
    assert_eq!(bench.names("run").last().unwrap(), "step-00000002");
    spoil(&bench.path("run/step-00000002"), usize::from(b'~'));
    let ran = bench.run("train --resume run --steps 30");
    let cure = "lower learning_rate in run/run.toml, and go on from its newest checkpoint, of step 2, with \
                `packscan train --resume run`";
    common::refused(&ran, &["10 steps in a row were skipped", "step 12", "the model has diverged", cure]);
    assert_eq!(bench.names("run").last().unwrap(), "step-00000002");
    assert_eq!(metrics(&bench.path("run")).len(), 12);
    // One that ends before it is given up is saved beside them.
    bench.good("train --resume run --steps 4");
    assert!(bench.names("run").ends_with(&["step-00000002".to_owned(), "step-00000004".to_owned()]));
    common::refused(&bench.run("eval run a.txt"), &["the loss of run is", "a.txt", "take an earlier checkpoint"]);
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 256 --steps 2 --save-every 1 -o run");
    change(&bench.path("run/step-00000002"), "lm_head.weight", |i, value| {
        if i == 32 * 7 + 5 {
            *value = f32::NEG_INFINITY;
        }
    });
    for command in ["eval run text", "generate run x", "train --resume run --steps 3", "train text --init run -o more"]
    {
        let ran = bench.run(command);
        common::refused(&ran, &["run/step-00000002/model.safetensors", "lm_head.weight[7, 5] is -inf", "diverged"]);
    }
    common::refused(&bench.run("convert run other"), &["lm_head.weight[7, 5] is -inf"]);
    assert!(!bench.path("more").exists() && !bench.path("other").exists());
    // What the message says helps.
    fs::remove_dir_all(bench.path("run/step-00000002")).unwrap();
    bench.good("train --resume run --steps 3");
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_loud_and_the_run_goes_on() {
    let bench = Bench::new();
    bench.good("train text --model model.toml --tokens 256 --steps 2 -o run");
    let saved = bench.names("run/step-00000002");
    let ran = bench.limited(150, "train --resume run --steps 202");
    let told = &ran.err;
    for words in [
        "WARNING: the checkpoint of step 100 was NOT saved: cannot write",
        "raise the limit",
        "tried again after step 200, and until then the newest is of step 2",
        "WARNING: the checkpoint of step 200 was NOT saved",
        "tried again after step 202",
        "once that is mended, `packscan train --resume run` goes on from step 2",
    ] {
        assert!(told.contains(words), "{words:?} is not in\n{told}");
    }
    // The run went on to its end; that its last checkpoint is not there is an error.
    assert_eq!(ran.code, 2, "{told}");
    assert!(
        told.contains("step 202/202") && told.contains("its last checkpoint, of step 202, was NOT saved"),
        "{told}"
    );
    assert_eq!(metrics(&bench.path("run")).len(), 202);
    assert_eq!(bench.names("run"), [".lock", "metrics.jsonl", "run.html", "run.toml", "step-00000002"]);
    assert_eq!(bench.names("run/step-00000002"), saved);
    bench.good("eval run text/lib.rs");
}

/// Text that is in the cache already, and steps whose lines are more than a file may hold.
#[test]
#[cfg(unix)]
fn records_that_cannot_be_written_are_told_once_and_not_claimed() {
    let bench = Bench::new();
    let run = "train text --model model.toml --tokens 64 --keep 0";
    bench.good(&format!("{run} --steps 1 -o other"));
    let ran = bench.limited(16, &format!("{run} --steps 60 -o run"));
    assert_eq!(ran.code, 0, "{ran:#?}");
    let warnings: Vec<&str> = ran.err.lines().filter(|line| line.contains("WARNING")).collect();
    let [first, last, page] = warnings[..] else { panic!("{warnings:#?}") };
    let starts = |line: &str, file: &str| line.contains(&format!("cannot write run/{file}: "));
    assert!(starts(first, "metrics.jsonl") && first.contains("the run goes on"), "{first}");
    assert!(starts(last, "metrics.jsonl") && last.contains("what metrics.jsonl should have is NOT there"), "{last}");
    assert!(starts(page, "run.html") && page.contains("NOT there"), "{page}");
    assert!(ran.err.contains("done: no checkpoint was kept") && !ran.err.contains("shows the run"), "{}", ran.err);
    assert_eq!(bench.names("run"), [".lock", "metrics.jsonl", "run.toml"]);
    // Whole lines, as many as there was room for.
    let text = fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n') && metrics(&bench.path("run")).len() == text.lines().count());
    assert!((5..60).contains(&text.lines().count()), "{text}");
}
