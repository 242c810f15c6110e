//! What the benches of operators that only move memory share: the device, random buffers, a row of the report.
#![allow(dead_code, reason = "each bench uses a part")]

use half::bf16;
use packscan_runtime::launch::Launched;
use packscan_runtime::{Buffer, Cuda, Device, Result};
use packscan_verify::Random;

/// What a copy reaches on an H200, in bytes a second.
const BANDWIDTH: f64 = 4.28e12;
/// Launches of which the median is taken.
const LAUNCHES: usize = 20;

/// The GPU, or none, with the reason printed.
pub fn gpu() -> Option<Device> {
    Device::cuda(0).map_err(|error| println!("skipped: {error}")).ok()
}

/// The numbers that follow these words on the command line, `--tokens 65536`, or else the given ones.
pub fn sizes<const COUNT: usize>(defaults: [(&str, usize); COUNT]) -> [usize; COUNT] {
    let words: Vec<String> = std::env::args().collect();
    defaults.map(|(word, default)| {
        let given = words.iter().position(|w| w == word).and_then(|at| words.get(at + 1));
        given.map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{word} needs a number, not {number}")))
    })
}

/// Prints the median of the launches' times beside the time that memory needs for `bytes`.
pub fn report(cuda: &Cuda, what: &str, bytes: usize, mut launch: impl FnMut() -> Result<Launched>) -> Result<()> {
    let mut launch = || launch().map(drop);
    launch()?;
    let mut times = cuda.times_ms(LAUNCHES, &mut launch)?;
    times.sort_by(f32::total_cmp);
    let (median, floor) = (f64::from(times[LAUNCHES / 2]), bytes as f64 / BANDWIDTH * 1e3);
    println!("{median:8.3} ms, memory floor {floor:.3} ms, ratio {:.2}  {what}", median / floor);
    Ok(())
}

/// A buffer of random f32 numbers, which repeat after some millions.
pub fn floats(device: &Device, name: &str, len: usize) -> Result<Buffer> {
    let first = random(name, len);
    let all: Vec<f32> = first.iter().cycle().take(len).copied().collect();
    Buffer::from_slice(device, &all)
}

/// A buffer of random bf16 numbers, which repeat after some millions.
pub fn halves(device: &Device, name: &str, len: usize) -> Result<Buffer> {
    let first: Vec<bf16> = random(name, len).into_iter().map(bf16::from_f32).collect();
    let all: Vec<bf16> = first.iter().cycle().take(len).copied().collect();
    Buffer::from_slice(device, &all)
}

/// Lengths as of natural text: log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048, the last cut to fill the pack.
pub fn natural_lengths(tokens: usize) -> Vec<usize> {
    let mut random = Random::new(0, "lengths");
    let mut left = tokens;
    let mut lengths = Vec::new();
    while left > 0 {
        // Box-Muller: a normal number from two uniform ones.
        let (radius, angle) = (random.between(1e-6, 1.0), random.between(0.0, std::f32::consts::TAU));
        let normal = (-2.0 * radius.ln()).sqrt() * angle.cos();
        let length = ((6.2 + 0.8 * normal).exp() as usize).clamp(57, 2048).min(left);
        lengths.push(length);
        left -= length;
    }
    lengths
}

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut random = Random::new(0, name);
    (0..len.min(4_000_037)).map(|_| random.between(-2.0, 2.0)).collect()
}
