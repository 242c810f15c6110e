//! Every workload runs, agrees with the book on a slice, and says what it needs at least. At small sizes, on the CPU and on the emulator:
//! what is checked is that each hands its operator and the book the same numbers.

use packscan_kernels::selective_scan::{State, default_state};
use packscan_runtime::{Device, Dtype};
use packscan_tune::Error;
use packscan_tune::workload::{Bench, Cut, Problem, natural_lengths, passes, read_lengths, timing};

/// Two sequences and an empty one, sizes that no tile divides.
fn problem(io: Dtype) -> Problem {
    Problem {
        vocabulary: 120,
        logits_rows: 9,
        parameters: 70_000,
        decays: 100,
        ..Problem::of_channels(vec![40, 0, 33], 24, 16, io)
    }
}

#[test]
fn every_pass_agrees_with_the_book_on_a_slice_also_after_it_ran() {
    for (device, io) in [(Device::Cpu, Dtype::F32), (Device::Cpu, Dtype::Bf16), (Device::emulator(0), Dtype::Bf16)] {
        let bench = Bench::new(&device, problem(io)).unwrap();
        for pass in passes() {
            let id = bench.problem().hand_picked(pass.kernel).unwrap();
            let mut workload = bench.workload(&id).unwrap_or_else(|error| panic!("{id}: {error}"));
            assert_eq!(workload.id(), id);
            let before = workload.check().unwrap();
            timing::times(&device, 2, || workload.run()).unwrap();
            // What is updated in place is written anew, so nothing is left of those runs.
            assert_eq!(workload.check().unwrap(), before, "{id}");
            assert!(workload.floor().bytes > 0.0, "{id}");
        }
    }
}

/// A scan over cut sequences is checked by the formula that it follows, whatever finds the states of its segments.
#[test]
fn cut_scans_agree_with_the_book_on_a_slice() {
    let bench = Bench::new(&Device::emulator(0), problem(Dtype::Bf16)).unwrap();
    for (kernel, reverse) in [("selective_scan_fwd", false), ("selective_scan_bwd", true)] {
        let id = bench.problem().hand_picked(kernel).unwrap();
        let picked = default_state(&bench.problem().scan(), 1, reverse);
        for (segment, state) in [(7, None), (16, Some(State { chunk: 8, ..picked }))] {
            let mut workload = bench.cut_workload(&id, Some(&Cut { segment, state })).unwrap();
            workload.run().unwrap();
            let worst = workload.check().unwrap_or_else(|error| panic!("{error}"));
            assert!(worst > 0.0, "something was compared");
        }
        let other = Cut { segment: 7, state: Some(State { reverse: !reverse, gate: false, ..picked }) };
        let told = bench.cut_workload(&id, Some(&other)).err().expect("it is refused").to_string();
        assert!(told.contains("has reverse"), "{told}");
    }
    assert_eq!(bench.segment_for(&bench.problem().hand_picked("selective_scan_fwd").unwrap()).unwrap(), None, "no GPU");
}

/// States and histories of other packs are options that a variant may have, so a workload of it has them too.
#[test]
fn variants_with_every_option_are_workloads() {
    let bench = Bench::new(&Device::Cpu, problem(Dtype::F32)).unwrap();
    for id in [
        "selective_scan_fwd-n16-l8-k8-s2-c16-b1-v1-f32-initial-final",
        "selective_scan_bwd-n16-l8-k8-s2-w1-c16-b1-v1-f32-softplus-bias-skip-gate-initial-final",
        "causal_conv1d_fwd-k4-l8-a4-w4-p8-v4-b1-f32-silu-bias-initial-final",
        "causal_conv1d_bwd-k4-l8-a4-w4-p8-v4-b1-f32-silu-bias-initial-final",
        "rms_norm_fwd-m12-s32-r4-v4-f32",
        "rms_norm_bwd-m12-s32-r4-v4-f32-dx",
        "adamw-b256-v4-f32-f16",
        "adamw-b256-v4-f32-bf16-split",
    ] {
        let mut workload = bench.workload(id).unwrap_or_else(|error| panic!("{id}: {error}"));
        workload.run().unwrap();
        workload.check().unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_result_that_is_wrong_is_told_and_not_timed() {
    let fault = packscan_verify::operators::fault("skip-reset").unwrap();
    let device = Device::emulator(0).sabotaged(fault).unwrap();
    let bench = Bench::new(&device, problem(Dtype::F32)).unwrap();
    let mut workload = bench.workload(&bench.problem().hand_picked("selective_scan_fwd").unwrap()).unwrap();
    let error = workload.check().unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, Error::Wrong { .. } | Error::Runtime(_)), "{told}");
    assert!(told.contains("selective_scan_fwd"), "{told}");
}

#[test]
fn variants_of_other_problems_are_refused() {
    let bench = Bench::new(&Device::Cpu, problem(Dtype::Bf16)).unwrap();
    let refused = |id: &str| bench.workload(id).err().expect("it is refused").to_string();
    let told = refused("selective_scan_fwd-n24-l32-k32-s4-c64-b1-v4-bf16-softplus");
    assert!(told.contains("has state 24") && told.contains("what is timed has 16"), "{told}");
    let told = refused("rms_norm_fwd-m768-s32-r4-v4-bf16");
    assert!(told.contains("has width 768") && told.contains("12"), "{told}");
    let told = refused("causal_conv1d_fwd-k4-l32-a4-w4-p32-v8-b1-f32");
    assert!(told.contains("vec is 8"), "{told}");
    let told = refused("softmax-b32");
    assert!(told.contains("it must start with selective_scan_fwd or"), "{told}");
    let error = bench.problem().hand_picked("softmax").unwrap_err().to_string();
    assert!(error.contains("unknown kernel \"softmax\"") && error.contains("adamw"), "{error}");
}

#[test]
fn lengths_fill_a_pack_or_come_from_a_file() {
    let lengths = natural_lengths(65_536, 0);
    assert_eq!(lengths.iter().sum::<usize>(), 65_536);
    let (last, rest) = lengths.split_last().unwrap();
    assert!(rest.iter().all(|length| (57..=2048).contains(length)) && *last <= 2048);
    assert!((70..120).contains(&lengths.len()), "{} sequences", lengths.len());
    assert_ne!(lengths, natural_lengths(65_536, 1));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lengths.txt");
    std::fs::write(&path, "12 0\n7\n").unwrap();
    assert_eq!(read_lengths(&path).unwrap(), [12, 0, 7]);
    std::fs::write(&path, "12\n-3\n").unwrap();
    let error = read_lengths(&path).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("\"-3\""), "{error}");
    let error = read_lengths(&folder.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("cannot be read") && error.contains("--lengths"), "{error}");
}
