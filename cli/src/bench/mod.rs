//! `packscan bench`: how fast kernels and whole steps are here.

mod cuts;
mod operators;
mod roofline;
mod step;

use std::path::PathBuf;

use clap::Args;
use packscan::{Device, Dtype};

use crate::error::{Error, Result};
use crate::{Verdict, parse};

/// What to time.
#[derive(Debug, Args)]
pub struct Bench {
    /// Operators, whose hand-picked variants are timed, or ids of variants [default: every operator].
    #[arg(value_name = "OP|ID")]
    what: Vec<String>,
    /// Only these passes of the operators: forward, backward, clip or tokens.
    #[arg(long, value_name = "PASS")]
    pass: Option<String>,
    /// Tokens of the pack, T [default: 65536, and 16384 with --step].
    #[arg(long, value_name = "T", value_parser = parse::size)]
    tokens: Option<usize>,
    /// Channels, D; the model is half as wide.
    #[arg(long, value_name = "D", default_value_t = 4096, value_parser = parse::size, conflicts_with = "model")]
    channels: usize,
    /// State size, N.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = parse::size, conflicts_with = "model")]
    state: usize,
    /// All sizes of this model, by name or as a TOML file.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Type of the activations [default: bf16, and f32 with --cpu].
    #[arg(long, value_parser = parse::dtype)]
    dtype: Option<Dtype>,
    /// A file with the tokens of each sequence [default: lengths as of natural text].
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    lengths: Option<PathBuf>,
    /// Cut the sequences of the scan along time: into segments of so many tokens, as the trainer would, or not; several are timed in
    /// turn. Ids of selective_scan_state among the operators name what finds the states of segments.
    #[arg(long, value_name = "auto|none|TOKENS", value_delimiter = ',', value_parser = cuts::parse)]
    cut: Vec<cuts::Asked>,
    /// Launches of which the median is taken.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = parse::size)]
    launches: usize,
    /// Print everything that was measured as JSON.
    #[arg(long)]
    json: bool,
    /// Draw a roofline: what is computed for each byte, how fast, and what the GPU could do.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure nothing: show what an earlier `bench --json` wrote to this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = MEASURED)]
    from: Option<PathBuf>,
    /// Time whole training steps of a model on synthetic text, and each operator's share.
    #[arg(long, requires = "model", conflicts_with_all = OF_KERNELS)]
    step: bool,
    #[command(flatten)]
    steps: step::Steps,
}

/// What decides a measurement.
const MEASURED: [&str; 11] =
    ["what", "pass", "tokens", "channels", "state", "model", "dtype", "lengths", "cut", "launches", "step"];

/// What is asked of kernels alone.
const OF_KERNELS: [&str; 8] = ["what", "pass", "channels", "state", "lengths", "cut", "launches", "svg"];

impl Bench {
    /// Times; bad if a result is not what the book says.
    pub fn run(&self) -> Result<Verdict> {
        if self.step {
            return self.steps.run(&step::Asked {
                model: self.model.as_deref().unwrap_or_default(),
                tokens: self.tokens.unwrap_or(16_384),
                dtype: self.dtype,
                json: self.json,
            });
        }
        self.kernels()
    }
}

/// The GPU, without which there is nothing to time.
fn gpu() -> Result<Device> {
    Device::cuda(0).map_err(|error| match error {
        packscan::Error::NoGpu { why, .. } => Error::BenchNeedsGpu { why },
        other => other.into(),
    })
}
