//! What every operator answers to calls that cannot be right: an error that names the tensor, never a panic, never a result.

use packscan_kernels::{
    cast, causal_conv1d as conv, cross_entropy, embedding, neg_exp, rms_norm, selective_scan as scan, sum_rows,
};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, Result, View};

const T: usize = 20;
const D: usize = 4;
const N: usize = 3;
const K: usize = 3;

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("this is refused").to_string()
}

fn halves(device: &Device, len: usize) -> Buffer {
    Buffer::from_f32(device, Dtype::F32, &vec![0.5; len]).unwrap()
}

fn pack(device: &Device, continued: bool) -> DevicePacked {
    let packed = Packed::from_lengths(&[T - 3, 3]).and_then(|packed| packed.with_continued(&[false, continued]));
    packed.unwrap().on(device).unwrap()
}

/// A scan and its backward pass, every tensor of its own.
struct Scan {
    device: Device,
    tokens: Vec<Buffer>,
    projections: Vec<Buffer>,
    a: Buffer,
    da: Buffer,
    states: Buffer,
    checkpoints: Buffer,
    variant: scan::Backward,
}

impl Scan {
    fn new() -> Scan {
        let device = Device::Cpu;
        let problem = scan::Problem {
            channels: D,
            state: N,
            io: Dtype::F32,
            softplus: false,
            bias: false,
            skip: false,
            gate: false,
            initial: false,
            last: false,
            checkpoints: true,
        };
        let variant = scan::Backward { chunk: 8, kept: 8, walk: 1, vec: 1, ..scan::default_backward(&problem) };
        let filled = |len| halves(&device, len);
        Scan {
            tokens: (0..6).map(|_| filled(T * D)).collect(),
            projections: (0..4).map(|_| filled(T * N)).collect(),
            a: filled(D * N),
            da: filled(D * N),
            states: filled(2 * D * N),
            checkpoints: filled(T.div_ceil(8) * D * N),
            variant,
            device,
        }
    }

    fn inputs(&self) -> scan::Inputs<'_> {
        scan::Inputs {
            u: self.tokens[0].rows(T).unwrap(),
            delta: self.tokens[1].rows(T).unwrap(),
            a: self.a.rows(D).unwrap(),
            b: self.projections[0].rows(T).unwrap(),
            c: self.projections[1].rows(T).unwrap(),
            d_skip: None,
            delta_bias: None,
            z: None,
            initial_state: None,
        }
    }

    fn upstream(&self) -> scan::Upstream<'_> {
        let out = self.tokens[2].rows(T).unwrap();
        scan::Upstream { out, final_state: None, checkpoints: self.checkpoints.view() }
    }

    fn gradients(&self) -> scan::Gradients<'_> {
        scan::Gradients {
            u: self.tokens[3].rows(T).unwrap(),
            delta: self.tokens[4].rows(T).unwrap(),
            a: self.da.rows(D).unwrap(),
            b: self.projections[2].rows(T).unwrap(),
            c: self.projections[3].rows(T).unwrap(),
            d_skip: None,
            delta_bias: None,
            add: true,
            z: None,
            initial_state: None,
        }
    }

    fn backward(
        &self,
        inputs: &scan::Inputs<'_>,
        upstream: &scan::Upstream<'_>,
        gradients: &scan::Gradients<'_>,
    ) -> Result<()> {
        let packed = pack(&self.device, false);
        let mut workspace = scan::Workspace::new(&packed, &self.variant, D, None)?;
        scan::backward(&packed, &self.variant, inputs, upstream, gradients, &mut workspace).map(drop)
    }
}

#[test]
fn a_scan_backward_that_does_not_fit_is_refused_by_tensor() {
    let scan = Scan::new();
    let (inputs, upstream, gradients) = (scan.inputs(), scan.upstream(), scan.gradients());
    scan.backward(&inputs, &upstream, &gradients).unwrap();

    let sparse = halves(&scan.device, T.div_ceil(16) * D * N);
    let error = refusal(scan.backward(&inputs, &scan::Upstream { checkpoints: sparse.view(), ..upstream }, &gradients));
    assert!(error.starts_with("checkpoints [T / chunk, D, state]") && error.contains("3 rows of 12"), "{error}");

    let states = Some(scan.states.view());
    let error = refusal(scan.backward(&scan::Inputs { initial_state: states, ..inputs }, &upstream, &gradients));
    assert!(error.starts_with("initial_state [S, D, state]") && error.contains("it was given"), "{error}");
    let error = refusal(scan.backward(&inputs, &scan::Upstream { final_state: states, ..upstream }, &gradients));
    assert!(error.starts_with("d_final_state [S, D, state]") && error.contains("it was given"), "{error}");

    let error = refusal(scan.backward(&inputs, &upstream, &scan::Gradients { u: inputs.u, ..gradients }));
    assert!(error.starts_with("du [T, D]") && error.contains("it overlaps u"), "{error}");
    let short = gradients.b.rows_at(0, T - 1).unwrap();
    let error = refusal(scan.backward(&inputs, &upstream, &scan::Gradients { b: short, ..gradients }));
    assert!(error.starts_with("first [T, C] of sum_rows_tokens") && error.contains("19 rows"), "{error}");
    let narrow = halves(&scan.device, D * N - N);
    let a = narrow.rows(D - 1).unwrap();
    let error = refusal(scan.backward(&inputs, &upstream, &scan::Gradients { a, ..gradients }));
    assert!(error.starts_with("da [C] of sum_rows_several"), "{error}");

    let packed = pack(&scan.device, true);
    let mut workspace = scan::Workspace::new(&packed, &scan.variant, D, None).unwrap();
    let error = refusal(scan::backward(&packed, &scan.variant, &inputs, &upstream, &gradients, &mut workspace));
    assert!(error.contains("sequence 1 is continued") && error.contains("initial_state"), "{error}");

    let smaller = Packed::from_lengths(&[T - 3]).unwrap().on(&scan.device).unwrap();
    let mut workspace = scan::Workspace::new(&smaller, &scan.variant, D, None).unwrap();
    let packed = pack(&scan.device, false);
    let error = refusal(scan::backward(&packed, &scan.variant, &inputs, &upstream, &gradients, &mut workspace));
    assert!(error.starts_with("workspace is made for") && error.contains("as many tokens"), "{error}");
}

/// The halves of `xz (T, 2D)` lie between each other and do not overlap; columns that both have do.
#[test]
fn columns_that_two_tensors_share_are_refused() {
    let scan = Scan::new();
    let both = halves(&scan.device, T * 2 * D);
    let columns = |start| both.rows(T).unwrap().columns(start, D).unwrap();
    let gradients = scan.gradients();
    let apart = scan::Gradients { u: columns(0), delta: columns(D), ..gradients };
    scan.backward(&scan.inputs(), &scan.upstream(), &apart).unwrap();
    let shared = scan::Gradients { u: columns(0), delta: columns(D - 1), ..gradients };
    let error = refusal(scan.backward(&scan.inputs(), &scan.upstream(), &shared));
    assert!(error.contains("it overlaps ddelta"), "{error}");
    // No view has rows closer than they are long: there is no way to ask for one.
    assert!(both.rows(T).unwrap().columns(D + 1, D).is_err());
}

/// States of sequences that are not continued are not read: NaN there, or memory that nobody wrote, changes no bit.
#[test]
fn initial_states_and_histories_without_a_continued_sequence_are_not_read() {
    for device in [Device::Cpu, Device::emulator(0)] {
        let packed = pack(&device, false);
        let filled = |len| halves(&device, len);
        let (u, delta, b, c, a) = (filled(T * D), filled(T * D), filled(T * N), filled(T * N), filled(D * N));
        let scan_out = |initial_state: Option<View<'_>>| {
            let out = Buffer::unwritten(&device, Dtype::F32, T * D).unwrap();
            let [u, delta, b, c] = [&u, &delta, &b, &c].map(|buffer| buffer.rows(T).unwrap());
            let a = a.rows(D).unwrap();
            let inputs = scan::Inputs { u, delta, a, b, c, d_skip: None, delta_bias: None, z: None, initial_state };
            let outputs = scan::Outputs { out: out.rows(T).unwrap(), final_state: None, checkpoints: None };
            let variant = scan::default_variant(&scan::Problem::of(&inputs, &outputs, true));
            scan::forward(&packed, &variant, None, &inputs, &outputs).unwrap();
            out.to_f32().unwrap()
        };
        let conv_out = |history: Option<View<'_>>| {
            let out = Buffer::unwritten(&device, Dtype::F32, T * D).unwrap();
            let w = filled(D * K);
            let inputs = conv::Inputs { x: u.rows(T).unwrap(), w: w.rows(D).unwrap(), b: None, history };
            let outputs = conv::Outputs { out: out.rows(T).unwrap(), history: None };
            let variant = conv::default_variant(&conv::Problem::of(&inputs, &outputs, true));
            conv::forward(&packed, &variant, &inputs, &outputs).unwrap();
            out.to_f32().unwrap()
        };
        let nan = |len: usize| Buffer::from_f32(&device, Dtype::F32, &vec![f32::NAN; len]).unwrap();
        let unwritten = |len: usize| Buffer::unwritten(&device, Dtype::F32, len).unwrap();
        for states in [nan(2 * D * N), unwritten(2 * D * N)] {
            assert_eq!(scan_out(Some(states.view())), scan_out(None), "{device}");
        }
        for history in [nan(2 * (K - 1) * D), unwritten(2 * (K - 1) * D)] {
            assert_eq!(conv_out(Some(history.view())), conv_out(None), "{device}");
        }
    }
}

#[test]
fn a_convolution_backward_that_does_not_fit_is_refused_by_tensor() {
    let device = Device::Cpu;
    let filled = |len| halves(&device, len);
    let (x, g, dx, w, dw, history) =
        (filled(T * D), filled(T * D), filled(T * D), filled(D * K), filled(D * K), filled(2 * (K - 1) * D));
    let inputs = conv::Inputs { x: x.rows(T).unwrap(), w: w.rows(D).unwrap(), b: None, history: None };
    let upstream = conv::Upstream { out: g.rows(T).unwrap(), history: None };
    let gradients =
        conv::Gradients { x: dx.rows(T).unwrap(), w: dw.rows(D).unwrap(), b: None, add: true, history: None };
    let (silu, bias, initial, last) = (true, false, false, false);
    let problem = conv::Problem { channels: D, width: K, io: Dtype::F32, silu, bias, initial, last };
    let variant = conv::default_backward(&problem);
    let run = |continued, upstream: &conv::Upstream<'_>, gradients: &conv::Gradients<'_>| {
        let packed = pack(&device, continued);
        let mut workspace = conv::Workspace::new(&packed, &variant, D)?;
        conv::backward(&packed, &variant, &inputs, upstream, gradients, &mut workspace).map(drop)
    };
    run(false, &upstream, &gradients).unwrap();
    let error = refusal(run(true, &upstream, &gradients));
    assert!(error.contains("sequence 1 is continued") && error.contains("history (S, K - 1, D)"), "{error}");
    let error = refusal(run(false, &conv::Upstream { history: Some(history.view()), ..upstream }, &gradients));
    assert!(error.starts_with("d_history_out [S, width - 1, D]") && error.contains("it was given"), "{error}");
    let error = refusal(run(false, &upstream, &conv::Gradients { x: upstream.out, ..gradients }));
    assert!(error.starts_with("dx [T, D]") && error.contains("it overlaps g"), "{error}");
    let error = refusal(run(false, &upstream, &conv::Gradients { b: Some(history.view()), ..gradients }));
    assert!(error.starts_with("b [D]") && error.contains("its gradient was given"), "{error}");
    let short = upstream.out.rows_at(0, T - 1).unwrap();
    let error = refusal(run(false, &conv::Upstream { out: short, ..upstream }, &gradients));
    assert!(error.starts_with("g [T, D]") && error.contains("19 rows of 4"), "{error}");
}

#[test]
fn small_operators_refuse_what_does_not_fit_by_tensor() {
    let device = Device::Cpu;
    let (packed, nothing) = (pack(&device, false), DevicePacked::empty(&device).unwrap());
    let (x, short) = (halves(&device, T * D), halves(&device, T * D - D));

    let (forward, backward) = (neg_exp::default_variant(), neg_exp::default_backward());
    let error = refusal(neg_exp::forward(&nothing, &forward, x.view(), short.view()));
    assert!(error.starts_with("a [N] of neg_exp_fwd") && error.contains("it has 76 rows of 1"), "{error}");
    let error = refusal(neg_exp::forward(&nothing, &forward, x.view(), x.view()));
    assert!(error.starts_with("a [N]") && error.contains("it overlaps a_log"), "{error}");
    let error = refusal(neg_exp::backward(&nothing, &backward, short.view(), x.view()));
    assert!(error.starts_with("a [N] of neg_exp_bwd"), "{error}");

    let variant = cast::default_variant(D, Dtype::F32, Dtype::F32);
    let error = refusal(cast::forward(&packed, &variant, x.rows(T).unwrap(), short.rows(T - 1).unwrap()));
    assert!(error.starts_with("out [T, C] of cast"), "{error}");
    let error = refusal(cast::forward(&packed, &variant, x.rows(2 * T).unwrap(), short.rows(T - 1).unwrap()));
    assert!(error.starts_with("x [T, C] of cast"), "{error}");

    let sizes = sum_rows::Sizes { groups: 2, rows: T, columns: D };
    let sum = sum_rows::default_variant(&sizes, Dtype::F32, true);
    let error = refusal(sum_rows::forward(&nothing, &sum, &sizes, x.view(), short.view()));
    assert!(error.starts_with("parts [B, R, C] of sum_rows"), "{error}");

    let ids = embedding::Ids::new(&device, &[0; T - 1], 7).and_then(|ids| ids.by_id()).unwrap();
    let dtable = halves(&device, 7 * D);
    let variant = embedding::default_backward(D, Dtype::F32);
    let error = refusal(embedding::backward(&packed, &variant, x.rows(T).unwrap(), &ids, dtable.rows(7).unwrap()));
    assert!(error.starts_with("order [T] of embedding_bwd"), "{error}");

    let few = Buffer::from_slice(&device, &[0u32; T - 1]).unwrap();
    let (scale, loss) = (halves(&device, 1), halves(&device, T));
    let logits = x.rows(T).unwrap();
    let tensors = cross_entropy::Tensors { logits, targets: few.view(), scale: scale.view(), loss: loss.view() };
    let variant = cross_entropy::default_variant(&cross_entropy::Problem { vocabulary: D, io: Dtype::F32 });
    let error = refusal(cross_entropy::forward(&packed, &variant, &tensors));
    assert!(error.starts_with("targets [T] of cross_entropy"), "{error}");
}

/// A target that nobody checked on the host: its token's loss is NaN, and every other token is as if it were not there.
#[test]
fn a_target_outside_the_vocabulary_spoils_its_own_token_alone() {
    for device in [Device::Cpu, Device::emulator(0)] {
        let packed = pack(&device, false);
        let run = |target: u32| {
            let mut targets = vec![1u32; T];
            targets[5] = target;
            let (logits, scale, loss) = (halves(&device, T * D), halves(&device, 1), halves(&device, T));
            let targets = Buffer::from_slice(&device, &targets).unwrap();
            let tensors = cross_entropy::Tensors {
                logits: logits.rows(T).unwrap(),
                targets: targets.view(),
                scale: scale.view(),
                loss: loss.view(),
            };
            let variant = cross_entropy::default_variant(&cross_entropy::Problem { vocabulary: D, io: Dtype::F32 });
            cross_entropy::forward(&packed, &variant, &tensors).unwrap();
            (loss.to_f32().unwrap(), logits.to_f32().unwrap())
        };
        let ((loss, gradient), (good_loss, good_gradient)) = (run(D as u32), run(0));
        for t in (0..T).filter(|&t| t != 5) {
            assert_eq!(loss[t].to_bits(), good_loss[t].to_bits(), "token {t} on {device}");
            assert_eq!(gradient[t * D..(t + 1) * D], good_gradient[t * D..(t + 1) * D], "token {t} on {device}");
        }
        assert!(loss[5].is_nan(), "{} on {device}", loss[5]);
    }
}

/// Without a row for the partial sums nothing would be computed at all.
#[test]
fn a_norm_without_room_for_its_sums_is_refused() {
    for device in [Device::Cpu, Device::emulator(0)] {
        let packed = pack(&device, false);
        let filled = |len| halves(&device, len);
        let (dy, r, dx, rstd, weight, dweight) =
            (filled(T * D), filled(T * D), filled(T * D), filled(T), filled(D), filled(D));
        let problem =
            rms_norm::Problem { width: D, io: Dtype::F32, residual: false, sum: true, stats: true, alone: false };
        let variant = rms_norm::default_backward(&problem, false, false, true);
        let none = Buffer::unwritten(&device, Dtype::F32, 0).unwrap();
        let incoming = rms_norm::Incoming {
            dy: dy.rows(T).unwrap(),
            r: r.rows(T).unwrap(),
            rstd: rstd.view(),
            weight: weight.view(),
            dr: None,
        };
        let gradients = rms_norm::Gradients {
            residual: None,
            x: Some(dx.rows(T).unwrap()),
            weight: dweight.view(),
            add: true,
            parts: none.view(),
        };
        let error = refusal(rms_norm::backward(&packed, &variant, &incoming, &gradients));
        assert!(error.starts_with("dweight_parts [P, width]") && error.contains("parts_rows"), "{error}");
    }
}
