//! Times the selective scan on a GPU, after checking a slice of the result with the book.
//!
//! `cargo bench -p packscan-verify --bench selective_scan -- [--tokens T] [--channels D] [--state N] [ID ...]`
//!
//! Sequence lengths are log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048, the last cut to fill the pack: natural text. Without
//! ids the hand-picked variant runs. Each time is the median of 20 launches between two events, in milliseconds.

use half::bf16;
use packscan_kernels::selective_scan::{self as scan, Forward, Problem, default_variant};
use packscan_reference::selective_scan as book;
use packscan_reference::{Bounded, Io};
use packscan_runtime::{Buffer, Cuda, Device, DevicePacked, Dtype, Packed};
use packscan_verify::Random;

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

/// What is timed.
struct Size {
    tokens: usize,
    channels: usize,
    state: usize,
    ids: Vec<String>,
}

fn main() -> AnyResult<()> {
    let size = arguments()?;
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let packed = Packed::from_lengths(&natural_lengths(size.tokens))?;
    let problem = Problem {
        channels: size.channels,
        state: size.state,
        io: Dtype::Bf16,
        softplus: true,
        bias: true,
        skip: true,
        gate: true,
        initial: false,
        last: false,
        checkpoints: true,
    };
    let data = Data::new(&device, &packed, &size)?;
    let on_device = packed.on(&device)?;
    println!("{} x {}, N = {}, {} sequences, {device}", size.tokens, size.channels, size.state, packed.sequences());
    let floors = Floors::new(cuda, &size)?;
    println!("floors: special functions {:.3} ms, memory {:.3} ms", floors.special_ms, floors.memory_ms);
    let variants = match size.ids.is_empty() {
        true => vec![default_variant(&problem)],
        false => size.ids.iter().map(|id| id.parse()).collect::<Result<Vec<Forward>, _>>()?,
    };
    for variant in &variants {
        match data.measure(cuda, &on_device, variant) {
            Ok((ms, low, high)) => {
                let blocks = cuda.blocks_per_multiprocessor(variant)?;
                println!("{ms:8.3} ms ({low:.3} to {high:.3}, {blocks} blocks a multiprocessor)  {variant}");
            }
            Err(error) => println!("       - {variant}: {error}"),
        }
    }
    Ok(())
}

fn arguments() -> AnyResult<Size> {
    let mut size = Size { tokens: 65_536, channels: 4096, state: 16, ids: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().ok_or(format!("{word} needs a number"))?.parse::<usize>().map_err(|e| e.to_string());
        match word.as_str() {
            "--bench" => {}
            "--tokens" => size.tokens = number()?,
            "--channels" => size.channels = number()?,
            "--state" => size.state = number()?,
            _ => size.ids.push(word),
        }
    }
    Ok(size)
}

fn natural_lengths(tokens: usize) -> Vec<usize> {
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

/// The least time that the hardware could need.
struct Floors {
    special_ms: f64,
    memory_ms: f64,
}

impl Floors {
    /// Exponentials: N states, softplus, and two results of silu, at 16 a clock of each multiprocessor at 1.98 GHz. Memory: u, delta, z and
    /// out once, at the 4.28 TB/s that a copy reaches on an H200.
    fn new(cuda: &Cuda, size: &Size) -> AnyResult<Floors> {
        let elements = (size.tokens * size.channels) as f64;
        let rate = cuda.multiprocessors()? as f64 * 16.0 * 1.98e9;
        let special_ms = elements * (size.state as f64 + 3.0) / rate * 1e3;
        Ok(Floors { special_ms, memory_ms: elements * 8.0 / 4.28e12 * 1e3 })
    }
}

/// The inputs, on the device and, for the book, on the host.
struct Data {
    activations: [Buffer; 3],
    projections: [Buffer; 2],
    parameters: [Buffer; 3],
    out: Buffer,
    host: [Vec<bf16>; 5],
    host_parameters: [Vec<f32>; 3],
    lengths: Vec<usize>,
    channels: usize,
    state: usize,
}

impl Data {
    fn new(device: &Device, packed: &Packed, size: &Size) -> AnyResult<Data> {
        let (t, d, n) = (packed.tokens(), size.channels, size.state);
        let ranges = [
            ("u", d, -2.0, 2.0),
            ("delta", d, -6.0, 2.0),
            ("z", d, -5.0, 5.0),
            ("b", n, -1.0, 1.0),
            ("c", n, -1.0, 1.0),
        ];
        let host = ranges.map(|(name, cols, low, high)| repeated(name, t * cols, low, high));
        let mut rates = Random::new(0, "a");
        let mut other = Random::new(0, "parameters");
        let host_parameters = [
            (0..d * n).map(|_| -rates.between(-3.0, 2.5).exp()).collect::<Vec<f32>>(),
            (0..d).map(|_| other.between(-1.0, 1.0)).collect(),
            (0..d).map(|_| other.between(0.0, 0.2)).collect(),
        ];
        let buffer = |i: usize| Buffer::from_slice(device, &host[i]);
        let parameter = |i: usize| Buffer::from_slice(device, &host_parameters[i]);
        Ok(Data {
            activations: [buffer(0)?, buffer(1)?, buffer(2)?],
            projections: [buffer(3)?, buffer(4)?],
            parameters: [parameter(0)?, parameter(1)?, parameter(2)?],
            out: Buffer::unwritten(device, Dtype::Bf16, t * d)?,
            lengths: packed.lengths(),
            host,
            host_parameters,
            channels: d,
            state: n,
        })
    }

    /// Median, least and most of 20 launches, in milliseconds.
    fn measure(&self, cuda: &Cuda, packed: &DevicePacked, variant: &Forward) -> AnyResult<(f32, f32, f32)> {
        let (t, d, n) = (packed.packed().tokens(), self.channels, self.state);
        let chunks = t.div_ceil(variant.chunk as usize);
        let checkpoints = Buffer::unwritten(packed.device(), Dtype::F32, chunks * d * n)?;
        let inputs = scan::Inputs {
            u: self.activations[0].rows(t)?,
            delta: self.activations[1].rows(t)?,
            a: self.parameters[0].rows(d)?,
            b: self.projections[0].rows(t)?,
            c: self.projections[1].rows(t)?,
            d_skip: Some(self.parameters[1].view()),
            delta_bias: Some(self.parameters[2].view()),
            z: Some(self.activations[2].rows(t)?),
            initial_state: None,
        };
        let outputs =
            scan::Outputs { out: self.out.rows(t)?, final_state: None, checkpoints: Some(checkpoints.rows(chunks)?) };
        let launch = || scan::forward(packed, variant, None, &inputs, &outputs).map(drop);
        launch()?;
        self.check(t)?;
        let mut times = (0..20).map(|_| cuda.time_ms(launch)).collect::<Result<Vec<f32>, _>>()?;
        times.sort_by(f32::total_cmp);
        Ok((times[times.len() / 2], times[0], times[times.len() - 1]))
    }

    /// Compares four channels of the result, over all tokens, with the book.
    fn check(&self, t: usize) -> AnyResult<()> {
        let (d, n) = (self.channels, self.state);
        let channels = [0, 1, d / 2, d - 1];
        let exact = |x: f32| Bounded { value: x.into(), error: 0.0 };
        let slice = |values: &[bf16]| -> Vec<Bounded> {
            (0..t).flat_map(|t| channels.map(|c| exact(values[t * d + c].to_f32()))).collect()
        };
        let of_channels = |values: &[f32], cols: usize| -> Vec<Bounded> {
            channels.iter().flat_map(|c| &values[c * cols..][..cols]).map(|&x| exact(x)).collect()
        };
        let whole = |values: &[bf16]| -> Vec<Bounded> { values.iter().map(|x| exact(x.to_f32())).collect() };
        let [a, skip, bias] = &self.host_parameters;
        let want = book::forward(
            &book::Pack::fresh(&self.lengths),
            &book::Inputs {
                channels: channels.len(),
                states: n,
                u: &slice(&self.host[0]),
                delta: &slice(&self.host[1]),
                a: &of_channels(a, n),
                b: &whole(&self.host[3]),
                c: &whole(&self.host[4]),
                d_skip: Some(&of_channels(skip, 1)),
                delta_bias: Some(&of_channels(bias, 1)),
                z: Some(&slice(&self.host[2])),
                softplus: true,
            },
        );
        let got = slice(&self.out.to_vec::<bf16>()?);
        for (i, (got, want)) in std::iter::zip(&got, &want.out).enumerate() {
            let want = want.rounded_to(Io::Bf16);
            if !(want.error.is_finite() && want.allows(got.value)) {
                let place = format!("token {}, channel {}", i / channels.len(), channels[i % channels.len()]);
                return Err(
                    format!("wrong at {place}: got {}, want {} within {}", got.value, want.value, want.error).into()
                );
            }
        }
        Ok(())
    }
}

/// `len` random numbers; those past four million repeat the first with a shift, so that no two rows are alike.
fn repeated(name: &str, len: usize, low: f32, high: f32) -> Vec<bf16> {
    let mut random = Random::new(0, name);
    let period = len.min(4_000_037);
    let first: Vec<bf16> = (0..period).map(|_| bf16::from_f32(random.between(low, high))).collect();
    first.iter().cycle().take(len).copied().collect()
}
