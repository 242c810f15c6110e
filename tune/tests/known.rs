//! Which entries answer for a launch, and what is said of those that do not.

use packscan_runtime::Dtype;
use packscan_runtime::nvrtc::Arch;
use packscan_tune::file::{Tuned, TuningFile, digest};
use packscan_tune::known::{Answer, Known, Origin, shipped, teams};
use packscan_tune::tune::Team;
use packscan_tune::workload::Problem;

const GPU: &str = "NVIDIA Test 1";

fn problem() -> Problem {
    Problem::of_channels(vec![1000; 4], 4096, 16, Dtype::Bf16)
}

/// Teams of the loss and of the scan.
fn model() -> (Team, Team) {
    let ids = ["cross_entropy", "selective_scan_fwd", "selective_scan_bwd"];
    let ids = ids.map(|kernel| (kernel, problem().hand_picked(kernel).unwrap()));
    let mut teams = teams(ids.iter().map(|(name, id)| (*name, id.as_str())), &problem(), Arch::new(90)).unwrap();
    let loss = teams.pop().unwrap();
    let scan = teams.pop().unwrap();
    assert_eq!((scan.len(), loss.len()), (2, 1), "the passes of the scan are one team, and come first");
    (loss, scan)
}

fn entry(team: &Team, part: usize, id: &str) -> Tuned {
    Tuned {
        kernel: team[part].kernel.to_owned(),
        problem: team[part].problem.clone(),
        tokens: 4096,
        driver: "1.0".to_owned(),
        digest: digest(id).unwrap(),
        id: id.to_owned(),
        ms: 1.5,
        spread_ms: 0.1,
        runner_up: None,
        dropped: Vec::new(),
    }
}

fn answer(entries: &[Tuned], team: &Team, driver: &str, tokens: usize) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    TuningFile::of(folder.path(), GPU).add(entries).unwrap();
    let (known, said) = Known::open(folder.path(), GPU, driver).unwrap();
    assert_eq!(said, None);
    known.choose(team, tokens)
}

#[test]
fn what_was_tuned_answers_for_its_tokens_alone() {
    let (loss, _) = model();
    let id = loss[0].candidates[1].id.clone();
    let entries = [entry(&loss, 0, &id)];
    let choices = answer(&entries, &loss, "1.0", 3000).choices.expect("an answer");
    assert_eq!((choices[0].id.as_str(), choices[0].origin, choices[0].ms), (id.as_str(), Origin::Here, 1.5));
    assert_eq!(choices[0].slot, "cross_entropy");
    assert_eq!(answer(&entries, &loss, "1.0", 5000), Answer::default(), "other tokens: nothing to say");
    assert_eq!(answer(&[], &loss, "1.0", 3000), Answer::default());
}

#[test]
fn another_driver_or_text_is_passed_over_and_said() {
    let (loss, _) = model();
    let id = loss[0].hand_picked().to_owned();
    let good = entry(&loss, 0, &id);
    let told = answer(std::slice::from_ref(&good), &loss, "2.0", 4096);
    assert_eq!(told.choices, None);
    assert_eq!(told.passed_over, ["what was tuned here with driver 1.0 does not hold for driver 2.0"]);
    let stale = Tuned { digest: "0".repeat(64), ..good.clone() };
    let told = answer(&[stale], &loss, "1.0", 4096);
    assert_eq!(told.choices, None);
    assert_eq!(told.passed_over, ["what was tuned here for cross_entropy is of another version of the kernel"]);
    // Of two drivers the right one answers.
    let both = [good.clone(), Tuned { driver: "2.0".to_owned(), ms: 7.0, ..good }];
    assert_eq!(answer(&both, &loss, "2.0", 4096).choices.unwrap()[0].ms, 7.0);
}

#[test]
fn a_product_is_answered_for_its_driver_and_its_cublaslt() {
    let kind = "n8192-k2048-nt-bf16-bf16";
    let product = |driver: &str, prefix: &str, ms| Tuned {
        kernel: "gemm".to_owned(),
        problem: kind.to_owned(),
        tokens: 4096,
        driver: driver.to_owned(),
        digest: prefix.to_owned(),
        id: format!("{prefix}t4000-a66-t209"),
        ms,
        spread_ms: 0.1,
        runner_up: None,
        dropped: Vec::new(),
    };
    let entries = [product("1.0", "lt130100-", 1.0), product("2.0", "lt130200-", 2.0)];
    let folder = tempfile::tempdir().unwrap();
    TuningFile::of(folder.path(), GPU).add(&entries).unwrap();
    let ask = |driver: &str, kind: &str, tokens, prefix: &str| {
        let (known, _) = Known::open(folder.path(), GPU, driver).unwrap();
        known.product("in_proj", kind, tokens, prefix)
    };
    for (driver, prefix, ms) in [("1.0", "lt130100-", 1.0), ("2.0", "lt130200-", 2.0)] {
        let choices = ask(driver, kind, 3000, prefix).choices.expect("an answer");
        assert_eq!((choices[0].slot.as_str(), choices[0].ms, choices[0].origin), ("in_proj", ms, Origin::Here));
        assert_eq!(choices[0].id, format!("{prefix}t4000-a66-t209"));
    }
    for (driver, prefix) in [("1.0", "lt130200-"), ("3.0", "lt130100-")] {
        let told = ask(driver, kind, 3000, prefix);
        assert_eq!((told.choices, told.passed_over.len()), (None, 1), "{driver} {prefix}");
        assert!(told.passed_over[0].contains(&format!("driver {driver} and {prefix}")), "{:?}", told.passed_over);
    }
    for (kind, tokens) in [("n8192-k2048-nn-bf16-bf16", 3000), (kind, 5000)] {
        assert_eq!(ask("1.0", kind, tokens, "lt130100-"), Answer::default(), "{kind}, {tokens}");
    }
    assert!(entries[0].is_fresh());
    assert!(!Tuned { id: "lt130200-first".to_owned(), ..entries[0].clone() }.is_fresh());
}

#[test]
fn an_id_that_is_no_candidate_any_more_is_passed_over() {
    let (loss, _) = model();
    let told = answer(&[entry(&loss, 0, "cross_entropy-b32-k1-v1-bf16")], &loss, "1.0", 4096);
    assert!(told.choices.is_none() && told.passed_over.len() == 1, "{told:?}");
}

#[test]
fn the_passes_of_the_scan_answer_together_or_not_at_all() {
    let (_, scan) = model();
    let picked = [0, 1].map(|part| entry(&scan, part, scan[part].hand_picked()));
    assert_eq!(answer(&picked, &scan, "1.0", 4096).choices.unwrap().len(), 2);
    assert_eq!(answer(&picked[..1], &scan, "1.0", 4096), Answer::default(), "half an answer is none");
    let hand = &scan[0].candidates[0];
    let other = scan[0].candidates.iter().find(|candidate| candidate.group != hand.group).unwrap();
    let told = answer(&[entry(&scan, 0, &other.id), picked[1].clone()], &scan, "1.0", 4096);
    assert_eq!(told.choices, None);
    assert!(told.passed_over[0].contains("does not fit together"), "{told:?}");
}

#[test]
fn the_shipped_file_is_of_the_kernels_as_they_are() {
    let stale: Vec<String> = shipped().tuned.iter().filter(|t| !t.is_fresh()).map(|t| t.id.clone()).collect();
    assert!(
        stale.is_empty(),
        "tune/src/shipped/h200.toml was measured with other kernels, and is passed over: measure again on an H200, \
         `packscan tune --model SIZE --write-shipped tune/src/shipped/h200.toml`, or take out {stale:#?}"
    );
}

#[test]
fn what_ships_is_for_its_gpu_alone() {
    assert_eq!(shipped().gpu, "NVIDIA H200");
    let (loss, _) = model();
    assert_eq!(Known::shipped_alone("NVIDIA H2000", "1.0").choose(&loss, 4096), Answer::default());
}
