//! `packscan train`: a model from text.

use std::io;
use std::path::{self, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use packscan::runtime::collective::World;
use packscan::{Device, Dtype};
use packscan_data::{Scheme, Strategy, Tokenizer};
use packscan_train::activations::Recompute;
use packscan_train::checkpoint::{self, Checkpoint};
use packscan_train::hugging_face::Pretrained;
use packscan_train::run::{self, Cut, Ended, Ending, Lock, Request, Settings, Start, Text};
use packscan_train::variants::Ids;
use packscan_train::{ModelConfig, Rates};
use packscan_tune::workload::natural_lengths;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::memory::{Choice, Memory};
use crate::saved::{Saved, say_skipped};
use crate::variants::{Launches, Missing};
use crate::{Verdict, output, parse, products};

/// What to train, on what, and how.
#[derive(Debug, Args)]
pub struct Train {
    /// Text: files and folders of plain text, JSONL or Parquet [default: the text files of this folder].
    files: Vec<PathBuf>,
    /// A size, tiny, 130m, 370m, 790m, 1.4b or 2.8b, or a TOML file with width, layers and what differs from the published sizes.
    #[arg(long, default_value = "tiny")]
    model: String,
    /// Start from the weights of this folder, a checkpoint or a Hugging Face model, whose sizes then hold.
    #[arg(long, value_name = "FOLDER", conflicts_with = "model")]
    init: Option<PathBuf>,
    /// Go on with the run of this folder; its settings hold, but for --steps (the learning rate then falls until that one),
    /// --recompute, --memory and --device.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = OF_THE_RUN)]
    resume: Option<PathBuf>,
    /// Steps of the whole run.
    #[arg(long, value_name = "N", value_parser = parse::whole::<u32>)]
    steps: Option<u32>,
    /// Where the run goes [default: runs/MODEL, or the next free number after it].
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Show what would be allocated, and stop.
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    packing: Packing,
    #[command(flatten)]
    learning: Learning,
    #[command(flatten)]
    machine: Machine,
    /// What blocks compute again in the backward pass instead of keeping it; auto: as little as the memory allows.
    #[arg(long, value_enum, default_value = "auto")]
    recompute: Choice,
    /// Memory that the plan may use, such as 50GB [default: what is free].
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes, allow_hyphen_values = true)]
    memory: Option<usize>,
    /// Tune nothing where the run begins: what no tuning file knows runs as it was picked by hand.
    #[arg(long)]
    no_tune: bool,
    /// Share the state of the optimiser out among the ranks.
    #[arg(long)]
    shard: bool,
    /// Steps between evaluations of the text held out.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = parse::whole::<u32>)]
    eval_every: u32,
    /// Steps between checkpoints.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse::whole::<u32>)]
    save_every: u32,
    /// Checkpoints that are kept; 0 writes none.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = parse::whole::<usize>)]
    keep: usize,
    /// Of the parameters and of the order of the text.
    #[arg(long, default_value_t = 0, value_parser = parse::whole::<u64>)]
    seed: u64,
}

/// Arguments that a run was begun with and goes on with: given once more they would be passed over in silence.
const OF_THE_RUN: [&str; 26] = [
    "files",
    "model",
    "init",
    "output",
    "dtype",
    "no_tune",
    "shard",
    "eval_every",
    "save_every",
    "keep",
    "seed",
    "tokenizer",
    "text_field",
    "skip_bad",
    "tokens",
    "packs",
    "scheme",
    "batch",
    "strategy",
    "cut",
    "held_out",
    "learning_rate",
    "final_share",
    "warmup",
    "decay",
    "clip",
];

/// How text becomes packs.
#[derive(Debug, Args)]
struct Packing {
    /// A tokenizer.json [default: with --init the one of that model, else bytes].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The field of JSONL records and the column of Parquet files that hold the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Leave out files, lines and rows that give no text, and name them, instead of ending with an error.
    #[arg(long)]
    skip_bad: bool,
    /// Most tokens of a pack.
    #[arg(long, value_name = "T", default_value_t = 4096, value_parser = parse::whole::<usize>)]
    tokens: usize,
    /// Packs of a step, on each GPU.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse::whole::<usize>)]
    packs: usize,
    /// packed, or one of the baselines that packing is compared with: single sequences, or a batch padded to its longest. A row of
    /// --scheme padded has at most --tokens / --batch tokens; those that `packscan pack` shows may have as many as a pack.
    #[arg(long, value_enum, default_value = "packed")]
    scheme: SchemeName,
    /// Sequences of a batch of --scheme padded [default: 8].
    #[arg(long, value_name = "N", value_parser = parse::whole::<usize>)]
    batch: Option<usize>,
    /// How documents are put into packs of --scheme packed [default: best-fit].
    #[arg(long, value_enum)]
    strategy: Option<StrategyName>,
    /// What gradients do where --strategy split cuts a document [default: stop].
    #[arg(long, value_enum)]
    cut: Option<CutName>,
    /// Share of the text to hold out and evaluate on; 0 for none.
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    held_out: f64,
}

/// How fast it learns.
#[derive(Debug, Args)]
struct Learning {
    /// Learning rate after warm-up [default: by the width of the model].
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f32>,
    /// The last step's rate as a share of that.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    final_share: f32,
    /// Steps of warm-up [default: a tenth of all, at most 1000].
    #[arg(long, value_name = "N", value_parser = parse::whole::<u32>)]
    warmup: Option<u32>,
    /// Weight decay of matrices.
    #[arg(long, default_value_t = 0.1)]
    decay: f32,
    /// The largest norm of the gradients; 0 clips nothing.
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f32,
}

/// What a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemeName {
    Packed,
    Single,
    Padded,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StrategyName {
    BestFit,
    FirstFit,
    Sequential,
    Split,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CutName {
    Stop,
    Flow,
}

impl Packing {
    fn scheme(&self) -> Scheme {
        match self.scheme {
            SchemeName::Single => Scheme::Single,
            SchemeName::Padded => Scheme::Padded { batch: self.batch.unwrap_or(8) },
            SchemeName::Packed => Scheme::Packed(match self.strategy {
                None | Some(StrategyName::BestFit) => Strategy::default(),
                Some(StrategyName::FirstFit) => Strategy::FirstFit,
                Some(StrategyName::Sequential) => Strategy::Sequential,
                Some(StrategyName::Split) => Strategy::Split,
            }),
        }
    }

    /// Refuses options that would do nothing: whoever gives one believes that it does.
    fn check(&self) -> Result<()> {
        let (scheme, idle) = (self.scheme(), |argument, needs| Err(Error::Idle { argument, needs }));
        match self {
            Packing { batch: Some(_), .. } if !matches!(scheme, Scheme::Padded { .. }) => {
                idle("--batch", "--scheme padded")
            }
            Packing { strategy: Some(_), .. } if !matches!(scheme, Scheme::Packed(_)) => {
                idle("--strategy", "--scheme packed")
            }
            Packing { cut: Some(_), .. } if scheme != Scheme::Packed(Strategy::Split) => {
                idle("--cut", "--strategy split")
            }
            _ => Ok(()),
        }
    }

    /// Paths become whole ones, so that the run goes on from any folder.
    fn text(&self, files: &[PathBuf], tokenizer: Option<&Path>) -> Result<Text> {
        let whole =
            |path: &Path| path::absolute(path).map_err(|source| Error::NoPath { path: path.to_owned(), source });
        let here = [PathBuf::from(".")];
        let files = if files.is_empty() { &here } else { files };
        Ok(Text {
            paths: files.iter().map(|file| whole(file)).collect::<Result<_>>()?,
            tokenizer: tokenizer.map(whole).transpose()?,
            text_field: self.text_field.clone(),
            skip_bad: self.skip_bad,
            tokens: self.tokens,
            packs: self.packs,
            scheme: self.scheme(),
            cut: match self.cut {
                None | Some(CutName::Stop) => Cut::Stop,
                Some(CutName::Flow) => Cut::Flow,
            },
            held_out: self.held_out,
        })
    }
}

impl Learning {
    fn rates(&self, width: usize, steps: u32) -> Rates {
        // The rates of GPT-3 (arXiv 2005.14165, table 2.1) fall about as one over the width.
        let by_width = (6e-4 * 768.0 / width as f32).min(3e-3);
        Rates {
            learning_rate: self.learning_rate.unwrap_or(by_width),
            final_share: self.final_share,
            warmup: self.warmup.unwrap_or(Rates::usual_warmup(steps)),
            steps,
            decay: self.decay,
            clip: (self.clip != 0.0).then_some(self.clip),
            ..Rates::default()
        }
    }
}

/// Set by Ctrl-C and SIGTERM: the step under way is finished and saved.
static STOP: AtomicBool = AtomicBool::new(false);

impl Train {
    /// Trains; interrupted where it was stopped before the last step.
    pub fn run(&self) -> Result<Verdict> {
        let world = World::from_environment()?;
        let device = self.machine.device(world.as_ref())?;
        let (ranks, first) = world.as_ref().map_or((1, true), |world| (world.size, world.rank == 0));
        let Begun { mut settings, folder, lock, resumed, pretrained } = match &self.resume {
            Some(folder) => self.resumed(folder, first)?,
            None => self.fresh(&device)?,
        };
        if self.resume.is_none() {
            (settings.variants, settings.products) = self.variants(&settings, &device, ranks, first)?;
        } else if let Some(line) = products::of_another(&device, &settings.products)?.filter(|_| first) {
            output::note(&line);
        }
        if settings.shard && ranks == 1 {
            output::note(
                "--shard: this process is alone and keeps all of the optimiser's state; torchrun, mpirun or srun start several",
            );
        }
        if first && settings.text.cut == Cut::Flow && settings.text.packs == 1 {
            output::note(
                "--cut flow: gradients flow between the packs of a step, and each has one; --packs makes them more",
            );
        }
        let shards = if settings.shard { ranks } else { 1 };
        settings.recompute = self.memory().choose(&request(&settings, shards, &device)?, &device, |chosen| {
            let settings = Settings { recompute: chosen.to_vec(), ..settings.clone() };
            plan(&settings, shards, &device).map_or_else(|error| error.to_string(), |plan| plan.trim_end().to_owned())
        })?;
        if self.plan {
            output::results(plan(&settings, shards, &device)?)?;
            return Ok(Verdict::Good);
        }
        // Once is polite, twice ends the process at once.
        let stop = || {
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            output::note("stopping after this step; once more ends at once");
        };
        ctrlc::set_handler(stop).map_err(Error::Signal)?;
        let note = |line: String| {
            if first {
                output::note(&line)
            }
        };
        let kept = settings.keep > 0;
        let start = Start { settings, folder: &folder, lock, device, world, resumed, pretrained, stop: &STOP };
        let Ended { how, page } = run::train(start)?;
        match how {
            Ending::Finished => {
                let shows = if page { format!("{}/run.html shows the run; ", folder.display()) } else { String::new() };
                let rest = match kept {
                    true => format!("`packscan generate {}` goes on from a prompt", folder.display()),
                    false => "no checkpoint was kept".to_owned(),
                };
                note(format!("done: {shows}{rest}"));
                Ok(Verdict::Good)
            }
            Ending::Stopped => {
                note(format!("stopped; `packscan train --resume {}` goes on", folder.display()));
                Ok(Verdict::Interrupted)
            }
        }
    }

    /// What a new run launches. It goes on with that, on whatever machine.
    fn variants(&self, settings: &Settings, device: &Device, ranks: usize, first: bool) -> Result<(Ids, Ids)> {
        let missing = match (self.no_tune, self.plan, ranks) {
            (true, ..) => Missing::Leave("--no-tune"),
            (_, true, _) => Missing::Leave("--plan tunes nothing"),
            (_, _, 2..) => Missing::Leave("several ranks tune nothing; `packscan tune` does"),
            _ => Missing::Tune,
        };
        let lengths = natural_lengths(settings.text.tokens, 0);
        let launches = Launches::new(&settings.model, settings.io()?, lengths);
        let (ids, mut lines) = launches.choose(device, missing)?;
        let (products, more) = launches.choose_products(device, missing)?;
        lines.extend(more);
        lines.iter().filter(|_| first).for_each(|line| output::note(line));
        Ok((ids, products))
    }

    /// What is there on the way to the run's folder must be folders.
    fn check_output(&self) -> Result<()> {
        let Some(folder) = &self.output else { return Ok(()) };
        if folder.ancestors().find(|path| path.exists()).is_none_or(Path::is_dir) {
            return Ok(());
        }
        let (path, source) = (folder.clone(), io::ErrorKind::NotADirectory.into());
        Err(Error::Write { path, option: "-o", source })
    }

    fn memory(&self) -> Memory {
        Memory { choice: self.recompute, bytes: self.memory }
    }

    /// The settings of a new run.
    fn fresh(&self, device: &Device) -> Result<Begun> {
        self.packing.check()?;
        self.check_output()?;
        let steps = self.steps.unwrap_or(200);
        let tokenizer = self.packing.tokenizer.as_deref();
        let (name, config, pretrained, tokenizer) = match &self.init {
            Some(folder) => {
                let Saved { pretrained, tokenizer_file, .. } = Saved::open(folder, tokenizer)?;
                (folder.display().to_string(), pretrained.config.clone(), Some(pretrained), tokenizer_file)
            }
            None => {
                let opened = Tokenizer::open(tokenizer)?;
                let config = ModelConfig::open(&self.model, opened.vocabulary())?;
                let file = tokenizer.filter(|_| matches!(opened, Tokenizer::Hf(_)));
                (self.model.clone(), config, None, file.map(Path::to_owned))
            }
        };
        let settings = Settings {
            dtype: self.machine.dtype(device).to_string(),
            seed: self.seed,
            recompute: vec![Recompute::None; config.layers],
            eval_every: self.eval_every,
            save_every: self.save_every,
            keep: self.keep,
            shard: self.shard,
            text: self.packing.text(&self.files, tokenizer.as_deref())?,
            rates: self.learning.rates(config.width, steps),
            model: config,
            variants: Ids::new(),
            products: Ids::new(),
            name,
        };
        settings.check()?;
        let folder = match &self.output {
            Some(folder) if folder.join(run::FILE).exists() => return Err(taken(folder)?),
            Some(folder) => folder.clone(),
            None => free_folder(&settings.name),
        };
        let left = run::left_in(&folder)?;
        if !left.is_empty() {
            return Err(Error::LeftOver { folder, left });
        }
        Ok(Begun { settings, folder, lock: None, resumed: None, pretrained })
    }

    /// The settings of a run that is there, and its newest checkpoint. The first rank takes its folder before it looks.
    fn resumed(&self, folder: &Path, first: bool) -> Result<Begun> {
        let mut settings = Settings::read(folder)?;
        let lock = (first && !self.plan).then(|| Lock::take(folder)).transpose()?;
        let rates = settings.rates.until(self.steps.unwrap_or(settings.rates.steps));
        if first && rates.warmup != settings.rates.warmup {
            let (now, before) = (rates.warmup, settings.rates.warmup);
            output::note(&format!("warm-up: {now} steps, a tenth of the steps now; it was to be {before}"));
        }
        settings.rates = rates;
        let (newest, skipped) = checkpoint::newest(folder)?;
        say_skipped(&skipped);
        match newest {
            Some(checkpoint) if checkpoint.step >= settings.rates.steps => Err(Error::NothingLeft {
                folder: folder.to_owned(),
                taken: checkpoint.step,
                steps: settings.rates.steps,
            }),
            Some(checkpoint) => {
                checkpoint.check(&settings.model)?;
                settings
                    .check()
                    .map_err(|error| Error::OfTheRun { error: Box::new(error), file: folder.join(run::FILE) })?;
                let (folder, resumed) = (folder.to_owned(), Some(checkpoint));
                Ok(Begun { settings, folder, lock, resumed, pretrained: None })
            }
            None => Err(Error::NothingToResume { folder: folder.to_owned() }),
        }
    }
}

/// What is in the way of a new run in the folder of another, with a cure that can be followed.
fn taken(folder: &Path) -> Result<Error> {
    let folder = folder.to_owned();
    // One that another process has is not to be removed.
    Lock::take(&folder)?;
    Ok(match checkpoint::newest(&folder)?.0 {
        Some(_) => Error::RunExists { folder },
        None => Error::NothingToResume { folder },
    })
}

/// What a run starts with.
struct Begun {
    settings: Settings,
    folder: PathBuf,
    lock: Option<Lock>,
    resumed: Option<Checkpoint>,
    pretrained: Option<Pretrained>,
}

fn request<'a>(settings: &'a Settings, shards: usize, device: &Device) -> Result<Request<'a>> {
    let io: Dtype = settings.io()?;
    let (variants, Text { tokens, packs, .. }) = (settings.variants()?, &settings.text);
    let (tokens, packs, chain) = (*tokens, *packs, settings.text.chain());
    let on_gpu = matches!(device, Device::Cuda(_));
    Ok(Request { config: &settings.model, io, tokens, packs, chain, shards, variants, on_gpu })
}

/// The plan as text.
fn plan(settings: &Settings, shards: usize, device: &Device) -> Result<String> {
    let plan = request(settings, shards, device)?.plan(&settings.recompute);
    let Settings { name, dtype, text, .. } = settings;
    Ok(format!("{name}, {dtype} on {device}, packs of {} tokens\n{plan}\n", output::thousands(text.tokens)))
}

/// `runs/tiny`, or `runs/tiny-2` where that is taken.
fn free_folder(name: &str) -> PathBuf {
    let last = Path::new(name).file_name().map_or_else(|| "model".into(), |last| last.to_string_lossy());
    let stem = last.strip_suffix(".toml").unwrap_or(&last);
    let numbered = |n: u32| Path::new("runs").join(if n == 1 { stem.to_owned() } else { format!("{stem}-{n}") });
    (1..).map(numbered).find(|folder| !folder.exists()).expect("some number is free")
}
