//! Times whole training steps on random tokens with the lengths of natural text.
//!
//! `cargo bench -p packscan-train --bench step -- [--model 130m] [--tokens 16384] [--steps 10] [--recompute cheap] [--cpu]`
//!
//! Lengths are log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048, the last cut to fill the pack. As in a run, the next step is launched
//! before a step is waited for; the time is the median from the end of a step to the end of the next, after the first two, by the
//! host's clock. On a GPU a few more steps are then waited for one by one, to see how far ahead of it the host is.

use std::time::Instant;

use packscan_runtime::{Device, Dtype, Packed};
use packscan_train::parameters::Layout;
use packscan_train::{DevicePack, Learner, Model, ModelConfig, Rates};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

/// The words after a flag, or a default.
fn option<T: std::str::FromStr>(flag: &str, default: T) -> T {
    let words: Vec<String> = std::env::args().collect();
    let given = words.iter().position(|w| w == flag).and_then(|at| words.get(at + 1));
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{flag} cannot be {text}")))
}

fn main() -> AnyResult<()> {
    let (tokens, steps) = (option("--tokens", 16_384), option("--steps", 10_u32));
    let cpu = std::env::args().any(|word| word == "--cpu");
    let (device, io) = match cpu {
        true => (Device::Cpu, Dtype::F32),
        false => match Device::cuda(0) {
            Ok(device) => (device, Dtype::Bf16),
            Err(error) => {
                println!("skipped: {error}");
                return Ok(());
            }
        },
    };
    let name = option("--model", "130m".to_owned());
    let config = ModelConfig::named(&name)?.for_vocabulary(if name == "tiny" { 257 } else { 50_277 })?;
    let layout = Layout::of(&config);
    println!("{name}: {} parameters, {tokens} tokens a step, {device}", layout.parameters());
    let model = Model::new(&device, io, &config, &layout.fresh(0))?;
    let recompute = vec![option("--recompute", packscan_train::activations::Recompute::Cheap); config.layers];
    let mut learner = Learner::new(model, tokens, 1, &recompute)?;
    let mut room = DevicePack::with_room(&device, tokens, config.vocabulary)?;
    let rates = Rates { warmup: 10, steps, ..Rates::default() };
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let (mut times, mut last) = (Vec::new(), Instant::now());
    // One more than is told of, so that each of those has a next.
    for step in 1..=steps + 1 {
        fill(&mut room, &config, tokens, &mut random)?;
        let report = learner.start(std::slice::from_ref(&room), &rates, rates.at(step))?;
        let Some(report) = report else { continue };
        times.push(last.elapsed().as_secs_f64());
        last = Instant::now();
        println!(
            "step {}: loss {:.4}, gradient norm {:.3}, {:.1} ms",
            step - 1,
            report.loss,
            report.gradient_norm,
            times[times.len() - 1] * 1e3
        );
    }
    learner.finish()?;
    let mut rest = times.split_off(2.min(times.len() - 1));
    rest.sort_by(f64::total_cmp);
    let median = rest[rest.len() / 2];
    let rate = tokens as f64 / median;
    println!(
        "{:.1} ms a step, {rate:.0} tokens/s, {:.1} TFLOP/s in matrix products",
        median * 1e3,
        rate * config.flops_per_token() / 1e12
    );
    if let Device::Cuda(cuda) = &device {
        for _ in 0..3 {
            let start = Instant::now();
            fill(&mut room, &config, tokens, &mut random)?;
            let fill_ms = start.elapsed().as_secs_f64() * 1e3;
            let (mut launched, mut host_ms) = (Ok(None), 0.0);
            let gpu_ms = cuda.time_ms(|| {
                let start = Instant::now();
                launched = learner.start(std::slice::from_ref(&room), &rates, rates.at(steps));
                host_ms = start.elapsed().as_secs_f64() * 1e3;
                Ok(())
            })?;
            launched?;
            learner.finish()?;
            println!(
                "a step alone: host enqueued in {host_ms:.1} ms after {fill_ms:.1} ms for its pack, GPU ran {gpu_ms:.1} ms"
            );
        }
        let mut smi = std::process::Command::new("nvidia-smi");
        let output = smi.args(["--query-gpu=memory.used", "--format=csv,noheader"]).output()?;
        print!("memory in use: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// Random tokens in sequences of natural lengths.
fn fill(room: &mut DevicePack, config: &ModelConfig, tokens: usize, random: &mut ChaCha8Rng) -> AnyResult<()> {
    let mut unit = || (f64::from(random.next_u32()) + 0.5) / f64::from(1u32 << 31) / 2.0;
    let (mut lengths, mut left) = (Vec::new(), tokens);
    while left > 0 {
        let normal = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        let length = ((6.2 + 0.8 * normal).exp() as usize).clamp(57, 2048).min(left);
        lengths.push(length);
        left -= length;
    }
    let ids: Vec<u32> = (0..tokens).map(|_| (unit() * config.vocabulary as f64) as u32).collect();
    let targets: Vec<u32> = ids.iter().skip(1).chain(&ids[..1]).copied().collect();
    Ok(room.set(&Packed::from_lengths(&lengths)?, &ids, &targets)?)
}
