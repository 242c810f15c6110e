//! `packscan verify`: that it passes what is right, fails what is wrong, and says how to see it again.

mod common;

use common::{Ran, command, finish, run};

#[test]
fn the_cpu_path_holds_every_property() {
    let ran = run("verify --quick --op selective-scan --state 3 --dtype f32 --device cpu");
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.out.contains("4 variants") && ran.out.contains("all properties held"), "{}", ran.out);
    for property in ["watched", "agreement", "isolation", "invariance", "determinism"] {
        assert!(ran.out.contains(property), "{}", ran.out);
    }
}

#[test]
fn the_emulator_holds_every_property_and_says_which_compiler() {
    let ran = run("verify --quick --op selective-scan --cases 1 --state 1 --dtype f16 --device emulator");
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.err.contains("NVRTC ") && ran.out.contains("by NVRTC "), "{ran:#?}");
}

/// The command after `once more`, without what starts packscan.
fn replay(ran: &Ran) -> Vec<String> {
    let line = ran.out.lines().find_map(|line| line.trim_start().strip_prefix("once more"));
    let words = line.expect("a command").split_whitespace().map(|word| word.trim_matches('\'').to_owned());
    words.skip_while(|word| word != "verify").collect()
}

#[test]
fn a_skipped_reset_is_caught_and_can_be_seen_again() {
    let ran = run("verify --quick --fault skip-reset --state 8 --dtype f32");
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(ran.err.contains("fault skip-reset injected into every selective_scan_fwd kernel"), "{}", ran.err);
    assert!(ran.out.contains("fault skip-reset was caught in 2 of 2 suites"), "{}", ran.out);
    assert!(ran.out.contains("FAILED"), "{}", ran.out);

    let words = replay(&ran);
    assert!(words.contains(&"--fault".to_owned()), "{words:?}");
    let mut again = command();
    again.args(&words);
    let again = finish(again);
    assert_eq!(again.code, 1, "{again:#?}");
    assert_eq!(replay(&again), words, "the case stays the smallest");

    let mut without = command();
    without.args(&words[..words.len() - 2]);
    let without = finish(without);
    assert_eq!(without.code, 0, "the kernel itself is right: {without:#?}");
}

#[test]
fn faults_are_listed_as_what_they_change() {
    let ran = run("verify --fault list");
    assert_eq!(ran.code, 0, "{ran:#?}");
    for fault in ["skip-reset", "multiply-reset", "boundary-off-by-one", "lost-carry", "drop-barrier-1"] {
        assert!(ran.out.lines().any(|line| line == fault), "{fault} is not in\n{}", ran.out);
    }
    assert!(ran.out.contains("    - "), "{}", ran.out);
}

#[test]
fn doctor_finds_what_the_emulator_needs() {
    let ran = run("doctor");
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(ran.out.contains("NVRTC") && ran.out.contains("cache"), "{}", ran.out);
}

#[test]
fn help_and_version() {
    for arguments in ["--help", "gen --help", "verify --help", "doctor --help", "--version"] {
        assert_eq!(run(arguments).code, 0, "{arguments}");
    }
    assert_eq!(run("").code, 2, "no command is no work done");
}
