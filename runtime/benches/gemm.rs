//! Times matrix products on a GPU: 8192^3, and all of a 1.4B Mamba model's.
//!
//! `cargo bench -p packscan-runtime --bench gemm -- [--tokens T] [--cpu]`
//!
//! Operands are bf16, forward and dgrad results bf16, wgrad results f32 and added to. Values are random: products of zeros or of NaN
//! draw less power and run faster than real ones. Each time is the median of 20 calls between two events. `--cpu` times the native
//! path instead, one call each.

use std::time::Instant;

use half::bf16;
use packscan_runtime::{Buffer, Device, Dtype, Gemm, GemmContext, Operand, View};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

/// Model width, channels, rank of delta, state size and vocabulary of the 1.4B model.
const M: usize = 2048;
const D: usize = 4096;
const R: usize = 128;
const N: usize = 16;
const V: usize = 50_280;

/// A layer `y (T, outputs) = x (T, inputs) * w (outputs, inputs)^T`.
struct Layer {
    name: &'static str,
    inputs: usize,
    /// Elements from one row of x to the next.
    stride: usize,
    outputs: usize,
}

const LAYERS: [Layer; 5] = [
    Layer { name: "in_proj", inputs: M, stride: M, outputs: 2 * D },
    Layer { name: "x_proj", inputs: D, stride: D, outputs: R + 2 * N },
    Layer { name: "dt_proj", inputs: R, stride: R + 2 * N, outputs: D },
    Layer { name: "out_proj", inputs: D, stride: D, outputs: M },
    Layer { name: "head", inputs: M, stride: M, outputs: V },
];

fn main() -> AnyResult<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let cpu = arguments.iter().any(|a| a == "--cpu");
    let tokens = arguments.iter().position(|a| a == "--tokens").and_then(|i| arguments.get(i + 1));
    let tokens = tokens.map_or(Ok(if cpu { 256 } else { 16_384 }), |text| text.parse())?;
    let device = if cpu { Ok(Device::Cpu) } else { Device::cuda(0) };
    let bench = match device.and_then(|device| Ok(Bench { context: GemmContext::new(&device)?, device })) {
        Ok(bench) => bench,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    println!("T = {tokens}, {}", bench.device);
    let size = if cpu { 1024 } else { 8192 };
    bench.layer(&Layer { name: "square", inputs: size, stride: size, outputs: size }, size)?;
    LAYERS.iter().try_for_each(|layer| bench.layer(layer, tokens))
}

struct Bench {
    context: GemmContext,
    device: Device,
}

impl Bench {
    /// Forward, dgrad and wgrad of a layer.
    fn layer(&self, layer: &Layer, t: usize) -> AnyResult<()> {
        let Layer { name, inputs: k, stride, outputs: n } = *layer;
        let (x, w, y) = (self.random(t * stride)?, self.random(n * k)?, self.random(t * n)?);
        let dw = Buffer::from_slice(&self.device, &vec![0f32; n * k])?;
        let (x, w, y, dw) = (x.rows(t)?.columns(0, k)?, w.rows(n)?, y.rows(t)?, dw.rows(n)?);
        let plain = Operand::plain;
        // Gradients have the shapes and strides of what they are gradients of, and random values as good as any.
        let product = |m, n, k, a, b, c: View<'_>| {
            self.median_ms(&Gemm { m, n, k, a, b, c, alpha: 1.0, accumulate: c.buffer().dtype() == Dtype::F32 })
        };
        let times = [
            ("forward", product(t, n, k, plain(x), Operand::transposed(w), y)?),
            ("dgrad", product(t, k, n, plain(y), plain(w), x)?),
            ("wgrad", product(n, k, t, Operand::transposed(y), plain(x), dw)?),
        ];
        for (pass, ms) in times {
            let tflops = 2.0 * t as f64 * n as f64 * k as f64 / (f64::from(ms) * 1e9);
            println!("{ms:9.3} ms {tflops:8.3} TFLOP/s  {name} {pass}: T = {t}, {k} -> {n}");
        }
        Ok(())
    }

    /// Numbers from 0.5 to 1 of both signs.
    fn random(&self, len: usize) -> AnyResult<Buffer> {
        let mut state = len as u64 | 1;
        let numbers: Vec<bf16> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bf16::from_bits(0x3F00 | (state >> 24) as u16 & 0x807F)
            })
            .collect();
        Ok(Buffer::from_slice(&self.device, &numbers)?)
    }

    fn median_ms(&self, gemm: &Gemm<'_>) -> AnyResult<f32> {
        let Device::Cuda(cuda) = &self.device else {
            let start = Instant::now();
            gemm.run(&self.context)?;
            return Ok(start.elapsed().as_secs_f32() * 1e3);
        };
        (0..3).try_for_each(|_| gemm.run(&self.context))?;
        self.device.synchronize()?;
        let times = cuda.times_ms(20, || gemm.run(&self.context));
        let mut times = times?;
        times.sort_by(f32::total_cmp);
        Ok(times[times.len() / 2])
    }
}
