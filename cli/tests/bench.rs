//! `packscan bench`: what it refuses, what it prints and draws of recorded times, whole steps on the CPU.

mod common;

use std::fs;

use common::{refused, run};
use packscan::Device;
use serde_json::Value;

/// Medians from docs/performance.md, one H200. What was not recorded with them, spreads and errors, is filled in.
const RECORDED: &str = "tests/data/bench.json";

#[test]
fn without_a_gpu_it_says_that_it_needs_one_and_what_does_not() {
    if Device::cuda(0).is_ok() {
        println!("skipped: there is a GPU");
        return;
    }
    let words = ["bench needs an NVIDIA GPU", "--step --model tiny --cpu", "gen --emit stats"];
    refused(&run("bench"), &words);
    refused(&run("bench cast --tokens 100 --json"), &words);
    refused(&run("bench --step --model 130m"), &words);
}

#[test]
fn operators_passes_and_variants_that_there_are_not() {
    refused(&run("bench scan"), &["unknown operator \"scan\"", "selective-scan"]);
    refused(&run("bench selective_scan"), &["unknown operator", "selective-scan"]);
    refused(&run("bench --pass sideways"), &["unknown pass \"sideways\"", "backward", "forward"]);
    refused(&run("bench cast --pass backward"), &["has a pass backward", "leave out --pass"]);
    refused(&run("bench rms_norm_fwd-m2048-s128-r16-v4-bf16"), &["rows is 16", "at most 1024 threads", "take 8"]);
    refused(&run("bench rms_norm_fwd-m2048"), &["names no variant"]);
    refused(&run("bench --state 2000 selective-scan"), &["state is 2000", "from 1 to 1024"]);
}

#[test]
fn arguments_that_do_not_go_together() {
    refused(&run("bench --step"), &["--model"]);
    refused(&run("bench --step --model tiny --pass forward"), &["--pass", "--step"]);
    refused(&run("bench --step --model tiny --svg a.svg"), &["--svg", "--step"]);
    refused(&run("bench --step --model tiny --cpu --steps 2"), &["--steps", "3"]);
    refused(&run("bench --step --model 3b --cpu"), &["3b", "2.8b"]);
    for alone in ["--scheme single", "--cpu", "--recompute full", "--memory 5GB", "--steps 5"] {
        refused(&run(&format!("bench {alone}")), &["--step"]);
    }
    refused(&run("bench --model 130m --channels 64"), &["--model", "--channels"]);
    refused(&run("bench --from x.json --tokens 5"), &["--from", "--tokens"]);
    refused(&run("bench --from x.json --cut 5"), &["--from", "--cut"]);
    refused(&run("bench --step --model tiny --cut auto"), &["--cut", "--step"]);
    refused(&run("bench selective-scan --cut 128,half"), &["--cut", "half", "or auto or none"]);
    let state = "selective_scan_state-n16-l32-s2-c64-b4-v4-bf16-softplus-bias";
    refused(&run(&format!("bench {state} selective-scan")), &[state, "nothing is cut", "--cut auto"]);
    refused(&run("bench --tokens 0"), &["--tokens", "1 to"]);
}

#[test]
fn files_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let path = file.display();
    refused(&run(&format!("bench --lengths {path}")), &["cannot be read", "number"]);
    refused(&run(&format!("bench --from {path}")), &["cannot be read"]);
    fs::write(&file, "57\n6x\n").unwrap();
    refused(&run(&format!("bench --lengths {path}")), &["line 2", "\"6x\""]);
    refused(&run(&format!("bench --from {path}")), &["is no recorded bench", "bench --json"]);
    let drawn = run(&format!("bench --from {RECORDED} --svg {}/no/such.svg", folder.path().display()));
    assert_eq!(drawn.code, 2);
    assert!(drawn.err.contains("such.svg cannot be written") && drawn.err.contains("--svg"), "{}", drawn.err);
}

#[test]
fn recorded_times_are_shown_as_a_table_and_as_they_were() {
    let shown = run(&format!("bench --from {RECORDED}"));
    assert_eq!(shown.code, 0, "{shown:?}");
    for words in ["65,536 tokens in 89 sequences, D = 4,096, N = 16, bf16, NVIDIA H200", "4.28 TB/s as a copy reaches"]
    {
        assert!(shown.out.contains(words), "{}", shown.out);
    }
    let row = shown.out.lines().find(|line| line.starts_with("selective_scan_fwd-n16")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells[1..],
        "2.100 2.100 to 2.100 1.220 58 % 1,025 special functions 0.50".split(' ').collect::<Vec<_>>()
    );

    let again = run(&format!("bench --from {RECORDED} --json"));
    let [read, printed]: [Value; 2] =
        [fs::read_to_string(RECORDED).unwrap(), again.out].map(|text| serde_json::from_str(&text).unwrap());
    assert_eq!(read, printed);
    let scan = &printed["rows"][0];
    assert_eq!((&scan["operator"], &scan["pass"]), (&Value::from("selective-scan"), &Value::from("forward")));
    for field in ["id", "median_ms", "least_ms", "most_ms", "launches", "floor_ms", "limit", "bytes", "worst_error"] {
        assert!(!scan[field].is_null(), "{field}");
    }
}

#[test]
fn the_roofline_names_every_kernel_that_computes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roofline.svg");
    let drawn = run(&format!("bench --from {RECORDED} --svg {}", path.display()));
    assert_eq!(drawn.code, 0, "{drawn:?}");
    assert!(drawn.err.contains("drawn: "), "{}", drawn.err);
    let svg = fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    for name in ["Kernels on one NVIDIA H200", "selective-scan forward 58 %", "causal-conv1d backward 62 %"] {
        assert!(svg.contains(name), "{name} is not in {svg}");
    }
    assert!(svg.contains(">special functions of selective-scan forward<"));
    assert!(!svg.contains(">embedding forward"), "it computes nothing, so it has no place");
    // Each of ten kernels is a dot in one path.
    let dots = svg.lines().rfind(|line| line.contains("class=\"dots second\"")).unwrap();
    assert_eq!(dots.matches("a4 4 0 1 0 8 0").count(), 10, "{dots}");
}

#[test]
fn whole_steps_run_on_the_cpu_in_every_scheme() {
    for scheme in ["packed", "single", "padded"] {
        let ran = run(&format!("bench --step --model tiny --cpu --tokens 1024 --steps 4 --scheme {scheme} --json"));
        assert_eq!(ran.code, 0, "{ran:?}");
        let measured: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!((&measured["scheme"], &measured["model"]), (&Value::from(scheme), &Value::from("tiny")));
        for field in ["median_ms", "tokens_per_second", "tera_operations_per_second", "peak_bytes", "last_loss"] {
            assert!(measured[field].as_f64().unwrap() > 0.0, "{field} in {measured}");
        }
        assert_eq!(measured["padding"].as_f64().unwrap() > 0.0, scheme == "padded", "{measured}");
        assert!(measured["profile"].is_null() && measured["flops_utilisation"].is_null());
    }
    let ran = run("bench --step --model tiny --cpu --tokens 256 --steps 4 --recompute full");
    assert!(ran.out.contains("recompute full in 4 blocks") && ran.out.contains("tokens/s"), "{ran:?}");
    assert!(ran.err.contains("step 4/4"), "{ran:?}");
    refused(&run("bench --step --model tiny --cpu --memory 1MB"), &["no pack would fit"]);
}
