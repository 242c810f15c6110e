//! Writes the page of a run that never was, to look at: `cargo run -p packscan-train --example report -- FOLDER`.

use std::path::PathBuf;

use packscan_train::report::{Metrics, MetricsFile, Page, Progress, Result, Status, read_metrics};

const STEPS: u64 = 4000;

/// xorshift64*, from 0 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: the sum of twelve, centred.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

fn metrics(step: u64, random: &mut Random) -> Metrics {
    let at = step as f64;
    let curve = 1.9 + 9.0 / (1.0 + at / 9.0).powf(0.62);
    let skipped = step == 1310;
    let warm = (at / 200.0).min(1.0);
    let decay = 0.5 * (1.0 + (std::f64::consts::PI * (at - 200.0).max(0.0) / (STEPS as f64 - 200.0)).cos());
    let slow = if (2200..2260).contains(&step) { 0.72 } else { 1.0 };
    let tokens_per_second = 152_000.0 * slow * (1.0 + 0.012 * random.normal()) * (1.0 - 0.6 * (-at / 4.0).exp());
    Metrics {
        step,
        epoch: at / 1650.0,
        loss: if skipped { f64::NAN } else { curve * (1.0 + 0.022 * random.normal()) },
        held_out_loss: step.is_multiple_of(250).then(|| curve * 1.012 + 0.01 * random.normal()),
        gradient_norm: if skipped {
            f64::INFINITY
        } else {
            (0.3 + 9.0 / (1.0 + at / 20.0)) * (0.22 * random.normal()).exp()
        },
        learning_rate: 6e-4 * warm * (0.1 + 0.9 * decay),
        tokens: 16_384 - (random.next() * 40.0) as u64,
        tokens_per_second,
        flops_utilisation: Some(tokens_per_second / 152_000.0 * 0.287),
        memory_bytes: Some(13_100_000_000),
        padding: 0.0011 * random.next(),
        skipped,
        elapsed_s: at * 0.1084,
    }
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let steps = std::env::args().nth(2).and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    let mut random = Random(41);
    let mut file = MetricsFile::create(&folder.join("metrics.jsonl"))?;
    let mut progress = Progress::new(0, STEPS);
    for step in 1..=steps {
        let metrics = metrics(step, &mut random);
        progress.step(&metrics);
        file.append(&metrics)?;
    }
    progress.finish();
    let lengths: Vec<(u64, u64)> =
        (0..40_000).map(|_| ((6.2 + 0.8 * random.normal()).exp().clamp(1.0, 8192.0) as u64, 1)).collect();
    let page = Page {
        name: "wiki-130m",
        model: "130m",
        device: "NVIDIA H200",
        status: if steps < STEPS { Status::Running } else { Status::Finished },
        parameters: 129_135_360,
        steps: STEPS,
        metrics: &read_metrics(&folder.join("metrics.jsonl"))?,
        lengths: &lengths,
        configuration: "[model]\npreset = \"130m\"\nvocabulary = 50280\ntied = true\n\n[data]\nfiles = [\"wiki/*.jsonl.zst\"]\ntext_field = \"text\"\npacking = \"best-fit-decreasing\"\npack_tokens = 4096\nseed = 1\n\n[train]\nsteps = 4000\ntokens_per_step = 16384\nlearning_rate = 6e-4\nwarm_up = 200\nclip = 1.0\ndtype = \"bf16\"\nrecompute = \"cheap\"\n",
    };
    page.write(&folder.join("run.html"))
}
