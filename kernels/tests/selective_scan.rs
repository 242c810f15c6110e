//! What the scan's declaration promises: ids, text, rules, and what bad calls get.

use packscan_kernels::selective_scan::{self as scan, Forward, Problem, default_backward, default_variant, variants};
use packscan_runtime::kernel;
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result};

fn problem(state: usize, channels: usize, options: bool) -> Problem {
    Problem {
        channels,
        state,
        io: Dtype::Bf16,
        softplus: options,
        bias: options,
        skip: options,
        gate: options,
        initial: options,
        last: options,
        checkpoints: options,
    }
}

#[test]
fn an_id_round_trips() {
    for variant in variants(&problem(24, 70, true)).iter().chain(&variants(&problem(1, 8, false))) {
        assert_eq!(variant.to_string().parse::<Forward>().unwrap(), *variant);
    }
    let id = "selective_scan_fwd-n16-l32-k8-s2-c64-b1-v4-bf16-softplus-bias-skip-gate-checkpoints";
    assert_eq!(id.parse::<Forward>().unwrap().to_string(), id);
}

#[test]
fn a_text_that_is_no_id_is_refused_with_the_place() {
    for (id, place) in [
        ("scan-n16", "must start with selective_scan_fwd"),
        ("selective_scan_fwd-n16-l32", "where distance (k) belongs"),
        ("selective_scan_fwd-n16-l32-s2-c64-b1-v4-bf16", "where distance (k) belongs"),
        ("selective_scan_fwd-n016-l32-k32-s2-c64-b1-v4-bf16", "\"n016\""),
        ("selective_scan_fwd-n16-l32-k32-s2-c64-b1-v4-int8", "\"int8\""),
        ("selective_scan_fwd-n16-l32-k32-s2-c64-b1-v4-bf16-gate-softplus", "\"softplus\""),
    ] {
        let error = id.parse::<Forward>().unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
    }
}

#[test]
fn every_state_size_has_a_variant_for_every_width() {
    let device = Device::emulator(0);
    for state in 1..=1024 {
        for channels in [1, 2, 23, 64, 4096, 100_000] {
            let variant = default_variant(&problem(state, channels, true));
            device.check(&variant).unwrap();
            assert!(channels.is_multiple_of(variant.vec as usize));
            let backward = default_backward(&problem(state, channels, true));
            device.check(&backward).unwrap();
            assert!(channels.is_multiple_of(backward.vec as usize));
        }
    }
}

#[test]
fn broken_rules_are_named_with_value_and_cure() {
    let good = default_variant(&problem(16, 64, false));
    let refusal = |variant: Forward| Device::emulator(0).check(&variant).unwrap_err().to_string();
    for (variant, words) in [
        (Forward { state: 0, ..good }, "state is 0, but it must be from 1 to 1024; take 1"),
        (Forward { state: 1025, ..good }, "state is 1025, but it must be from 1 to 1024; take 1024"),
        (Forward { lanes: 3, ..good }, "lanes is 3, but it must be one of [1, 2, 4, 8, 16, 32]"),
        (Forward { lanes: 32, ..good }, "a channel has only 16 states to share"),
        (Forward { state: 256, lanes: 2, ..good }, "take at least 4 lanes"),
        (Forward { channels: 6, ..good }, "channels is 6"),
        (Forward { channels: 1024, ..good }, "at most 1024 threads"),
        (Forward { vec: 8, io: Dtype::F32, ..good }, "one load moves at most 16 bytes"),
        (Forward { chunk: 30, ..good }, "chunk is 30"),
        (Forward { chunk: 1024, distance: 1024, ..good }, "a shorter chunk or a smaller block"),
        (
            Forward { distance: 8, ..good },
            "distance is 8, but a variant without checkpoints has the distance of its chunk; take 16",
        ),
        (good.saving_every(12), "a group of the 8 tokens that are summed at once; take 16"),
        (
            Forward { chunk: 40, ..good.saving_every(16) },
            "distance is 16, but a chunk of 40 tokens is a whole number of distances; take 8",
        ),
    ] {
        let error = refusal(variant);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_generated_text_is_as_reviewed() {
    let variant: Forward = "selective_scan_fwd-n24-l16-k16-s4-c32-b1-v2-f16-softplus-gate-final".parse().unwrap();
    let text = kernel::source(&variant);
    // The bodies are files of their own; what is generated stands around them.
    let generated: Vec<&str> = text.split("#line 1 \"").filter(|part| !part.contains(".cuh\"\n")).collect();
    insta::assert_snapshot!(generated.join("#line 1 \""));
}

/// Tensors of one small call on the CPU.
struct Call {
    device: Device,
    u: Buffer,
    a: Buffer,
    b: Buffer,
    out: Buffer,
}

const D: usize = 4;
const N: usize = 3;
const T: usize = 5;

impl Call {
    fn new() -> Call {
        let device = Device::Cpu;
        let filled = |len| Buffer::from_f32(&device, Dtype::F32, &vec![0.5; len]).unwrap();
        let (u, a, b, out) = (filled(T * D), filled(D * N), filled(T * N), filled(T * D));
        Call { device, u, a, b, out }
    }

    fn inputs(&self) -> scan::Inputs<'_> {
        let (u, b) = (self.u.rows(T).unwrap(), self.b.rows(T).unwrap());
        let a = self.a.rows(D).unwrap();
        let none = None;
        scan::Inputs { u, delta: u, a, b, c: b, d_skip: none, delta_bias: none, z: none, initial_state: none }
    }

    fn outputs(&self) -> scan::Outputs<'_> {
        scan::Outputs { out: self.out.rows(T).unwrap(), final_state: None, checkpoints: None }
    }

    fn run(&self, packed: &Packed, inputs: &scan::Inputs<'_>, outputs: &scan::Outputs<'_>) -> Result<()> {
        let options = Problem { io: Dtype::F32, ..problem(N, D, false) };
        let variant = default_variant(&options);
        scan::forward(&packed.on(&self.device)?, &variant, None, inputs, outputs).map(drop)
    }

    fn refusal(&self, inputs: &scan::Inputs<'_>, outputs: &scan::Outputs<'_>) -> String {
        self.run(&Packed::from_lengths(&[2, 3]).unwrap(), inputs, outputs).unwrap_err().to_string()
    }
}

#[test]
fn a_good_call_runs_and_bad_ones_are_refused_by_tensor() {
    let call = Call::new();
    let (inputs, outputs) = (call.inputs(), call.outputs());
    let packed = Packed::from_lengths(&[2, 3]).unwrap();
    call.run(&packed, &inputs, &outputs).unwrap();

    let short = Buffer::from_f32(&call.device, Dtype::F32, &[0.5; T * N - N]).unwrap();
    let error = call.refusal(&scan::Inputs { b: short.rows(T - 1).unwrap(), ..inputs }, &outputs);
    assert!(
        error.starts_with("b [T, state]") && error.contains("4 rows of 3") && error.contains("5 rows of 3"),
        "{error}"
    );

    let half = Buffer::from_f32(&call.device, Dtype::F16, &[0.5; T * D]).unwrap();
    let error = call.refusal(&scan::Inputs { delta: half.rows(T).unwrap(), ..inputs }, &outputs);
    assert!(error.starts_with("delta [T, D]") && error.contains("it holds f16; it must hold f32"), "{error}");

    let error = call.refusal(&inputs, &scan::Outputs { out: inputs.u, ..outputs });
    assert!(error.starts_with("out [T, D]") && error.contains("it overlaps u"), "{error}");

    let error = call.refusal(&scan::Inputs { z: Some(inputs.u), ..inputs }, &outputs);
    assert!(error.starts_with("z [T, D]") && error.contains("it was given"), "{error}");

    let elsewhere = Device::emulator(0);
    let other = Buffer::from_f32(&elsewhere, Dtype::F32, &[0.5; T * D]).unwrap();
    let error = call.refusal(&scan::Inputs { u: other.rows(T).unwrap(), ..inputs }, &outputs);
    assert!(error.contains("it is on the emulator") && error.contains("put both on one device"), "{error}");

    let continued = packed.clone().with_continued(&[false, true]).unwrap();
    let error = call.run(&continued, &inputs, &outputs).unwrap_err().to_string();
    assert!(error.contains("sequence 1 is continued") && error.contains("initial_state"), "{error}");
}
