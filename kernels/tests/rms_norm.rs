//! What the norm's and the embedding's declarations promise: ids, rules, and what bad calls get.

use packscan_kernels::embedding::{self, Ids};
use packscan_kernels::rms_norm::{self as norm, Backward, Forward, Gradients, Incoming, Inputs, Outputs, Problem};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed};

const T: usize = 5;
const M: usize = 6;

fn problem(width: usize) -> Problem {
    Problem { width, io: Dtype::Bf16, residual: true, sum: true, stats: true, alone: false }
}

#[test]
fn every_width_has_variants_that_keep_the_rules() {
    let device = Device::emulator(0);
    for width in (1..=1100).chain([2047, 2048, 2560, 5120, 8191, 8192, 65_535, 65_536]) {
        let forward = norm::default_variant(&problem(width));
        device.check(&forward).unwrap();
        device.check(&norm::default_backward(&problem(width), true, true, true)).unwrap();
        assert_eq!(forward.to_string().parse::<Forward>().unwrap(), forward);
    }
}

#[test]
fn broken_rules_are_named_with_value_and_cure() {
    let device = Device::emulator(0);
    let refusal = |variant: Forward| device.check(&variant).unwrap_err().to_string();
    let good = norm::default_variant(&problem(768));
    for (variant, words) in [
        (Forward { width: 0, ..good }, "width is 0"),
        (Forward { width: 770, ..good }, "vec is 4, but a row of 770 is a whole number of loads; take 2"),
        (Forward { width: 65_536, ..good }, "take at least 1024"),
        (Forward { rows: 32, ..good }, "at most 1024 threads"),
        (Forward { vec: 8, io: Dtype::F32, ..good }, "one load moves at most 16 bytes"),
    ] {
        let error = refusal(variant);
        assert!(error.contains(words), "{error}");
    }
    let nothing = norm::default_backward(&problem(768), true, false, false);
    let error = device.check(&nothing).unwrap_err().to_string();
    assert!(error.contains("there is a gradient to write"), "{error}");
}

/// Buffers of one small call on the CPU.
struct Buffers {
    packed: DevicePacked,
    /// `(T, M)`
    activations: Vec<Buffer>,
    /// `(M)`
    weight: Buffer,
    /// `(T)`
    rstd: Buffer,
    /// `(1)`
    epsilon: Buffer,
}

impl Buffers {
    fn new() -> Buffers {
        let device = Device::Cpu;
        let filled = |len: usize| Buffer::from_f32(&device, Dtype::F32, &vec![0.5; len]).unwrap();
        Buffers {
            packed: Packed::from_lengths(&[2, 3]).unwrap().on(&device).unwrap(),
            activations: (0..6).map(|_| filled(T * M)).collect(),
            weight: filled(M),
            rstd: filled(T),
            epsilon: filled(1),
        }
    }

    fn rows(&self, i: usize) -> packscan_runtime::View<'_> {
        self.activations[i].rows(T).unwrap()
    }
}

#[test]
fn a_norm_that_does_not_fit_is_refused_by_tensor() {
    let buffers = Buffers::new();
    let inputs = Inputs {
        x: Some(buffers.rows(0)),
        residual: Some(buffers.rows(1)),
        weight: buffers.weight.view(),
        epsilon: buffers.epsilon.view(),
    };
    let outputs = Outputs { y: buffers.rows(2), residual: Some(buffers.rows(3)), rstd: Some(buffers.rstd.view()) };
    let variant = norm::default_variant(&Problem::of(&inputs, &outputs));
    let run = |inputs: &Inputs<'_>, outputs: &Outputs<'_>| norm::forward(&buffers.packed, &variant, inputs, outputs);
    run(&inputs, &outputs).unwrap();

    let refusal = |inputs: &Inputs<'_>, outputs: &Outputs<'_>| run(inputs, outputs).unwrap_err().to_string();
    let error = refusal(&Inputs { weight: buffers.rstd.view(), ..inputs }, &outputs);
    assert!(error.starts_with("weight [width]"), "{error}");
    let error = refusal(&Inputs { residual: None, ..inputs }, &outputs);
    assert!(error.starts_with("residual [T, width]") && error.contains("it was left out"), "{error}");
    let error = refusal(&Inputs { x: None, ..inputs }, &outputs);
    assert!(error.starts_with("x [T, width]") && error.contains("it was left out"), "{error}");
    let error = refusal(&inputs, &Outputs { y: buffers.rows(0), ..outputs });
    assert!(error.starts_with("y [T, width]") && error.contains("it overlaps x"), "{error}");
    let error = refusal(&inputs, &Outputs { rstd: Some(buffers.epsilon.view()), ..outputs });
    assert!(error.starts_with("rstd [T]"), "{error}");
}

#[test]
fn a_gradient_that_does_not_fit_is_refused_by_tensor() {
    let buffers = Buffers::new();
    let incoming = Incoming {
        dy: buffers.rows(0),
        r: buffers.rows(1),
        rstd: buffers.rstd.view(),
        weight: buffers.weight.view(),
        dr: None,
    };
    let dweight = Buffer::from_f32(&Device::Cpu, Dtype::F32, &[0.0; M]).unwrap();
    let gradients = Gradients {
        residual: None,
        x: Some(buffers.rows(2)),
        weight: dweight.view(),
        add: true,
        parts: buffers.rows(3),
    };
    let variant: Backward = norm::default_backward(&Problem { io: Dtype::F32, ..problem(M) }, false, false, true);
    let run = |gradients: &Gradients<'_>| norm::backward(&buffers.packed, &variant, &incoming, gradients);
    run(&gradients).unwrap();

    let narrow = Buffer::from_f32(&Device::Cpu, Dtype::F32, &[0.0; M - 1]).unwrap();
    for (wrong, words) in [
        (Gradients { weight: narrow.view(), ..gradients }, "dweight [C] of sum_rows_several"),
        (Gradients { parts: narrow.rows(1).unwrap(), ..gradients }, "dweight_parts [P, width]"),
        (Gradients { residual: Some(buffers.rows(4)), ..gradients }, "dresidual [T, width]"),
    ] {
        let error = run(&wrong).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn an_embedding_that_does_not_fit_is_refused_by_tensor() {
    let buffers = Buffers::new();
    let table = Buffer::from_f32(&Device::Cpu, Dtype::F32, &[0.5; 4 * M]).unwrap();
    let table = table.rows(4).unwrap();
    let variant = embedding::default_variant(M, Dtype::F32);
    let run = |ids: &[u32], vocabulary| {
        let ids = Ids::new(&Device::Cpu, ids, vocabulary)?;
        embedding::forward(&buffers.packed, &variant, table, &ids, buffers.rows(0))
    };
    run(&[3, 0, 1, 2, 3], 4).unwrap();
    let refusal = |ids: &[u32], vocabulary| run(ids, vocabulary).unwrap_err().to_string();
    assert!(refusal(&[3, 0, 4, 2, 3], 4).contains("token 2 has id 4"));
    assert!(refusal(&[3, 0, 1, 2], 4).starts_with("ids [T] of embedding_fwd"));
    assert!(refusal(&[3, 0, 1, 2, 3], 5).starts_with("table [V, M] of embedding_fwd"));
}
