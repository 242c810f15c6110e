//! What the convolution's declarations promise: ids, rules, what bad calls get, and that the hand-picked variants fit registers.

use packscan_kernels::causal_conv1d::{
    self as conv, Backward, Forward, Problem, Workspace, backward_variants, default_backward, default_variant, variants,
};
use packscan_runtime::kernel::{self, Variant};
use packscan_runtime::nvrtc::{Arch, Compile, Emit, compile_cached};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, Result};

fn problem(width: usize, channels: usize, options: bool) -> Problem {
    let (silu, bias, initial, last) = (options, options, options, options);
    Problem { channels, width, io: Dtype::Bf16, silu, bias, initial, last }
}

#[test]
fn an_id_round_trips() {
    for problem in [problem(4, 4096, true), problem(3, 23, false)] {
        for variant in variants(&problem) {
            assert_eq!(variant.to_string().parse::<Forward>().unwrap(), variant);
        }
        for variant in backward_variants(&problem) {
            assert_eq!(variant.to_string().parse::<Backward>().unwrap(), variant);
        }
    }
    let id = "causal_conv1d_fwd-k4-l32-a4-w4-p32-v8-b1-bf16-silu-bias-initial-final";
    assert_eq!(id.parse::<Forward>().unwrap().to_string(), id);
}

#[test]
fn every_width_has_a_variant_for_every_number_of_channels() {
    let device = Device::emulator(0);
    for width in 2..=8 {
        for channels in [1, 2, 23, 64, 4096, 100_000] {
            for io in [Dtype::F32, Dtype::F16] {
                let problem = Problem { io, ..problem(width, channels, true) };
                device.check(&default_variant(&problem)).unwrap();
                device.check(&default_backward(&problem)).unwrap();
                assert!(channels.is_multiple_of(default_variant(&problem).vec as usize));
                assert!(!variants(&problem).is_empty() && !backward_variants(&problem).is_empty());
            }
        }
    }
}

#[test]
fn broken_rules_are_named_with_value_and_cure() {
    let good = default_variant(&problem(4, 64, false));
    let refusal = |variant: Forward| Device::emulator(0).check(&variant).unwrap_err().to_string();
    for (variant, words) in [
        (Forward { width: 1, ..good }, "width is 1, but it must be from 2 to 8; take 2"),
        (Forward { width: 9, ..good }, "width is 9, but it must be from 2 to 8; take 8"),
        (Forward { ahead: 3, ..good }, "ahead is 3, but it must be one of [1, 2, 4, 8]"),
        (Forward { run: 30, ..good }, "run is 30, but a run is a whole number of the 4 tokens"),
        (Forward { vec: 8, io: Dtype::F32, ..good }, "one load moves at most 16 bytes"),
        (Forward { packets: 3, ..good }, "packets is 3, but a block has whole warps"),
        (Forward { packets: 512, ..good }, "at most 1024 threads"),
    ] {
        let error = refusal(variant);
        assert!(error.contains(words), "{error}");
    }
    let large = Backward { ways: 32, ..default_backward(&problem(8, 64, true)) };
    let error = Device::emulator(0).check(&Backward { vec: 8, ..large }).unwrap_err().to_string();
    assert!(error.contains("shared memory is 294912 bytes"), "{error}");
}

/// Registers and bytes on the stack of a thread, on an H200.
fn resources<V: Variant>(variant: &V) -> (u32, u32) {
    let (id, text) = (variant.to_string(), kernel::source(variant));
    let compile = Compile { name: &id, source: &text, arch: Arch::default(), emit: Emit::Cubin, options: &[] };
    let made = compile_cached(&compile).unwrap();
    let resources = made.resources().expect("the compiler says what a kernel takes");
    (resources.registers, resources.stack_bytes + resources.spill_store_bytes)
}

#[test]
fn the_hand_picked_variants_keep_everything_in_registers() {
    for width in [2, 4, 8] {
        for options in [false, true] {
            let problem = problem(width, 4096, options);
            for (id, (registers, stack_bytes)) in [
                (default_variant(&problem).to_string(), resources(&default_variant(&problem))),
                (default_backward(&problem).to_string(), resources(&default_backward(&problem))),
            ] {
                println!("{id}: {registers} registers");
                assert_eq!(stack_bytes, 0, "{id}");
            }
        }
    }
}

/// Tensors of one small call on the CPU: `T = 5`, `D = 4`, `K = 3`.
struct Call {
    device: Device,
    x: Buffer,
    w: Buffer,
    out: Buffer,
    dw: Buffer,
    history: Buffer,
}

const D: usize = 4;
const K: usize = 3;
const T: usize = 5;

impl Call {
    fn new() -> Call {
        let device = Device::Cpu;
        let filled = |len| Buffer::from_f32(&device, Dtype::F32, &vec![0.5; len]).unwrap();
        let (x, w, out, dw) = (filled(T * D), filled(D * K), filled(T * D), filled(D * K));
        Call { history: filled(2 * (K - 1) * D), device, x, w, out, dw }
    }

    fn packed(&self, continued: bool) -> DevicePacked {
        let packed = Packed::from_lengths(&[2, 3]).unwrap().with_continued(&[false, continued]).unwrap();
        packed.on(&self.device).unwrap()
    }

    fn inputs(&self) -> conv::Inputs<'_> {
        conv::Inputs { x: self.x.rows(T).unwrap(), w: self.w.rows(D).unwrap(), b: None, history: None }
    }

    fn outputs(&self) -> conv::Outputs<'_> {
        conv::Outputs { out: self.out.rows(T).unwrap(), history: None }
    }

    fn forward(&self, continued: bool, inputs: &conv::Inputs<'_>, outputs: &conv::Outputs<'_>) -> Result<()> {
        let variant = default_variant(&Problem { io: Dtype::F32, ..problem(K, D, false) });
        conv::forward(&self.packed(continued), &variant, inputs, outputs).map(drop)
    }

    fn refusal(&self, inputs: &conv::Inputs<'_>, outputs: &conv::Outputs<'_>) -> String {
        self.forward(false, inputs, outputs).unwrap_err().to_string()
    }
}

#[test]
fn a_good_call_runs_and_bad_ones_are_refused_by_tensor() {
    let call = Call::new();
    let (inputs, outputs) = (call.inputs(), call.outputs());
    call.forward(false, &inputs, &outputs).unwrap();

    let narrow = Buffer::from_f32(&call.device, Dtype::F32, &[0.5; D * K - D]).unwrap();
    let error = call.refusal(&conv::Inputs { w: narrow.rows(D).unwrap(), ..inputs }, &outputs);
    assert!(
        error.starts_with("w [D, width]") && error.contains("4 rows of 2") && error.contains("4 rows of 3"),
        "{error}"
    );

    let error = call.refusal(&conv::Inputs { x: inputs.x.rows_at(0, T - 1).unwrap(), ..inputs }, &outputs);
    assert!(error.starts_with("x [T, D]") && error.contains("4 rows of 4"), "{error}");

    let half = Buffer::from_f32(&call.device, Dtype::F16, &[0.5; T * D]).unwrap();
    let error = call.refusal(&inputs, &conv::Outputs { out: half.rows(T).unwrap(), ..outputs });
    assert!(error.starts_with("out [T, D]") && error.contains("it holds f16; it must hold f32"), "{error}");

    let error = call.refusal(&inputs, &conv::Outputs { out: inputs.x, ..outputs });
    assert!(error.starts_with("out [T, D]") && error.contains("it overlaps x"), "{error}");

    let error = call.refusal(&conv::Inputs { history: Some(call.history.view()), ..inputs }, &outputs);
    assert!(error.starts_with("history [S, width - 1, D]") && error.contains("it was given"), "{error}");

    let error = call.forward(true, &inputs, &outputs).unwrap_err().to_string();
    assert!(error.contains("sequence 1 is continued") && error.contains("history (S, K - 1, D)"), "{error}");
}

#[test]
fn a_workspace_that_is_too_small_is_refused() {
    let call = Call::new();
    let variant = default_backward(&Problem { io: Dtype::F32, ..problem(K, D, false) });
    let packed = call.packed(false);
    let gradient = Buffer::from_f32(&call.device, Dtype::F32, &[0.5; T * D]).unwrap();
    let upstream = conv::Upstream { out: gradient.rows(T).unwrap(), history: None };
    let gradients = conv::Gradients {
        x: call.out.rows(T).unwrap(),
        w: call.dw.rows(D).unwrap(),
        b: None,
        add: true,
        history: None,
    };
    // A tile of fewer tokens has more partial sums.
    let smaller = Backward { run: 4, ways: 1, ..variant };
    let run = |variant: &Backward, mut workspace: Workspace| {
        conv::backward(&packed, variant, &call.inputs(), &upstream, &gradients, &mut workspace).map(drop)
    };
    run(&variant, Workspace::new(&packed, &variant, D).unwrap()).unwrap();
    run(&variant, Workspace::new(&packed, &smaller, D).unwrap()).unwrap();
    let error = run(&smaller, Workspace::new(&packed, &variant, D).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("workspace is made for"), "{error}");
}
