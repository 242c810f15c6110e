//! The tuner on devices that every machine has: what it compiles and verifies is real, and its times are those of an emulator or a CPU.

use packscan_runtime::nvrtc::Arch;
use packscan_runtime::{Device, Dtype};
use packscan_tune::candidates::{carrying, slot};
use packscan_tune::tune::{Found, Hardware, Watch, tune};
use packscan_tune::workload::Problem;
use packscan_tune::{Error, Tuning};
use packscan_verify::operators;

struct Nobody;

impl Watch for Nobody {
    fn begin(&self, _: &'static str, _: usize) {}
    fn step(&self, _: &str) {}
    fn note(&self, _: &str) {}
}

fn problem() -> Problem {
    let sizes = Problem::of_channels(vec![5, 0, 11], 8, 3, Dtype::F32);
    Problem { parameters: 3000, vocabulary: 64, ..sizes }
}

/// Tunes one launch on an emulator, with a few candidates.
fn tuned(device: &Device, kernel: &str, seconds: f64) -> Found {
    let problem = problem();
    let picked = problem.hand_picked(kernel).unwrap();
    let mut slot = slot(kernel, &picked, &problem, Arch::default()).unwrap();
    slot.candidates.truncate(3);
    let tuning = Tuning::new(device, &problem).unwrap();
    let mut found = tune(&tuning, vec![vec![slot]], problem.tokens(), seconds, &Nobody).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn candidates_compile_verify_and_are_timed() {
    for kernel in ["adamw", "causal_conv1d_fwd"] {
        let Found { tuned, prediction, hand_picked, counts, .. } = tuned(&Device::emulator(0), kernel, 600.0);
        let best = tuned.unwrap();
        assert!(best.ms > 0.0 && best.is_fresh() && best.dropped.is_empty(), "{best:?}");
        assert!(best.runner_up.is_some() && hand_picked.is_some());
        assert_eq!(counts, (3, 3));
        assert!(prediction.unwrap().ms > 0.0);
    }
}

#[test]
fn a_broken_kernel_has_no_candidate_left_and_every_reason_is_told() {
    let fault = operators::faults().into_iter().find(|fault| fault.kernel == "adamw").expect("adamw has faults");
    let device = Device::emulator(0).sabotaged(fault).unwrap();
    let Found { tuned, .. } = tuned(&device, "adamw", 0.0);
    let error = tuned.unwrap_err();
    let Error::NoneLeft { dropped, .. } = &error else { panic!("{error}") };
    assert_eq!(dropped.len(), 1, "without time only the hand-picked one was looked at");
    assert!(error.to_string().contains(" failed ("), "the property is named: {error}");
}

/// What the launches of a step ask for beside what `hand_picked` answers.
const OTHERS: [&str; 4] = [
    "rms_norm_fwd-m4-s32-r4-v1-f32-sum-stats",
    "rms_norm_fwd-m4-s32-r4-v1-f32-residual",
    "rms_norm_bwd-m4-s32-r4-v1-f32-dresidual-dx",
    "adamw-b256-v4-f32-bf16-clip",
];

#[test]
fn every_launch_of_a_step_is_timed_and_confirmed_at_its_sizes() {
    let (device, problem) = (Device::Cpu, problem());
    let tuning = Tuning::new(&device, &problem).unwrap();
    let mut stopwatch = tuning.stopwatch().unwrap();
    let kernels = [
        "selective_scan_fwd",
        "selective_scan_bwd",
        "causal_conv1d_fwd",
        "causal_conv1d_bwd",
        "rms_norm_fwd",
        "rms_norm_bwd",
        "embedding_fwd",
        "embedding_bwd",
        "cross_entropy",
        "grad_norm",
        "adamw",
    ];
    let picked = kernels.map(|kernel| problem.hand_picked(kernel).unwrap());
    for id in picked.iter().map(String::as_str).chain(OTHERS) {
        slot("here", id, &problem, Arch::default()).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(stopwatch.launch(id, 3).unwrap_or_else(|error| panic!("{id}: {error}")).len(), 3);
        stopwatch.confirm(id).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(stopwatch.floor(id), None, "the roofs of a CPU are not known");
    }
    assert!(stopwatch.launch("rms_norm_fwd-m8-s32-r4-v1-f32-residual", 1).unwrap_err().contains("has width 8"));
}

#[test]
fn mappings_have_a_form_that_carries_states() {
    let problem = problem();
    let carries = |kernel: &str| carrying(&problem.hand_picked(kernel).unwrap());
    for kernel in ["selective_scan_fwd", "selective_scan_bwd", "causal_conv1d_fwd", "causal_conv1d_bwd"] {
        let id = carries(kernel).expect("it carries");
        assert!(id.contains("-initial-final"), "{id}");
        operators::job(&id).unwrap();
    }
    assert_eq!(carries("adamw"), None);
}
