//! Generation: sequences fed one token at a time give the bits of the packed forward pass over all of their tokens.

use packscan_kernels::{causal_conv1d as conv, selective_scan as scan};
use packscan_runtime::{Buffer, Device, Dtype, Packed, View};

/// Lengths that go down, so that the sequences still running are always the first: longer than two chunks, than a chunk, than the
/// convolution's taps, one token.
const LENGTHS: [usize; 4] = [35, 17, 3, 1];
const T: usize = 56;
const D: usize = 10;
const N: usize = 24;
const K: usize = 4;

fn devices() -> [(Device, Dtype); 4] {
    let emulator = Device::emulator(0);
    [(Device::Cpu, Dtype::F32), (Device::Cpu, Dtype::Bf16), (emulator.clone(), Dtype::F32), (emulator, Dtype::Bf16)]
}

/// Numbers between `low` and `high` that look like chance.
fn numbers(len: usize, low: f32, high: f32) -> Vec<f32> {
    let fraction = |i: usize| (i as f32 * 0.618_034 + len as f32 * 0.137).fract();
    (0..len).map(|i| low + (high - low) * fraction(i)).collect()
}

fn filled(device: &Device, dtype: Dtype, len: usize, low: f32, high: f32) -> Buffer {
    Buffer::from_f32(device, dtype, &numbers(len, low, high)).unwrap()
}

/// Rows of a `(T, cols)` tensor: token `step` of each sequence that has one, in order.
fn tokens_of_step(buffer: &Buffer, cols: usize, step: usize) -> Buffer {
    let all = buffer.to_f32().unwrap();
    let packed = Packed::from_lengths(&LENGTHS).unwrap();
    let running = (0..LENGTHS.len()).filter(|&s| step < LENGTHS[s]);
    let rows = running.map(|s| packed.range(s).start + step).flat_map(|t| &all[t * cols..(t + 1) * cols]);
    Buffer::from_f32(buffer.device(), buffer.dtype(), &rows.copied().collect::<Vec<f32>>()).unwrap()
}

/// What a step wrote for its sequences, put where the whole pack has it.
fn put_step(all: &mut [f32], cols: usize, step: usize, rows: &[f32]) {
    let packed = Packed::from_lengths(&LENGTHS).unwrap();
    for (s, row) in rows.chunks(cols).enumerate() {
        let t = packed.range(s).start + step;
        all[t * cols..(t + 1) * cols].copy_from_slice(row);
    }
}

/// The pack of step `step`: the sequences that have so many tokens, all of them continued but at the first.
fn pack_of_step(step: usize) -> Packed {
    let running = LENGTHS.iter().filter(|&&length| step < length).count();
    Packed::one_token_each(&vec![step > 0; running]).unwrap()
}

fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in std::iter::zip(got, want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: element {i} is {got}, not {want}");
    }
}

/// The tensors of a scan over the whole pack.
struct Scan {
    u: Buffer,
    delta: Buffer,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    d_skip: Buffer,
    delta_bias: Buffer,
    z: Buffer,
}

impl Scan {
    fn new(device: &Device, io: Dtype) -> Scan {
        Scan {
            u: filled(device, io, T * D, -2.0, 2.0),
            delta: filled(device, io, T * D, -3.0, 1.0),
            a: filled(device, Dtype::F32, D * N, -4.0, -0.01),
            b: filled(device, io, T * N, -1.0, 1.5),
            c: filled(device, io, T * N, -1.5, 1.0),
            d_skip: filled(device, Dtype::F32, D, 0.5, 1.5),
            delta_bias: filled(device, Dtype::F32, D, -1.0, 1.0),
            z: filled(device, io, T * D, -3.0, 3.0),
        }
    }

    /// The same with only the tokens of one step.
    fn step(&self, step: usize) -> Scan {
        let copy =
            |buffer: &Buffer| Buffer::from_f32(buffer.device(), buffer.dtype(), &buffer.to_f32().unwrap()).unwrap();
        Scan {
            u: tokens_of_step(&self.u, D, step),
            delta: tokens_of_step(&self.delta, D, step),
            a: copy(&self.a),
            b: tokens_of_step(&self.b, N, step),
            c: tokens_of_step(&self.c, N, step),
            d_skip: copy(&self.d_skip),
            delta_bias: copy(&self.delta_bias),
            z: tokens_of_step(&self.z, D, step),
        }
    }

    /// Result and final states.
    fn run(&self, packed: &Packed, initial_state: Option<View<'_>>, chunk: u32) -> (Buffer, Buffer) {
        let (device, t) = (self.u.device(), packed.tokens());
        let out = Buffer::unwritten(device, self.u.dtype(), t * D).unwrap();
        let last = Buffer::unwritten(device, Dtype::F32, packed.sequences() * D * N).unwrap();
        let inputs = scan::Inputs {
            u: self.u.rows(t).unwrap(),
            delta: self.delta.rows(t).unwrap(),
            a: self.a.rows(D).unwrap(),
            b: self.b.rows(t).unwrap(),
            c: self.c.rows(t).unwrap(),
            d_skip: Some(self.d_skip.view()),
            delta_bias: Some(self.delta_bias.view()),
            z: Some(self.z.rows(t).unwrap()),
            initial_state,
        };
        let outputs = scan::Outputs { out: out.rows(t).unwrap(), final_state: Some(last.view()), checkpoints: None };
        let picked = scan::default_variant(&scan::Problem::of(&inputs, &outputs, true));
        let variant = scan::Forward { chunk, distance: chunk, ..picked };
        scan::forward(&packed.on(device).unwrap(), &variant, None, &inputs, &outputs).unwrap();
        (out, last)
    }
}

#[test]
fn a_scan_token_by_token_has_the_bits_of_the_whole() {
    for (device, io) in devices() {
        let scan = Scan::new(&device, io);
        let (out, last) = scan.run(&Packed::from_lengths(&LENGTHS).unwrap(), None, 16);
        let (mut stepped, mut ends) = (vec![f32::NAN; T * D], vec![f32::NAN; LENGTHS.len() * D * N]);
        let mut state: Option<Buffer> = None;
        for step in 0..LENGTHS[0] {
            let packed = pack_of_step(step);
            let initial = state.as_ref().map(|state| state.rows(state.len() / N / D).unwrap());
            let initial = initial.map(|all| all.rows_at(0, packed.sequences()).unwrap());
            let (out, last) = scan.step(step).run(&packed, initial, 8);
            put_step(&mut stepped, D, step, &out.to_f32().unwrap());
            let states = last.to_f32().unwrap();
            ends[..states.len()].copy_from_slice(&states);
            state = Some(last);
        }
        assert_same_bits(&stepped, &out.to_f32().unwrap(), &format!("out, {io} on {device}"));
        assert_same_bits(&ends, &last.to_f32().unwrap(), &format!("final_state, {io} on {device}"));
    }
}

#[test]
fn a_convolution_token_by_token_has_the_bits_of_the_whole() {
    for (device, io) in devices() {
        let x = filled(&device, io, T * D, -2.0, 2.0);
        let w = filled(&device, Dtype::F32, D * K, -1.0, 1.0);
        let bias = filled(&device, Dtype::F32, D, -0.5, 0.5);
        let run = |packed: &Packed, x: &Buffer, history: Option<View<'_>>| {
            let t = packed.tokens();
            let out = Buffer::unwritten(&device, io, t * D).unwrap();
            let last = Buffer::unwritten(&device, io, packed.sequences() * (K - 1) * D).unwrap();
            let inputs = conv::Inputs { x: x.rows(t).unwrap(), w: w.rows(D).unwrap(), b: Some(bias.view()), history };
            let outputs = conv::Outputs { out: out.rows(t).unwrap(), history: Some(last.view()) };
            let variant = conv::default_variant(&conv::Problem::of(&inputs, &outputs, true));
            conv::forward(&packed.on(&device).unwrap(), &variant, &inputs, &outputs).unwrap();
            (out, last)
        };
        let (out, last) = run(&Packed::from_lengths(&LENGTHS).unwrap(), &x, None);
        let (mut stepped, mut ends) = (vec![f32::NAN; T * D], vec![f32::NAN; LENGTHS.len() * (K - 1) * D]);
        let mut history: Option<Buffer> = None;
        for step in 0..LENGTHS[0] {
            let packed = pack_of_step(step);
            let seen = history.as_ref().map(|history| history.rows(history.len() / (K - 1) / D).unwrap());
            let seen = seen.map(|all| all.rows_at(0, packed.sequences()).unwrap());
            let (out, last) = run(&packed, &tokens_of_step(&x, D, step), seen);
            put_step(&mut stepped, D, step, &out.to_f32().unwrap());
            let rows = last.to_f32().unwrap();
            ends[..rows.len()].copy_from_slice(&rows);
            history = Some(last);
        }
        assert_same_bits(&stepped, &out.to_f32().unwrap(), &format!("out, {io} on {device}"));
        assert_same_bits(&ends, &last.to_f32().unwrap(), &format!("history, {io} on {device}"));
    }
}
