//! The scan with sequences cut along time: what a cut leaves as it was, and what bad calls get.

use packscan_kernels::selective_scan::split::{self, Scratch, Split};
use packscan_kernels::selective_scan::{self as scan, Forward, Problem, State, default_join, default_variant};
use packscan_runtime::{Buffer, Device, Dtype, Packed, Result, Segments};

const D: usize = 4;
const N: usize = 3;
const LENGTHS: [usize; 4] = [9, 0, 30, 1];
const T: usize = 40;

/// Out, final states and checkpoints of a scan, with sequences cut into segments of so many tokens or not.
fn run(device: &Device, segment: Option<usize>) -> Result<[Vec<f32>; 3]> {
    run_by(device, segment, State::for_forward(&variant(), D))
}

/// The same with states of segments found by this variant.
fn run_by(device: &Device, segment: Option<usize>, state: State) -> Result<[Vec<f32>; 3]> {
    let wave = |len: usize, step: f32| -> Result<Buffer> {
        let values: Vec<f32> = (0..len).map(|i| 0.6 + 0.5 * (i as f32 * step).sin()).collect();
        Buffer::from_f32(device, Dtype::F32, &values)
    };
    let (u, delta, b, c) = (wave(T * D, 0.7)?, wave(T * D, 0.3)?, wave(T * N, 1.1)?, wave(T * N, 0.9)?);
    let a = Buffer::from_f32(device, Dtype::F32, &(0..D * N).map(|i| -0.1 * (i + 1) as f32).collect::<Vec<_>>())?;
    let inputs = scan::Inputs {
        u: u.rows(T)?,
        delta: delta.rows(T)?,
        a: a.rows(D)?,
        b: b.rows(T)?,
        c: c.rows(T)?,
        d_skip: None,
        delta_bias: None,
        z: None,
        initial_state: None,
    };
    let variant = variant();
    let packed = Packed::from_lengths(&LENGTHS)?;
    let floats = |len| Buffer::unwritten(device, Dtype::F32, len);
    let chunks = T.div_ceil(variant.distance as usize);
    let (out, last, checkpoints) = (floats(T * D)?, floats(LENGTHS.len() * D * N)?, floats(chunks * D * N)?);
    let outputs =
        scan::Outputs { out: out.rows(T)?, final_state: Some(last.view()), checkpoints: Some(checkpoints.view()) };
    let on_device = packed.on(device)?;
    match segment {
        None => scan::forward(&on_device, &variant, Some(2), &inputs, &outputs)?,
        Some(segment) => {
            let segments = Segments::new(&packed, segment, device)?;
            let rows = segments.pack().packed().sequences();
            let (entering, scratch) = (floats(rows * D * N)?, Scratch::new(device, rows, D, N)?);
            let split = Split {
                segments: &segments,
                state,
                join: default_join(N as u32),
                entering: entering.view(),
                scratch: &scratch,
            };
            split::forward(&on_device, &variant, Some(2), &inputs, &outputs, &split)?
        }
    };
    Ok([out.to_f32()?, last.to_f32()?, checkpoints.to_f32()?])
}

fn variant() -> Forward {
    let problem = Problem {
        channels: D,
        state: N,
        io: Dtype::F32,
        softplus: false,
        bias: false,
        skip: false,
        gate: false,
        initial: false,
        last: true,
        checkpoints: true,
    };
    Forward { chunk: 16, ..default_variant(&problem) }.saving_every(8)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// What was asked of another pass, and in the other direction.
#[test]
fn the_options_of_what_finds_states_follow_from_the_call() {
    let device = Device::emulator(0);
    let own = State::for_forward(&variant(), D);
    let other = State { softplus: true, bias: true, gate: true, reverse: true, ends: false, ..own };
    for (own, other) in run(&device, Some(9)).unwrap().iter().zip(&run_by(&device, Some(9), other).unwrap()) {
        assert_eq!(bits(own), bits(other));
    }
}

#[test]
fn a_sequence_of_one_segment_keeps_every_bit() {
    let device = Device::emulator(0);
    let whole = run(&device, None).unwrap();
    let one_each = run(&device, Some(30)).unwrap();
    for (whole, cut) in whole.iter().zip(&one_each) {
        assert_eq!(bits(whole), bits(cut));
    }
    let [out, last, _] = run(&device, Some(9)).unwrap();
    assert_eq!(bits(&out[..9 * D]), bits(&whole[0][..9 * D]), "the first sequence is one segment");
    assert_eq!(bits(&last[..D * N]), bits(&whole[1][..D * N]));
    assert_ne!(bits(&out), bits(&whole[0]), "the third was cut, and rounds otherwise");
}

#[test]
fn the_cpu_walks_each_sequence_in_one_piece() {
    assert_eq!(run(&Device::Cpu, Some(9)).unwrap(), run(&Device::Cpu, None).unwrap());
}

#[test]
fn segments_of_another_pack_are_refused() {
    let device = Device::emulator(0);
    let segments = Segments::new(&Packed::from_lengths(&[3, 4]).unwrap(), 2, &device).unwrap();
    let other = Packed::from_lengths(&[4, 3]).unwrap().on(&device).unwrap();
    let error = segments.check(&other).unwrap_err().to_string();
    assert!(error.contains("segments") && error.contains("Packed(3 4)") && error.contains("Packed(4 3)"), "{error}");
    assert!(segments.check(&Packed::from_lengths(&[3, 4]).unwrap().on(&device).unwrap()).is_ok());
}
