//! Times matrix products: 8192^3, and all of a Mamba model's, as its training step asks for them.
//!
//! `cargo bench -p packscan-runtime --bench gemm -- [--model 130m|1.4b|2.8b] [--tokens T] [--algorithms K] [--cpu]`
//!
//! Operands are bf16, forward and dgrad results bf16, wgrad results f32; x_proj's dgrad is added to, wgrads are overwritten and added to.
//! delta's factor is the first columns of x_dbl. The head's rows are those of a chunk. Values are random: products of zeros or of NaN draw
//! less power and run faster than real ones. Each time is the median of 20 calls between two events, which take turns over tensors that
//! together exceed the L2. `--cpu` times the native path instead, one call each.
//!
//! `--algorithms K` times the K algorithms that cuBLASLt thinks best, in turn, and then the first and the fastest once more: what the fastest
//! gains is of that second race, since the least of K times is less than it will be again. A step's products are those of all blocks and of
//! the head, forward once, wgrads added to.

use std::time::Instant;

use half::bf16;
use packscan_runtime::{Buffer, Device, Dtype, Gemm, GemmContext, Operand, View};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

/// Name, width, rank of delta and blocks of the models.
const MODELS: [(&str, usize, usize, usize); 3] =
    [("130m", 768, 48, 24), ("1.4b", 2048, 128, 48), ("2.8b", 2560, 160, 64)];
/// State size and vocabulary of all of them.
const N: usize = 16;
const V: usize = 50_280;
/// Tokens whose logits exist at a time.
const LOGITS_ROWS: usize = 2560;
/// Calls of an algorithm that are timed, in rounds.
const ROUNDS: usize = 5;
const CALLS: usize = 4;

/// A layer `y (t, outputs) = x (t, inputs) * w (outputs, inputs)^T`.
struct Layer {
    name: &'static str,
    t: usize,
    inputs: usize,
    /// Elements from one row of x to the next.
    stride: usize,
    outputs: usize,
    /// Whether x's gradient is added to.
    adds: bool,
    /// How often a step does it.
    count: f64,
}

fn layers(tokens: usize, m: usize, r: usize, blocks: usize) -> [Layer; 5] {
    let (d, dbl, count) = (2 * m, r + 2 * N, blocks as f64);
    let layer = |name, inputs, outputs| Layer { name, t: tokens, inputs, stride: inputs, outputs, adds: false, count };
    let rows = tokens.min(LOGITS_ROWS);
    [
        layer("in_proj", m, 2 * d),
        Layer { adds: true, ..layer("x_proj", d, dbl) },
        Layer { stride: dbl, ..layer("dt_proj", r, d) },
        layer("out_proj", d, m),
        Layer { t: rows, count: tokens as f64 / rows as f64, ..layer("head", m, V) },
    ]
}

fn main() -> AnyResult<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let cpu = arguments.iter().any(|a| a == "--cpu");
    let tokens = option("--tokens").map_or(Ok(if cpu { 256 } else { 16_384 }), |text| text.parse())?;
    let algorithms = option("--algorithms").map_or(Ok(1), |text| text.parse())?;
    let name = option("--model").map_or("1.4b", String::as_str);
    let (_, m, r, blocks) = *MODELS.iter().find(|model| model.0 == name).ok_or("--model is 130m, 1.4b or 2.8b")?;
    let device = if cpu { Ok(Device::Cpu) } else { Device::cuda(0) };
    let bench = match device.and_then(|device| Ok((GemmContext::new(&device)?, device))) {
        Ok((context, device)) => Bench::new(context, device, tokens, algorithms)?,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let version = bench.context.cublaslt_version().map_or(String::new(), |version| format!(", cuBLASLt {version}"));
    println!("{name}, T = {tokens}, {}{version}", bench.device);
    if algorithms == 1 {
        let size = if cpu { 1024 } else { 8192 };
        let square =
            Layer { name: "square", t: size, inputs: size, stride: size, outputs: size, adds: false, count: 0.0 };
        bench.layer(&square)?;
    }
    let mut step = [0.0; 2];
    for layer in layers(tokens, m, r, blocks) {
        let ms = bench.layer(&layer)?;
        step = [0, 1].map(|i| step[i] + layer.count * ms[i]);
    }
    let [first, best] = step;
    println!(
        "products of a step: {first:.1} ms; by the fastest {best:.1} ms, {:.2} % less",
        100.0 * (1.0 - best / first)
    );
    Ok(())
}

struct Bench {
    context: GemmContext,
    device: Device,
    algorithms: usize,
    l2_bytes: usize,
    /// Random bf16, to be read.
    read: Buffer,
    /// bf16 and f32, to be written.
    written: [Buffer; 2],
    /// What the GPU clears while the host launches ahead.
    ahead: Buffer,
}

/// A product, in each turn with other tensors.
struct Product<'a> {
    turns: Vec<Gemm<'a>>,
    what: String,
}

impl Bench {
    fn new(context: GemmContext, device: Device, tokens: usize, algorithms: usize) -> AnyResult<Bench> {
        let (io, l2_bytes) = match &device {
            Device::Cuda(cuda) => ((tokens * 18_000).max(300_000_000), cuda.l2_bytes()?),
            _ => (150_000_000, 0),
        };
        let read = random(&device, io)?;
        let written = [Buffer::unwritten(&device, Dtype::Bf16, io)?, Buffer::unwritten(&device, Dtype::F32, V * 2560)?];
        written.iter().try_for_each(Buffer::zero)?;
        let ahead = Buffer::unwritten(&device, Dtype::U32, if l2_bytes > 0 { 64 << 20 } else { 1 })?;
        Ok(Bench { context, device, algorithms, l2_bytes, read, written, ahead })
    }

    /// Forward, dgrad and wgrad of a layer: their time together by the first algorithm and by the fastest.
    fn layer(&self, layer: &Layer) -> AnyResult<[f64; 2]> {
        let mut sums = [0.0; 2];
        for (pass, counted) in [("forward", true), ("dgrad", true), ("wgrad =", false), ("wgrad +=", true)] {
            let what = format!("{} {pass}: {} x {} -> {}", layer.name, layer.t, layer.inputs, layer.outputs);
            let times = self.measure(&Product { turns: self.turns(layer, pass)?, what })?;
            if counted {
                sums = [0, 1].map(|i| sums[i] + times[i]);
            }
        }
        Ok(sums)
    }

    /// Gradients have the shapes and strides of what they are gradients of, and random values as good as any.
    fn turns(&self, layer: &Layer, pass: &str) -> AnyResult<Vec<Gemm<'_>>> {
        let Layer { t, inputs: k, stride, outputs: n, adds, .. } = *layer;
        let [xs, ws, ys] = [t * stride, n * k, t * n];
        let touched_bytes = match pass {
            "forward" | "dgrad" => 2 * (t * k + ws + ys),
            _ => 2 * (t * k + ys) + 4 * ws,
        };
        let [io, sums] = &self.written;
        let room = (self.read.len() / (xs + ws + ys).next_multiple_of(128)).min(sums.len() / ws);
        let turns = (2 * self.l2_bytes).div_ceil(touched_bytes).clamp(1, room.max(1));
        let turn = |i: usize| -> AnyResult<Gemm<'_>> {
            let start = i * (xs + ws + ys).next_multiple_of(128);
            let x = |of| View::columns(Buffer::part(of, start, t, stride)?, 0, k);
            let w = |of| Buffer::part(of, start + xs, n, k);
            let y = |of| Buffer::part(of, start + xs + ws, t, n);
            let (plain, read, alpha) = (Operand::plain, &self.read, 1.0);
            Ok(match pass {
                "forward" => {
                    let (a, b) = (plain(x(read)?), Operand::transposed(w(read)?));
                    Gemm { m: t, n, k, a, b, c: y(io)?, alpha, accumulate: false }
                }
                "dgrad" => {
                    let (a, b) = (plain(y(read)?), plain(w(read)?));
                    Gemm { m: t, n: k, k: n, a, b, c: x(io)?, alpha, accumulate: adds }
                }
                _ => {
                    let (a, b) = (Operand::transposed(y(read)?), plain(x(read)?));
                    let c = sums.part(i * ws, n, k)?;
                    Gemm { m: n, n: k, k: t, a, b, c, alpha, accumulate: pass == "wgrad +=" }
                }
            })
        };
        (0..turns).map(turn).collect()
    }

    /// Prints a product; gives its time by the first algorithm and by the fastest.
    fn measure(&self, product: &Product<'_>) -> AnyResult<[f64; 2]> {
        let Product { turns, what } = product;
        let names = self.context.algorithms(&turns[0], self.algorithms)?;
        let tflops = |ms: f64| 2.0 * turns[0].m as f64 * turns[0].n as f64 * turns[0].k as f64 / (ms * 1e9);
        if names.len() < 2 {
            let ms = match &self.device {
                Device::Cuda(_) => self.race(turns, &names)?[0],
                _ => {
                    let start = Instant::now();
                    turns[0].run(&self.context)?;
                    start.elapsed().as_secs_f64() * 1e3
                }
            };
            println!("{ms:9.4} ms {:8.3} TFLOP/s  {what}", tflops(ms));
            return Ok([ms, ms]);
        }
        let times = self.race(turns, &names)?;
        let fastest = (0..names.len()).min_by(|&i, &j| times[i].total_cmp(&times[j])).unwrap_or(0);
        let again = self.race(turns, &[names[0].clone(), names[fastest].clone()])?;
        // Of equals, and of one that won by chance, nothing is gained.
        let best = again[0].min(again[1]);
        let all: Vec<String> = times.iter().map(|ms| format!("{ms:.4}")).collect();
        println!(
            "{what:42} {:.4} -> {best:.4} ms {:5.1} %  #{fastest} of {}",
            again[0],
            100.0 * (1.0 - best / again[0]),
            all.join(" ")
        );
        if best < 0.99 * again[0] {
            println!("{:42} {} -> {}", "", names[0], names[fastest]);
        }
        Ok([again[0], best])
    }

    /// The median time of each algorithm, in turn with the others.
    fn race(&self, turns: &[Gemm<'_>], names: &[String]) -> AnyResult<Vec<f64>> {
        let Device::Cuda(cuda) = &self.device else { return Err("only a GPU has algorithms".into()) };
        let mut times = vec![Vec::new(); names.len()];
        let mut call = 0;
        // The first round is not timed.
        for round in 0..=ROUNDS {
            for (name, times) in std::iter::zip(names, &mut times) {
                self.context.choose([(turns[0].kind().as_str(), name.as_str())]);
                if self.context.algorithm(&turns[0])?.as_ref() != Some(name) {
                    return Err(format!("{name} is not among the algorithms of {}", turns[0]).into());
                }
                self.ahead.zero()?;
                let ms = cuda.times_ms(CALLS, || {
                    call += 1;
                    turns[call % turns.len()].run(&self.context)
                })?;
                if round > 0 {
                    times.extend(ms);
                }
            }
        }
        Ok(times.into_iter().map(median).collect())
    }
}

fn median(mut ms: Vec<f32>) -> f64 {
    ms.sort_by(f32::total_cmp);
    f64::from(ms[ms.len() / 2])
}

/// Numbers from 0.5 to 1 of both signs.
fn random(device: &Device, len: usize) -> AnyResult<Buffer> {
    let mut state = len as u64 | 1;
    let mut numbers = Vec::with_capacity(len.next_multiple_of(4));
    while numbers.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.extend([0, 16, 32, 48].map(|bit| bf16::from_bits(0x3F00 | (state >> bit) as u16 & 0x807F)));
    }
    numbers.truncate(len);
    Ok(Buffer::from_slice(device, &numbers)?)
}
