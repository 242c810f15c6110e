//! `packscan gen` in every form.

mod common;

use std::fs;

use common::{Ran, command, finish, run};

const VARIANT: &str = "--state 24 --chunk 32 --dtype bf16";

/// The id on the first line of generated text.
fn id(text: &str) -> &str {
    let first = text.lines().next().expect("a line");
    first.trim_start_matches("// ").split(':').next().expect("an id")
}

#[test]
fn cuda_text_names_its_numbers_and_needs_no_compiler() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = command();
    command
        .arg("gen")
        .args(VARIANT.split_whitespace())
        .env("PACKSCAN_OFFLINE", "1")
        .env("PACKSCAN_CACHE", folder.path());
    let ran = finish(command);
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert!(id(&ran.out).starts_with("selective_scan_fwd-n24-l32-"), "{}", id(&ran.out));
    for text in ["constexpr unsigned STATE = 24;", "constexpr unsigned CHUNK = 32;", "using io_t = bf16;", "#line 1"] {
        assert!(ran.out.contains(text), "{text}");
    }
    assert!(ran.err.is_empty(), "{}", ran.err);
}

#[test]
fn an_id_names_the_same_variant() {
    let by_numbers = run(&format!("gen {VARIANT} --options all")).out;
    assert_eq!(run(&format!("gen --id {}", id(&by_numbers))).out, by_numbers);
    let clash = run(&format!("gen --id {} --state 8", id(&by_numbers)));
    assert_eq!(clash.code, 2, "{clash:#?}");
}

#[test]
fn numbers_that_are_given_are_kept_and_others_follow() {
    for lanes in [4, 8, 16, 32] {
        let ran = run(&format!("gen --state 64 --lanes {lanes} --options none"));
        assert_eq!(ran.code, 0, "the other numbers still keep the rules: {ran:#?}");
        assert!(id(&ran.out).contains("-n64-") && id(&ran.out).contains(&format!("-s{lanes}-")), "{}", id(&ran.out));
    }
    let ran = run("gen --options none");
    assert!(ran.out.contains("constexpr bool SOFTPLUS = false;"));
    let odd = run("gen --width 4097");
    assert!(id(&odd.out).contains("-v1-"), "an odd width has no pairs of channels: {}", id(&odd.out));
}

#[test]
fn ptx_and_machine_code() {
    let ptx = run(&format!("gen {VARIANT} --emit ptx --arch sm_80"));
    assert_eq!(ptx.code, 0, "{ptx:#?}");
    assert!(ptx.out.contains(".target sm_80") && ptx.out.contains(".entry selective_scan_fwd_n24_l32_"));

    let mut cubin = command();
    cubin.args("gen --emit cubin".split_whitespace());
    let output = cubin.output().expect("the command starts");
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"\x7fELF"));
}

#[test]
fn files_go_where_they_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("new/folder");
    for (emit, ending) in [("cuda", "cu"), ("ptx", "ptx"), ("cubin", "cubin"), ("stats", "txt")] {
        let mut command = command();
        command.arg("gen").args(VARIANT.split_whitespace()).args(["--emit", emit, "-o"]).arg(&into);
        let ran = finish(command);
        assert_eq!(ran.code, 0, "{ran:#?}");
        let path = ran.out.trim_end();
        assert!(path.ends_with(&format!(".{ending}")), "{path}");
        assert!(fs::metadata(path).expect("the file").len() > 500);
    }
    assert_eq!(fs::read_dir(&into).expect("the folder").count(), 4);
}

/// The number beside a name in the table of `stats`.
fn value(ran: &Ran, name: &str) -> f64 {
    let line = ran.out.lines().find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{}", ran.out));
    let number = line.trim_start()[name.len()..].split_whitespace().next().expect("a value");
    number.replace(',', "").parse::<f64>().unwrap_or_else(|_| panic!("{line}"))
}

#[test]
fn stats_count() {
    let ran = run(&format!("gen {VARIANT} --emit stats"));
    assert_eq!(ran.code, 0, "{ran:#?}");
    let value = |name| value(&ran, name);
    assert!((16.0..=255.0).contains(&value("registers of a thread")));
    assert!((32.0..=1024.0).contains(&value("threads of a block")));
    assert!((1.0..=32.0).contains(&value("blocks of a multiprocessor")));
    // At least the product, the sum and the exponential; not a hundred.
    assert!((4.0..60.0).contains(&value("instructions of a lane, each (t, d, n)")));
    // One exponential a (t, d, n), and softplus and silu once a (t, d).
    assert!((1.0..1.6).contains(&value("special-function results, each (t, d, n)")));
    // u, delta and z are 2 bytes each, and B and C are shared by a block's channels.
    assert!((6.0..16.0).contains(&value("global bytes loaded, each (t, d)")));
    assert!(value("global bytes stored, each (t, d)") >= 2.0);
}

#[test]
fn a_time_is_predicted_for_either_pass_and_any_gpu() {
    let time = |arguments: &str| {
        let ran = run(&format!("gen --emit stats {arguments}"));
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert!(ran.out.contains("limited by  "), "{}", ran.out);
        value(&ran, "time")
    };
    let forward = time("--pass forward");
    assert!((1.0..5.0).contains(&forward), "{forward} ms");
    let backward = time("--pass backward");
    assert!((2.0 * forward..10.0 * forward).contains(&backward), "{backward} ms");
    assert!(time("--gpu a100") > forward);
    let short = time("--tokens 16384");
    assert!((3.0..5.0).contains(&(forward / short)), "{forward} and {short} ms");
}

/// The numbers of a pass are picked for the width, and its cost is told, whatever the operator.
#[test]
fn every_pass_of_every_operator_is_generated_and_costed() {
    for pass in &packscan_verify::operators::PASSES {
        let arguments = format!("gen --op {} --pass {} --width 2048", pass.operator, pass.name);
        let text = run(&arguments);
        assert_eq!(text.code, 0, "{text:#?}");
        assert_eq!(id(&text.out).split('-').next(), Some(pass.kernel));
        assert_eq!(run(&format!("gen --id {}", id(&text.out))).out, text.out);
        let stats = run(&format!("{arguments} --emit stats"));
        assert_eq!(stats.code, 0, "{stats:#?}");
        assert!(value(&stats, "registers of a thread") >= 8.0, "{}", stats.out);
        assert!(value(&stats, "global bytes loaded, each (t, d)") >= 1.0, "{}", stats.out);
        let (time, limit) = (value(&stats, "time"), stats.out.contains("limited by  "));
        assert!((0.001..100.0).contains(&time) && limit, "{}", stats.out);
    }
}
