//! Bad input gets a message that names field, value, rule and cure, exit code 2, and never a panic.

mod common;

use std::fs;

use common::{Ran, command, finish, refused, run};

#[test]
fn state_sizes_outside_1_to_1024() {
    refused(&run("gen --state 0"), &["state is 0", "from 1 to 1024", "take 1"]);
    refused(&run("gen --state 1025"), &["state is 1025", "from 1 to 1024", "take 1024"]);
    refused(&run("verify --device cpu --state 0"), &["state is 0", "from 1 to 1024", "take 1"]);
    refused(&run("verify --device cpu --state 1025"), &["state is 1025", "take 1024"]);
    refused(&run("gen --state -3"), &["-3"]);
    refused(&run("verify --state many"), &["many", "--state"]);
}

#[test]
fn sizes_that_no_call_has() {
    for size in ["0", "-1", "2147483648", "many"] {
        refused(&run(&format!("gen --emit stats --tokens={size}")), &["--tokens", size, "from 1 to 2147483647"]);
        refused(&run(&format!("gen --op causal-conv1d --width={size}")), &["--width", size, "from 1 to 2147483647"]);
    }
}

#[test]
fn a_fault_in_a_kernel_that_is_left_out() {
    let elsewhere = ["fault skip-reset is in selective_scan_fwd", "--op selective-scan"];
    refused(&run("verify --op rms-norm --fault skip-reset"), &elsewhere);
    let variant = "causal_conv1d_fwd-k4-l32-a4-w4-p32-v8-b1-bf16-silu-bias";
    refused(&run(&format!("verify --variant {variant} --fault skip-reset")), &[variant, elsewhere[0], elsewhere[1]]);
}

#[test]
fn a_chunk_that_does_not_fit() {
    let words = ["shared memory is", "a block on sm_90 has at most 232448", "shorter chunk"];
    refused(&run("gen --state 64 --chunk 1024"), &words);
    refused(&run("gen --chunk 4"), &["chunk is 4", "from 8 to 1024", "take 8"]);
    let chunk_for_hopper = "gen --state 16 --chunk 256 --lanes 4 --channels 32";
    assert_eq!(run(chunk_for_hopper).code, 0);
    refused(&run(&format!("{chunk_for_hopper} --arch sm_75")), &["a block on sm_75 has at most 65536"]);
}

#[test]
fn a_type_that_the_architecture_does_not_know() {
    refused(&run("gen --emit ptx --arch sm_75"), &["io is bf16", "sm_75 does not know", "take f16 or f32"]);
    refused(&run("gen --op cast --arch sm_75"), &["to is bf16", "sm_80 and later"]);
    assert_eq!(run("gen --emit ptx --arch sm_75 --dtype f16 --chunk 16").code, 0);
}

#[test]
fn mappings_that_break_rules() {
    refused(&run("gen --lanes 3"), &["lanes is 3", "one of [1, 2, 4, 8, 16, 32]", "take"]);
    refused(&run("gen --lanes 0"), &["lanes is 0", "take 1"]);
    refused(&run("gen --state 3 --lanes 4"), &["lanes is 4", "only 3 states", "at most 3"]);
    refused(&run("gen --state 1024 --lanes 8"), &["lanes is 8", "64 at most", "take at least 16"]);
    refused(&run("gen --lanes 1 --channels 33 --vec 1"), &["channels is 33", "multiple of 32", "take 64"]);
    refused(&run("gen --vec 8 --dtype f32"), &["vec is 8", "16 bytes", "take 4"]);
}

#[test]
fn text_that_cannot_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let pack = |arguments: &str| {
        let mut command = command();
        command.env("PACKSCAN_CACHE", folder.path().join("cache")).current_dir(folder.path());
        command.arg("pack").args(arguments.split_whitespace());
        finish(command)
    };
    fs::write(folder.path().join("a.jsonl"), "{\"text\": \"x\"}\n{\"body\": \"y\"}\n").unwrap();
    fs::write(folder.path().join("b.txt"), b"caf\xe9").unwrap();
    fs::write(folder.path().join("good.txt"), "good").unwrap();
    refused(&pack(""), &["no files were named", "packscan pack docs/"]);
    refused(&pack("absent"), &["absent cannot be read"]);
    refused(&pack("a.jsonl"), &["a.jsonl, line 2", "no field \"text\"", "--text-field", "--skip-bad"]);
    refused(&pack("b.txt"), &["b.txt: byte 3 is not valid UTF-8"]);
    refused(
        &pack("good.txt --tokenizer a.jsonl"),
        &["a.jsonl is no tokenizer", "tokenizer.json of a Hugging Face model"],
    );
    refused(&pack("good.txt --tokens 1"), &["tokens is 1"]);
    refused(&pack("good.txt --window 0"), &["window is 0"]);
    refused(&pack("good.txt --batch 0"), &["batch is 0"]);
    refused(&pack("good.txt --batch 4 --strategy single"), &["--batch does nothing without --strategy padded"]);
    refused(
        &pack("good.txt --window 4 --strategy split,padded"),
        &["--window does nothing without --strategy best-fit"],
    );
    refused(&run("bench --step --model tiny --cpu --batch 4"), &["--batch does nothing without --scheme padded"]);
    refused(&pack("good.txt --strategy best"), &["best", "first-fit"]);
}

#[test]
fn unknown_names() {
    let known = [
        ("gen --op conv", "selective-scan"),
        ("gen --pass sideways", "forward"),
        ("gen --dtype f64", "f32, f16, bf16"),
        ("gen --dtype u32", "f32, f16, bf16"),
        ("gen --arch volta", "sm_90"),
        ("gen --gpu voodoo", "h200, a100, rtx4090"),
        ("gen --emit exe", "cuda"),
        ("gen --options speed", "all, none, softplus"),
        ("gen --id selective_scan_fwd-n0", "names no variant"),
        ("verify --op conv", "all, selective-scan"),
        ("verify --dtype f64", "f32, f16, bf16"),
        ("verify --device tpu", "emulator"),
        ("verify --fault gremlin", "skip-reset, multiply-reset"),
        ("verify --variant scan-n16", "names no variant"),
    ];
    for (arguments, expected) in known {
        let name = arguments.split_whitespace().last().expect("a name");
        refused(&run(arguments), &[name, expected]);
    }
}

#[test]
fn ids_of_variants_that_cannot_be_built() {
    refused(&run("gen --op sum-rows --pass backward"), &["backward", "forward, tokens, several"]);
    refused(&run("gen --op rms-norm --lanes 32"), &["--lanes", "selective scan", "rms-norm", "--id"]);
    refused(&run("gen --op rms-norm --width 100000"), &["width is 100000", "take 65536"]);
    refused(&run("gen --id selective_scan_fwd-n16-l32-k32-s32-c64-b1-v2-bf16"), &["lanes is 32", "only 16 states"]);
    let id = "selective_scan_fwd-n1025-l32-k32-s32-c8-b1-v1-bf16";
    refused(&run(&format!("verify --variant {id}")), &["state is 1025", "take 1024"]);
}

#[test]
fn cases_that_are_none() {
    let id = "selective_scan_fwd-n1-l8-k8-s1-c32-b1-v1-f32";
    let with = |case: &str| run(&format!("verify --device cpu --variant {id} --case {case}"));
    refused(&with("tuesday"), &["tuesday", "3,0,17+/d70/g2/p1/x42"]);
    refused(&with("3/d0/g1/p0/x1"), &["3/d0/g1/p0/x1"]);
    refused(&with("99999999999/d1/g1/p0/x1"), &["lengths", "at most 2147483647"]);
    refused(&with("1000000/d1000000/g1/p0/x1"), &["fewer tokens or channels"]);
    refused(&run("verify --device cpu --case 3/d1/g1/p0/x1"), &["--variant"]);
}

#[test]
fn a_fault_needs_a_kernel() {
    refused(
        &run("verify --device cpu --fault skip-reset"),
        &["skip-reset", "the CPU path has none", "--device emulator"],
    );
}

#[test]
fn a_cache_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("a file");
    for arguments in ["gen --emit ptx", "verify --quick --state 1 --dtype f32 --device emulator"] {
        let mut command = command();
        command.args(arguments.split_whitespace()).env("PACKSCAN_CACHE", file.join("cache"));
        refused(&finish(command), &["cache", "set PACKSCAN_CACHE to a folder that can be written"]);
    }
}

#[test]
fn an_output_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("a file");
    let mut command = command();
    command.arg("gen").arg("-o").arg(file.join("folder"));
    refused(&finish(command), &["cannot be written", "-o"]);
}

#[test]
fn a_setting_that_names_nothing() {
    let mut command = command();
    command.args(["gen", "--emit", "ptx"]).env("PACKSCAN_NVRTC", "/nowhere/libnvrtc.so");
    refused(&finish(command), &["PACKSCAN_NVRTC is /nowhere/libnvrtc.so", "nothing is there", "unset it"]);
}

/// A machine without NVRTC or Python that may not fetch anything.
fn offline(arguments: &str) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = command();
    command.args(arguments.split_whitespace());
    for variable in ["LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "PACKSCAN_NVRTC"] {
        command.env_remove(variable);
    }
    command.env("PATH", folder.path()).env("PACKSCAN_CACHE", folder.path()).env("PACKSCAN_OFFLINE", "1");
    finish(command)
}

#[test]
fn no_nvrtc_while_offline() {
    let doctor = offline("doctor");
    if doctor.code == 0 {
        eprintln!("skipped: NVRTC is on the loader path of this machine, so it is never missing\n{}", doctor.out);
        return;
    }
    assert_eq!(doctor.code, 1, "{doctor:#?}");
    assert!(doctor.out.contains("pip install nvidia-cuda-nvrtc"), "{}", doctor.out);
    let words = ["NVRTC was not found", "looked in:\n", "PACKSCAN_OFFLINE", "pip install nvidia-cuda-nvrtc"];
    refused(&offline("gen --emit ptx"), &words);
    refused(&offline("verify --quick --state 1 --dtype f32"), &words);
}
