//! `packscan tune`: the fastest verified variant of every kernel of a model, on the GPU at hand.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use packscan::runtime::cache;
use packscan::{Device, Dtype, Packed};
use packscan_train::ModelConfig;
use packscan_tune::file::{Contents, Tuned, TuningFile};
use packscan_tune::tune::{Found, Team};
use packscan_tune::workload::{Product, natural_lengths, read_lengths};
use packscan_verify::operators;

use crate::error::{Error, Result};
use crate::output::counted;
use crate::variants::{Launches, known};
use crate::{Verdict, output, parse, products, respawn};

/// What to tune for.
#[derive(Debug, Args)]
pub struct Tune {
    /// A size, tiny, 130m, 370m, 790m, 1.4b or 2.8b, or a TOML file with width, layers and what differs from the published sizes.
    #[arg(long, required_unless_present = "channels")]
    model: Option<String>,
    /// Channels of a block, D, instead of a model's.
    #[arg(long, value_name = "D", conflicts_with = "model", value_parser = parse::size)]
    channels: Option<usize>,
    /// State size, N, of such a block.
    #[arg(long, value_name = "N", default_value_t = 16, conflicts_with = "model", value_parser = parse::whole::<usize>)]
    state: usize,
    /// Entries of the vocabulary where the model does not say.
    #[arg(long, value_name = "V", default_value_t = 50_280, value_parser = parse::whole::<usize>)]
    vocabulary: usize,
    /// Tokens of a pack.
    #[arg(long, value_name = "T", default_value_t = 16_384, value_parser = parse::size)]
    tokens: usize,
    /// A file with the tokens of each sequence [default: lengths as of natural text].
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    lengths: Option<PathBuf>,
    /// Only this operator, or gemm for matrix products; may be repeated [default: all of a training step].
    #[arg(long, value_name = "OP", value_parser = parse::operator_or_gemm)]
    op: Vec<String>,
    /// Type of the activations: f32, f16 or bf16.
    #[arg(long, default_value = "bf16", value_parser = parse::dtype)]
    dtype: Dtype,
    /// Most seconds.
    #[arg(long, value_name = "S", default_value_t = 90.0, value_parser = parse::seconds)]
    seconds: f64,
    /// Leave this variant out; may be repeated. Hand-picked ones stay.
    #[arg(long, value_name = "ID")]
    without: Vec<String>,
    /// Add what is found to this file too: the one that comes with packscan.
    #[arg(long, value_name = "FILE")]
    write_shipped: Option<PathBuf>,
}

/// Blocks of a model of which only the channels are known: those of the published sizes from 370M on.
const BLOCKS: usize = 48;

impl Tune {
    /// Tunes, prints what was found, and keeps it.
    pub fn run(&self) -> Result<Verdict> {
        let launches = Launches::new(&self.config()?, self.dtype, self.lengths()?);
        self.check_operators()?;
        let device = gpu()?;
        let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
        let teams = self.asked(launches.teams(&device)?);
        let (known, said) = known(cuda)?;
        said.iter().for_each(|said| output::note(said));
        let found = match launches.tune(&device, &known, teams, self.seconds) {
            Err(Error::Tune(packscan_tune::Error::Lost { ids })) => return self.without(&launches, ids),
            found => found?,
        };
        let products: Vec<&str> = match self.op.is_empty() || self.op.iter().any(|op| op == "gemm") {
            true => Product::kinds(&launches.problem).into_iter().map(|(name, _)| name).collect(),
            false => Vec::new(),
        };
        // Whatever becomes of them, what the kernels took a minute to find is kept.
        let products = launches.tune_products(&device, &products).unwrap_or_else(|error| {
            output::note(&format!("no product was tuned: {error}"));
            Vec::new()
        });
        let mut good: Vec<Tuned> = found.iter().filter_map(|found| found.tuned.as_ref().ok().cloned()).collect();
        good.extend(products.iter().map(|found| found.tuned.clone()));
        if let Some(path) = &self.write_shipped {
            add_to_shipped(path, cuda.name(), &good)?;
        }
        let problem = &launches.problem;
        let size = format!(
            "{} x {}, N = {}, {}, {}, {device}",
            counted(problem.tokens(), "token"),
            counted(problem.channels, "channel"),
            problem.state,
            problem.io,
            counted(problem.lengths.len(), "sequence")
        );
        let file = TuningFile::of(&cache::default_folder()?, cuda.name());
        let tables = [report(&found), products::report(&products)].join("\n");
        output::results(format!("{size}\n\n{tables}\nkept in {}\n", file.path().display()))?;
        match found.into_iter().find_map(|found| found.tuned.err()) {
            Some(error) => Err(error.into()),
            None => Ok(Verdict::Good),
        }
    }

    fn config(&self) -> Result<ModelConfig> {
        let config = match (&self.model, self.channels) {
            (Some(name), _) => ModelConfig::named(name)?,
            (None, Some(channels)) => {
                let expand = if channels.is_multiple_of(2) { 2 } else { 1 };
                let width = channels / expand;
                ModelConfig { expand, state: self.state, ..ModelConfig::of(width, BLOCKS) }
            }
            (None, None) => unreachable!("one of them is required"),
        };
        let vocabulary = if config.vocabulary == 0 { self.vocabulary } else { config.vocabulary };
        Ok(config.for_vocabulary(vocabulary)?)
    }

    fn lengths(&self) -> Result<Vec<usize>> {
        let Some(path) = &self.lengths else { return Ok(natural_lengths(self.tokens, 0)) };
        let lengths = read_lengths(path)?;
        match Packed::from_lengths(&lengths)?.tokens() {
            0 => Err(Error::NoTokens { path: path.clone() }),
            _ => Ok(lengths),
        }
    }

    /// That there is something to tune in each operator.
    fn check_operators(&self) -> Result<()> {
        const OF_A_STEP: [&str; 8] =
            ["selective-scan", "causal-conv1d", "rms-norm", "embedding", "cross-entropy", "grad-norm", "adamw", "gemm"];
        match self.op.iter().find(|op| !OF_A_STEP.contains(&op.as_str())) {
            Some(op) => Err(Error::NothingToTune { operator: op.clone(), known: OF_A_STEP.join(", ") }),
            None => Ok(()),
        }
    }

    /// Once more without variants that the GPU did not survive. Where they are the hand-picked ones, nothing is to be done.
    fn without(&self, launches: &Launches, ids: Vec<String>) -> Result<Verdict> {
        let new = ids.iter().filter(|id| !launches.is_hand_picked(id) && !self.without.contains(id));
        let more: Vec<String> = new.flat_map(|id| ["--without".to_owned(), id.clone()]).collect();
        if !more.is_empty() {
            respawn::again(&more, "the GPU runs nothing any more")?;
        }
        Err(packscan_tune::Error::Lost { ids }.into())
    }

    /// The teams of the operators that were asked for, and of their candidates those that were not to be left out.
    fn asked(&self, mut teams: Vec<Team>) -> Vec<Team> {
        for slot in teams.iter_mut().flatten() {
            let hand_picked = slot.hand_picked().to_owned();
            slot.candidates.retain(|candidate| candidate.id == hand_picked || !self.without.contains(&candidate.id));
        }
        let operator = |kernel: &str| operators::PASSES.iter().find(|p| p.kernel == kernel).map(|p| p.operator);
        let asked = |team: &Team| {
            self.op.is_empty() || team.iter().any(|slot| self.op.iter().any(|op| operator(slot.kernel) == Some(op)))
        };
        teams.into_iter().filter(asked).collect()
    }
}

/// The GPU, without which there is nothing to time.
fn gpu() -> Result<Device> {
    Device::cuda(0).map_err(|error| match error {
        packscan::Error::NoGpu { why, .. } => Error::TuneNeedsGpu { why },
        other => other.into(),
    })
}

/// Adds entries to the file that comes with packscan.
fn add_to_shipped(path: &Path, gpu: &str, new: &[Tuned]) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), option: "--write-shipped", source };
    let mut contents = match path.exists() {
        false => Contents::empty(gpu),
        true => {
            let text = fs::read_to_string(path).map_err(failed)?;
            let contents = Contents::parse(&text).ok().filter(|contents| contents.gpu == gpu);
            contents.ok_or_else(|| failed(std::io::Error::other(format!("it is no tuning file of {gpu}"))))?
        }
    };
    // Of a driver that is no more, an entry would never be asked for again.
    contents.tuned.retain(|old| {
        !new.iter().any(|new| (&new.kernel, &new.problem, new.tokens) == (&old.kernel, &old.problem, old.tokens))
    });
    contents.merge(new);
    fs::write(path, contents.text()).map_err(failed)
}

/// Two tables: how fast each launch is, and what runs there.
fn report(found: &[Found]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut times = Table::new();
    times.load_style(presets::NOTHING);
    times.set_header(["launch", "ms", "spread", "second", "hand-picked", "floor", "reached", "limited by", "timed"]);
    let mut ids = String::new();
    for Found { slot, tuned, prediction, floor, hand_picked, counts } in found {
        let Ok(tuned) = tuned else {
            times.add_row([slot.name.as_str(), "none"]);
            continue;
        };
        let ms = |ms: f64| format!("{ms:.3}");
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        times.add_row([
            slot.name.clone(),
            ms(tuned.ms),
            ms(tuned.spread_ms),
            or_none(tuned.runner_up.as_ref().map(|second| ms(second.ms))),
            or_none(hand_picked.map(|times| ms(times.median_ms))),
            or_none(floor.as_ref().map(|floor| ms(floor.ms))),
            or_none(floor.as_ref().map(|floor| format!("{:.0} %", 100.0 * floor.ms / tuned.ms))),
            or_none(
                prediction
                    .as_ref()
                    .map(|promise| promise.limit.clone())
                    .or_else(|| floor.as_ref().map(|floor| floor.limit.clone())),
            ),
            format!("{} of {}", counts.1, counts.0),
        ]);
        ids += &format!("{:<14} {}\n", slot.name, tuned.id);
    }
    for (i, column) in times.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (1..7).contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{times}\n\n{ids}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_collects_what_several_runs_find() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h200.toml");
        let tuned = |problem: &str, driver: &str| Tuned {
            kernel: "adamw".to_owned(),
            problem: problem.to_owned(),
            tokens: 4096,
            driver: driver.to_owned(),
            digest: "d".to_owned(),
            id: "adamw-b256-v4-f32-bf16".to_owned(),
            ms: 1.0,
            spread_ms: 0.1,
            runner_up: None,
            dropped: Vec::new(),
        };
        add_to_shipped(&path, "NVIDIA H200", &[tuned("a", "1")]).unwrap();
        add_to_shipped(&path, "NVIDIA H200", &[tuned("a", "2"), tuned("b", "2")]).unwrap();
        let read = Contents::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read.tuned, [tuned("a", "2"), tuned("b", "2")]);
        let error = add_to_shipped(&path, "NVIDIA A100", &[]).unwrap_err().to_string();
        assert!(error.contains("no tuning file of NVIDIA A100") && error.contains("--write-shipped"), "{error}");
    }
}
