//! Sizes beyond 32 bits and beyond what the suites reach. What needs gigabytes runs only where there is a GPU, in less than three minutes
//! and 60 GB; the same tests run small on the emulator, so that they are known to work.

use std::collections::HashMap;

use half::bf16;
use packscan_kernels::{cast, causal_conv1d as conv, rms_norm as norm, selective_scan as scan};
use packscan_runtime::{Buffer, Device, DevicePacked, Dtype, Packed, View};
use packscan_verify::operators::{self, Model};
use packscan_verify::{Case, Random};

/// The GPU, or none, with the reason printed.
fn gpu() -> Option<Device> {
    Device::cuda(0).map_err(|error| println!("skipped: {error}")).ok()
}

/// Channels, states, taps of the tests of strides.
const D: usize = 256;
const N: usize = 16;
const K: usize = 4;

/// The tensors of all operators, each a row for every token: name, columns, and the range of the numbers in it, none for an output.
type Column = (&'static str, usize, Option<(f32, f32)>);

const SCAN: [Column; 12] = [
    ("u", D, Some((-2.0, 2.0))),
    ("delta", D, Some((-4.0, 0.5))),
    ("z", D, Some((-2.0, 2.0))),
    ("b", N, Some((-1.0, 1.0))),
    ("c", N, Some((-1.0, 1.0))),
    ("g", D, Some((-1.0, 1.0))),
    ("out", D, None),
    ("du", D, None),
    ("ddelta", D, None),
    ("dz", D, None),
    ("db", N, None),
    ("dc", N, None),
];
const CONV: [Column; 4] = [("x", D, Some((-2.0, 2.0))), ("g", D, Some((-1.0, 1.0))), ("out", D, None), ("dx", D, None)];
const NORM: [Column; 4] = [("x", D, Some((-2.0, 2.0))), ("dy", D, Some((-1.0, 1.0))), ("y", D, None), ("dx", D, None)];

/// The rows of some tokens in every tensor that is read.
type Data = HashMap<&'static str, Vec<f32>>;

fn data(columns: &[Column], tokens: usize) -> Data {
    let filled = |&(name, cols, range): &Column| {
        let (low, high) = range?;
        let mut random = Random::new(1, name);
        Some((name, (0..tokens * cols).map(|_| random.between(low, high)).collect()))
    };
    columns.iter().filter_map(filled).collect()
}

/// The last `tokens` of `data`.
fn tail(columns: &[Column], data: &Data, tokens: usize) -> Data {
    let cols = |name| columns.iter().find(|column| column.0 == name).expect("a tensor").1;
    data.iter().map(|(name, values)| (*name, values[values.len() - tokens * cols(*name)..].to_vec())).collect()
}

/// Tensors in bf16: each in a buffer of its own, or all of them columns of one buffer whose rows lie `stride` elements apart.
struct Placed<'a> {
    packed: &'a DevicePacked,
    columns: &'static [Column],
    buffers: Vec<Buffer>,
    stride: Option<usize>,
}

impl<'a> Placed<'a> {
    fn new(packed: &'a DevicePacked, columns: &'static [Column], data: &Data, stride: Option<usize>) -> Placed<'a> {
        let (device, t) = (packed.device(), packed.packed().tokens());
        let room = |cols: usize| Buffer::unwritten(device, Dtype::Bf16, t * cols).expect("there is room");
        let buffers = match stride {
            Some(stride) => vec![room(stride)],
            None => columns.iter().map(|column| room(column.1)).collect(),
        };
        let placed = Placed { packed, columns, buffers, stride };
        for (name, values) in data {
            let values = Buffer::from_slice(device, values).expect("there is room");
            let to = placed.view(name);
            let variant = cast::default_variant(to.shape().1, Dtype::F32, Dtype::Bf16);
            cast::forward(packed, &variant, values.rows(t).expect("rows"), to).expect("the tensor is written");
        }
        placed
    }

    fn view(&self, name: &str) -> View<'_> {
        let t = self.packed.packed().tokens();
        let place = self.columns.iter().position(|column| column.0 == name).expect("a tensor");
        let before: usize = self.columns[..place].iter().map(|column| column.1).sum();
        match self.stride {
            Some(stride) => {
                let all = self.buffers[0].rows(t).expect("rows");
                assert_eq!(all.shape().1, stride);
                all.columns(before, self.columns[place].1).expect("the stride has room for every tensor")
            }
            None => self.buffers[place].rows(t).expect("rows"),
        }
    }

    /// What was written, in the order of the table.
    fn take(&self) -> Vec<(&'static str, Vec<f32>)> {
        let written = self.columns.iter().filter(|column| column.2.is_none());
        let cut = |&(name, cols, _): &Column| {
            let t = self.packed.packed().tokens();
            let copy = Buffer::unwritten(self.packed.device(), Dtype::F32, t * cols).expect("there is room");
            let variant = cast::default_variant(cols, Dtype::Bf16, Dtype::F32);
            cast::forward(self.packed, &variant, self.view(name), copy.rows(t).expect("rows")).expect("a copy");
            (name, copy.to_f32().expect("it can be read"))
        };
        written.map(cut).collect()
    }
}

fn filled(device: &Device, name: &str, len: usize, low: f32, high: f32) -> Buffer {
    let mut random = Random::new(2, name);
    Buffer::from_slice(device, &(0..len).map(|_| random.between(low, high)).collect::<Vec<f32>>())
        .expect("there is room")
}

fn zeros(device: &Device, len: usize) -> Buffer {
    Buffer::from_slice(device, &vec![0.0f32; len]).expect("there is room")
}

/// Both passes of the scan.
fn run_scan(placed: &Placed<'_>) {
    let (packed, device) = (placed.packed, placed.packed.device());
    let (a, da) = (filled(device, "a", D * N, -2.0, -0.05), zeros(device, D * N));
    let [u, delta, z, b, c, g] = ["u", "delta", "z", "b", "c", "g"].map(|name| placed.view(name));
    let a = a.rows(D).expect("rows");
    let inputs = scan::Inputs { u, delta, a, b, c, d_skip: None, delta_bias: None, z: Some(z), initial_state: None };
    let problem = scan::Problem {
        channels: D,
        state: N,
        io: Dtype::Bf16,
        softplus: true,
        bias: false,
        skip: false,
        gate: true,
        initial: false,
        last: false,
        checkpoints: true,
    };
    let backward = scan::default_backward(&problem);
    let forward = scan::default_variant(&problem);
    let chunks = packed.packed().tokens().div_ceil(backward.chunk as usize);
    let checkpoints = Buffer::unwritten(device, Dtype::F32, chunks * D * N).expect("there is room");
    let saved = Some(checkpoints.view());
    let outputs = scan::Outputs { out: placed.view("out"), final_state: None, checkpoints: saved };
    scan::forward(packed, &forward, None, &inputs, &outputs).expect("it runs");
    let upstream = scan::Upstream { out: g, final_state: None, checkpoints: checkpoints.view() };
    let [u, delta, z, b, c] = ["du", "ddelta", "dz", "db", "dc"].map(|name| placed.view(name));
    let a = da.rows(D).expect("rows");
    let gradients = scan::Gradients {
        u,
        delta,
        a,
        b,
        c,
        d_skip: None,
        delta_bias: None,
        add: true,
        z: Some(z),
        initial_state: None,
    };
    let mut workspace = scan::Workspace::new(packed, &backward, D, None).expect("there is room");
    scan::backward(packed, &backward, &inputs, &upstream, &gradients, &mut workspace).expect("it runs");
    device.synchronize().expect("it ran");
}

/// Both passes of the convolution.
fn run_conv(placed: &Placed<'_>) {
    let (packed, device) = (placed.packed, placed.packed.device());
    let (w, dw) = (filled(device, "w", D * K, -1.0, 1.0), zeros(device, D * K));
    let inputs = conv::Inputs { x: placed.view("x"), w: w.rows(D).expect("rows"), b: None, history: None };
    let outputs = conv::Outputs { out: placed.view("out"), history: None };
    let problem = conv::Problem::of(&inputs, &outputs, true);
    conv::forward(packed, &conv::default_variant(&problem), &inputs, &outputs).expect("it runs");
    let variant = conv::default_backward(&problem);
    let upstream = conv::Upstream { out: placed.view("g"), history: None };
    let gradients =
        conv::Gradients { x: placed.view("dx"), w: dw.rows(D).expect("rows"), b: None, add: true, history: None };
    let mut workspace = conv::Workspace::new(packed, &variant, D).expect("there is room");
    conv::backward(packed, &variant, &inputs, &upstream, &gradients, &mut workspace).expect("it runs");
    device.synchronize().expect("it ran");
}

/// Both passes of the norm.
fn run_norm(placed: &Placed<'_>) {
    let (packed, device) = (placed.packed, placed.packed.device());
    let t = packed.packed().tokens();
    let (weight, epsilon) = (filled(device, "weight", D, 0.5, 1.5), filled(device, "epsilon", 1, 1e-5, 1e-5));
    let unwritten = |len| Buffer::unwritten(device, Dtype::F32, len).expect("there is room");
    let (r, rstd, dweight) = (unwritten(t * D), unwritten(t), zeros(device, D));
    let r = r.rows(t).expect("rows");
    let inputs =
        norm::Inputs { x: Some(placed.view("x")), residual: None, weight: weight.view(), epsilon: epsilon.view() };
    let outputs = norm::Outputs { y: placed.view("y"), residual: Some(r), rstd: Some(rstd.view()) };
    let problem = norm::Problem::of(&inputs, &outputs);
    norm::forward(packed, &norm::default_variant(&problem), &inputs, &outputs).expect("it runs");
    let variant = norm::default_backward(&problem, false, false, true);
    let parts_rows = norm::parts_rows(packed, &variant).expect("it compiles");
    let parts = unwritten(parts_rows * D);
    let incoming = norm::Incoming { dy: placed.view("dy"), r, rstd: rstd.view(), weight: weight.view(), dr: None };
    let gradients = norm::Gradients {
        residual: None,
        x: Some(placed.view("dx")),
        weight: dweight.view(),
        add: true,
        parts: parts.rows(parts_rows).expect("rows"),
    };
    norm::backward(packed, &variant, &incoming, &gradients).expect("it runs");
    device.synchronize().expect("it ran");
}

/// The same pack with rows side by side and with rows `stride` elements apart, and its last sequence alone: the same bits.
fn assert_stride_changes_nothing(
    device: &Device,
    lengths: &[usize],
    stride: usize,
    columns: &'static [Column],
    operator: fn(&Placed<'_>),
) {
    let packed = Packed::from_lengths(lengths).expect("a pack");
    let (t, last) = (packed.tokens(), lengths[lengths.len() - 1]);
    let data = data(columns, t);
    let run = |packed: &Packed, data: &Data, stride: Option<usize>| {
        let packed = packed.on(device).expect("there is room");
        let placed = Placed::new(&packed, columns, data, stride);
        operator(&placed);
        placed.take()
    };
    let near = run(&packed, &data, None);
    let far = run(&packed, &data, Some(stride));
    let alone = run(&Packed::from_lengths(&[last]).expect("a pack"), &tail(columns, &data, last), None);
    for (((name, near), (_, far)), (_, alone)) in std::iter::zip(std::iter::zip(&near, &far), &alone) {
        assert!(near.iter().all(|x| x.is_finite()) && near.iter().any(|x| *x != 0.0), "{name}");
        let cols = near.len() / t;
        let wrong = std::iter::zip(near, far).position(|(near, far)| near.to_bits() != far.to_bits());
        assert_eq!(wrong.map(|i| (i / cols, i % cols)), None, "token and column of {name}, {stride} apart on {device}");
        let last = &far[far.len() - alone.len()..];
        let wrong = std::iter::zip(last, alone).position(|(last, alone)| last.to_bits() != alone.to_bits());
        assert_eq!(wrong.map(|i| (i / cols, i % cols)), None, "token and column of {name}, the last sequence alone");
    }
}

fn assert_strides_change_nothing(device: &Device, lengths: &[usize], stride: usize) {
    assert_stride_changes_nothing(device, lengths, stride, &SCAN, run_scan);
    assert_stride_changes_nothing(device, lengths, stride, &CONV, run_conv);
    assert_stride_changes_nothing(device, lengths, stride, &NORM, run_norm);
}

#[test]
fn rows_that_lie_apart_on_the_emulator() {
    assert_strides_change_nothing(&Device::emulator(0), &[5, 0, 9, 12], 2560);
}

#[test]
fn rows_that_lie_apart_on_the_cpu() {
    assert_strides_change_nothing(&Device::Cpu, &[5, 0, 9, 12], 2560);
}

/// 8.8 GB of bf16: the last two sequences lie beyond 2^32 elements, the last but two across.
#[test]
fn rows_beyond_four_billion_elements_on_the_gpu() {
    let Some(device) = gpu() else { return };
    let (lengths, stride) = ([2000, 0, 1, 2090, 40, 100], 1 << 20);
    assert!((lengths.iter().sum::<usize>() - 140) * stride <= 1 << 32 && 4131 * stride > 1 << 32);
    assert_strides_change_nothing(&device, &lengths, stride);
}

/// A buffer of bf16 numbers, which repeat after some millions.
fn halves(device: &Device, name: &str, len: usize, low: f32, high: f32) -> Buffer {
    let mut random = Random::new(3, name);
    let some: Vec<bf16> = (0..len.min(4_000_037)).map(|_| bf16::from_f32(random.between(low, high))).collect();
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        all.extend_from_slice(&some[..some.len().min(len - all.len())]);
    }
    Buffer::from_slice(device, &all).expect("there is room")
}

/// The scan's inputs for one large call, D channels and N states.
struct States {
    d: usize,
    n: usize,
    u: Buffer,
    delta: Buffer,
    g: Buffer,
    a: Buffer,
    b: Buffer,
    c: Buffer,
}

impl States {
    fn new(device: &Device, t: usize, d: usize, n: usize) -> States {
        States {
            d,
            n,
            u: halves(device, "u", t * d, -2.0, 2.0),
            delta: halves(device, "delta", t * d, -4.0, 0.5),
            g: halves(device, "g", t * d, -1.0, 1.0),
            a: filled(device, "a", d * n, -2.0, -0.05),
            b: halves(device, "b", t * n, -1.0, 1.0),
            c: halves(device, "c", t * n, -1.0, 1.0),
        }
    }

    /// Both passes over `packed`, which are the tokens from `start` on; what they wrote for the last `last` tokens.
    fn run(&self, packed: &DevicePacked, start: usize, last: usize) -> Vec<Vec<f32>> {
        let (device, t, tokens) = (packed.device(), packed.packed().tokens(), self.u.len() / self.d);
        let room = |dtype, len: usize| Buffer::unwritten(device, dtype, len).expect("there is room");
        let [out, du, ddelta] = [(); 3].map(|()| room(Dtype::Bf16, t * self.d));
        let [db, dc] = [(); 2].map(|()| room(Dtype::Bf16, t * self.n));
        let rows = |buffer| View::rows_at(Buffer::rows(buffer, tokens).expect("rows"), start, t).expect("rows");
        let [u, delta, b, c] = [&self.u, &self.delta, &self.b, &self.c].map(rows);
        let a = self.a.rows(self.d).expect("rows");
        let inputs = scan::Inputs { u, delta, a, b, c, d_skip: None, delta_bias: None, z: None, initial_state: None };
        let whole = |buffer| Buffer::rows(buffer, t).expect("rows");
        let problem = scan::Problem {
            channels: self.d,
            state: self.n,
            io: Dtype::Bf16,
            softplus: true,
            bias: false,
            skip: false,
            gate: false,
            initial: false,
            last: false,
            checkpoints: true,
        };
        let backward = scan::default_backward(&problem);
        let forward = scan::default_variant(&problem);
        let checkpoints = room(Dtype::F32, t.div_ceil(backward.chunk as usize) * self.d * self.n);
        let outputs = scan::Outputs { out: whole(&out), final_state: None, checkpoints: Some(checkpoints.view()) };
        scan::forward(packed, &forward, None, &inputs, &outputs).expect("it runs");
        let upstream = scan::Upstream { out: rows(&self.g), final_state: None, checkpoints: checkpoints.view() };
        let da = zeros(device, self.d * self.n);
        let gradients = scan::Gradients {
            u: whole(&du),
            delta: whole(&ddelta),
            a: da.rows(self.d).expect("rows"),
            b: whole(&db),
            c: whole(&dc),
            d_skip: None,
            delta_bias: None,
            add: true,
            z: None,
            initial_state: None,
        };
        let mut workspace = scan::Workspace::new(packed, &backward, self.d, None).expect("there is room");
        scan::backward(packed, &backward, &inputs, &upstream, &gradients, &mut workspace).expect("it runs");
        device.synchronize().expect("it ran");

        let few = Packed::from_lengths(&[last]).and_then(|packed| packed.on(device)).expect("a pack");
        let end = |buffer: &Buffer| {
            let from = buffer.rows(t).and_then(|all| all.rows_at(t - last, last)).expect("rows");
            let cols = from.shape().1;
            let copy = room(Dtype::F32, last * cols);
            let variant = cast::default_variant(cols, Dtype::Bf16, Dtype::F32);
            cast::forward(&few, &variant, from, copy.rows(last).expect("rows")).expect("a copy");
            copy.to_f32().expect("it can be read")
        };
        [&out, &du, &ddelta, &db, &dc].map(end).into()
    }
}

/// The last sequence of a pack and the same sequence alone: the same bits.
fn assert_the_last_is_as_alone(device: &Device, lengths: &[usize], d: usize, n: usize) {
    let (t, last) = (lengths.iter().sum::<usize>(), lengths[lengths.len() - 1]);
    let states = States::new(device, t, d, n);
    let pack = |lengths: &[usize]| Packed::from_lengths(lengths).and_then(|packed| packed.on(device)).expect("a pack");
    let packed = states.run(&pack(lengths), 0, last);
    let alone = states.run(&pack(&[last]), t - last, last);
    for ((name, packed), alone) in ["out", "du", "ddelta", "db", "dc"].into_iter().zip(&packed).zip(&alone) {
        assert!(packed.iter().all(|x| x.is_finite()) && packed.iter().any(|x| *x != 0.0), "{name}");
        let wrong = std::iter::zip(packed, alone).position(|(packed, alone)| packed.to_bits() != alone.to_bits());
        assert_eq!(wrong, None, "the first wrong element of the last sequence's {name}");
    }
}

#[test]
fn the_last_sequence_is_as_alone_on_the_emulator() {
    assert_the_last_is_as_alone(&Device::emulator(0), &[9, 21, 13], 32, 20);
}

/// Checkpoints `(4200, 16384, 64)` have more than 2^32 elements, and the last sequence's lie beyond them; partial sums of B and C have
/// 2^31. In all 43 GB.
#[test]
fn states_beyond_four_billion_on_the_gpu() {
    let Some(device) = gpu() else { return };
    assert_the_last_is_as_alone(&device, &[30_000, 3_400, 200], 16_384, 64);
}

/// The hand-picked variant of a pass.
fn picked((operator, pass): (&str, &str), width: usize, state: u32, io: Dtype) -> String {
    let pass = operators::pass(operator, pass).expect("the operator has the pass");
    pass.pick(&Model { width, state, io }).expect("a variant")
}

/// Every property of a variant on one case, its agreement with the book among them.
fn assert_holds(device: &Device, id: &str, lengths: &[usize], channels: usize) {
    let outcome = operators::job(id).expect("a suite").replay(device, &Case::of_lengths(lengths, channels));
    assert_eq!(outcome.error, None, "{id}");
    assert!(outcome.failure.is_none(), "{id} on {device}: {:?}", outcome.failure);
    println!("{id} on {device}: {:.2} of the bound in {:?}", outcome.worst, outcome.time);
}

const PASSES: [(&str, &str); 4] = [
    ("selective-scan", "forward"),
    ("selective-scan", "backward"),
    ("causal-conv1d", "forward"),
    ("causal-conv1d", "backward"),
];

/// More channels than a grid has blocks along its second axis, in the least that each pass works on at a time.
#[test]
fn seventy_thousand_channels_on_the_emulator() {
    for id in [
        "selective_scan_fwd-n1-l8-k8-s1-c128-b1-v4-f32",
        "selective_scan_bwd-n1-l8-k8-s1-w1-c128-b1-v4-f32",
        "causal_conv1d_fwd-k2-l32-a4-w4-p32-v4-b1-f32",
        "causal_conv1d_bwd-k2-l64-a4-w4-p32-v4-b1-f32",
    ] {
        assert_holds(&Device::emulator(0), id, &[1, 1], 70_000);
    }
}

#[test]
fn seventy_thousand_channels_on_the_gpu() {
    let Some(device) = gpu() else { return };
    for pass in PASSES {
        assert_holds(&device, &picked(pass, 70_000, 4, Dtype::Bf16), &[40, 0, 25], 70_000);
    }
}

/// The suites of every device have this state size, with few tokens.
#[test]
fn the_largest_state_on_the_gpu() {
    let Some(device) = gpu() else { return };
    for pass in &PASSES[..2] {
        assert_holds(&device, &picked(*pass, 16, 1024, Dtype::Bf16), &[700, 0, 350], 16);
    }
}

/// The suites of every device have one of 5,000 tokens.
#[test]
fn a_sequence_of_a_million_tokens_on_the_gpu() {
    let Some(device) = gpu() else { return };
    for pass in PASSES {
        assert_holds(&device, &picked(pass, 2, 16, Dtype::F32), &[1_000_000], 2);
    }
}
