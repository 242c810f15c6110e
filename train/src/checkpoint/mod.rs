//! Checkpoints: what a run needs to go on as if it had never stopped.
//!
//! A run's folder has one folder for each, `step-00000120/`, which is a Hugging Face model too:
//!
//! | file | what |
//! |---|---|
//! | `config.json`, `model.safetensors` | sizes, and parameters in f32, as `MambaForCausalLM` has them |
//! | `tokenizer.json`, `tokenizer_config.json` | what its ids stand for; bytes too, as a Hugging Face tokenizer |
//! | `optimizer.safetensors` | `m.{name}` and `v.{name}`: moments, f32 |
//! | `memory.safetensors` | of a document that goes on in the next pack: `state.{block}` and `history.{block}`, f32 |
//! | `checksums.json` | of each file of tensors the CRC-32 of each tensor's bytes; one that was changed on the disk is not read |
//! | `state.json` | format, step, steps that the optimiser took, whether there is a memory, and what the trainer wants to be given back |
//!
//! One is written under another name and gets its own once all of it is on the disk, so that a name stands for a whole checkpoint
//! whenever the run is killed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use packscan_data::Tokenizer;
use packscan_runtime::{Buffer, Device, Dtype};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hugging_face::{self, Format, Ids, Pretrained};
use crate::parameters::{Layout, Parameter, part};
use crate::tensors::{self, CHECKSUMS, Checksums, Entry, TensorFile};
use crate::{Error, Learner, Memory, Model, ModelConfig, Result, files, run};

const STATE: &str = "state.json";
const MOMENTS: &str = "optimizer.safetensors";
const MEMORY: &str = "memory.safetensors";
/// Of the files above. A reader refuses those of a later one.
const FORMAT: u32 = 1;

/// What `state.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    step: u32,
    taken: u32,
    /// Whether [`MEMORY`] is one of its files; those written before this was said are whole with it and without.
    memory: Option<bool>,
    trainer: Value,
}

/// A whole checkpoint, open.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it is.
    pub folder: PathBuf,
    /// The step after which it was written.
    pub step: u32,
    /// What the trainer gave to [`save`].
    pub trainer: Value,
    /// The file of its tokenizer.
    pub tokenizer: PathBuf,
    taken: u32,
    weights: Pretrained,
    moments: TensorFile,
    /// Of a document that goes on.
    memory: Option<TensorFile>,
}

/// What a checkpoint keeps beside a learner.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// How the run's text becomes ids.
    pub tokenizer: &'a Tokenizer,
    /// What the trainer wants to be given back.
    pub trainer: &'a Value,
}

/// A folder that has a checkpoint's name and is none.
#[derive(Debug)]
pub struct Skipped {
    /// The folder.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub why: Error,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint {} is left out: {}", self.folder.display(), self.why)
    }
}

/// Writes a checkpoint into a run's folder and removes older ones until `keep` are left, this one included. What killed saves have left
/// goes too. Gives the checkpoint's folder.
///
/// Every rank of a run calls it, and rank 0 writes.
///
/// # Errors
/// [`Error::File`], for instance where the disk is full; older checkpoints are then as they were, and the run can go on.
pub fn save(run: &Path, step: u32, learner: &mut Learner, beside: &Beside<'_>, keep: usize) -> Result<PathBuf> {
    if learner.under_way().is_some() {
        let rule = "the device may still be at it; finish it first".to_owned();
        return Err(Error::Config { field: "step", got: format!("{step}, which was only started"), rule });
    }
    let target = run.join(format!("step-{step:08}"));
    learner.gather_weights()?;
    let writes = learner.rank() == 0;
    let mut moments = Moments { learner, gathered: 0 };
    let written = if writes { write(run, &target, step, &mut moments, beside, keep) } else { Ok(()) };
    // Where writing failed early, other ranks still wait to give their shares.
    moments.whole(1)?;
    written.map(|()| target)
}

fn write(
    run: &Path,
    target: &Path,
    step: u32,
    moments: &mut Moments<'_>,
    beside: &Beside<'_>,
    keep: usize,
) -> Result<()> {
    if run.is_dir() {
        for left in files::entries(run)?.iter().filter(|path| is_left_over(path)) {
            files::remove(left)?;
        }
    }
    files::write_folder(target, |folder| write_into(folder, step, moments, beside))?;

    let older = candidates(run)?.into_iter().filter(|(other, _)| *other < step).map(|(_, folder)| folder);
    let mut kept = 1;
    for folder in older.filter(|folder| folder.join(STATE).is_file() || folder.join(MOMENTS).is_file()) {
        if kept < keep && Checkpoint::open(&folder).is_ok() {
            kept += 1;
        } else {
            files::remove_folder(&folder)?;
        }
    }
    Ok(())
}

/// The moments of all parameters, one kind after the other, though each rank may have a share only.
struct Moments<'a> {
    learner: &'a mut Learner,
    gathered: usize,
}

impl Moments<'_> {
    /// First (0) or second (1) moments of all parameters; asked for in that order.
    fn whole(&mut self, kind: usize) -> Result<&Buffer> {
        while self.gathered <= kind {
            self.learner.gather_moments(self.gathered)?;
            self.gathered += 1;
        }
        Ok(self.learner.gathered_moments(kind))
    }
}

fn write_into(folder: &Path, step: u32, moments: &mut Moments<'_>, beside: &Beside<'_>) -> Result<()> {
    let model = &moments.learner.model;
    let ids = Ids::of_end(beside.tokenizer.end());
    let mut checksums =
        hugging_face::write_into(folder, &model.config, &Format::default(), &ids, |parameter, sink| {
            parameter.slot.pieces().try_for_each(|piece| sink(&model.weights.values(piece)?))
        })?;
    let table = model.layout.table.clone();
    let entry = |kind: &str, p: &Parameter| -> Entry { (format!("{kind}.{}", p.name), p.shape.clone()) };
    let entries: Vec<Entry> = KINDS.iter().flat_map(|kind| table.iter().map(|p| entry(kind, p))).collect();
    let written = tensors::write(&folder.join(MOMENTS), Dtype::F32, &entries, |i, sink| {
        let (kind, parameter) = (i / table.len(), &table[i % table.len()]);
        let moments = moments.whole(kind)?;
        parameter.slot.pieces().try_for_each(|piece| sink(&part(moments, piece)?.to_vec()?))
    })?;
    checksums.insert(MOMENTS.to_owned(), written);
    let left = moments.learner.left();
    if let Some(memory) = left {
        let written = write_memory(&folder.join(MEMORY), &moments.learner.model.config, memory)?;
        checksums.insert(MEMORY.to_owned(), written);
    }
    files::write_json(&folder.join(CHECKSUMS), &checksums)?;
    for (name, bytes) in beside.tokenizer.files() {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|source| Error::file("write", &path, source))?;
    }
    let (taken, memory) = (moments.learner.optimiser.taken, Some(left.is_some()));
    let state = State { format: FORMAT, step, taken, memory, trainer: beside.trainer.clone() };
    files::write_json(&folder.join(STATE), &state)
}

/// The names that moments begin with.
const KINDS: [&str; 2] = ["m", "v"];

/// The tensors of a memory: state and history of each block in turn.
fn memory_entries(config: &ModelConfig) -> Vec<Entry> {
    let state = |l: usize| (format!("state.{l}"), vec![config.channels(), config.state]);
    let history = |l: usize| (format!("history.{l}"), vec![config.taps - 1, config.channels()]);
    (0..config.layers).flat_map(|l| [state(l), history(l)]).collect()
}

fn write_memory(path: &Path, config: &ModelConfig, memory: &Memory) -> Result<Checksums> {
    tensors::write(path, Dtype::F32, &memory_entries(config), |i, sink| match i % 2 {
        0 => sink(&memory.kept(i / 2)?.0.to_f32()?),
        _ => sink(&memory.kept(i / 2)?.1.to_f32()?),
    })
}

/// The newest whole checkpoint of a run's folder, if there is one, and the newer ones that are not whole.
///
/// # Errors
/// [`Error::File`] for a folder that cannot be read.
pub fn newest(run: &Path) -> Result<(Option<Checkpoint>, Vec<Skipped>)> {
    let mut skipped = Vec::new();
    for (_, folder) in candidates(run)? {
        match Checkpoint::open(&folder) {
            Ok(checkpoint) => return Ok((Some(checkpoint), skipped)),
            Err(why) => skipped.push(Skipped { folder, why }),
        }
    }
    Ok((None, skipped))
}

/// The folders that have a checkpoint's name, and their steps, the newest first. One that was being replaced when the run was killed
/// comes after what replaces it.
fn candidates(run: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let named = |path: PathBuf| {
        let step = step_of(&path, "").or_else(|| step_of(&path, files::REPLACED))?;
        path.is_dir().then_some((step, path))
    };
    let mut found: Vec<(u32, PathBuf)> = files::entries(run)?.into_iter().filter_map(named).collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    Ok(found)
}

fn step_of(path: &Path, ending: &str) -> Option<u32> {
    let digits = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(ending)?;
    digits.parse().ok().filter(|_| digits.len() >= 8)
}

/// Whether a path has the name of a checkpoint, or of one that was being written or replaced.
pub(crate) fn is_named(path: &Path) -> bool {
    ["", files::PARTIAL, files::REPLACED].iter().any(|ending| step_of(path, ending).is_some())
}

/// Where a model lies.
#[derive(Debug)]
pub struct ModelFolder {
    /// Its own folder.
    pub folder: PathBuf,
    /// Newer checkpoints of the run that are not whole.
    pub skipped: Vec<Skipped>,
}

/// The folder of a model: a checkpoint's, a Hugging Face model's, or the newest checkpoint's of a run.
///
/// # Errors
/// [`Error::Saved`] for a run without a whole checkpoint; [`Error::File`] for a folder that cannot be read.
pub fn model_folder(path: &Path) -> Result<ModelFolder> {
    if !path.join(run::FILE).is_file() {
        return Ok(ModelFolder { folder: path.to_owned(), skipped: Vec::new() });
    }
    let (newest, skipped) = newest(path)?;
    let Some(Checkpoint { folder, .. }) = newest else {
        return Err(Error::saved(path, no_checkpoint(path, &skipped)));
    };
    Ok(ModelFolder { folder, skipped })
}

/// Why a run has no checkpoint to take.
fn no_checkpoint(run: &Path, skipped: &[Skipped]) -> String {
    let Some(Skipped { folder, why }) = skipped.first() else {
        return match run::Settings::read(run) {
            Ok(settings) if settings.keep == 0 => {
                "the run keeps no checkpoint (its keep is 0); train anew without --keep 0, or name another model"
            }
            _ => {
                "the run has no whole checkpoint; if it still trains, wait until it has saved one, else name another model"
            }
        }
        .to_owned();
    };
    let (newest, count) = (folder.display(), skipped.len());
    format!("the run has no whole checkpoint; of {count} that are not whole the newest is {newest}: {why}")
}

/// Whether a killed save or removal has left it: what has no name yet, and what has been replaced.
fn is_left_over(path: &Path) -> bool {
    let replaced = step_of(path, files::REPLACED).is_some() && path.with_extension("").exists();
    replaced || step_of(path, files::PARTIAL).is_some()
}

impl Checkpoint {
    /// Opens a checkpoint and checks that each of its files is whole and of one model; no tensor is read yet.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Saved`] and [`Error::Shape`], which name the file, and the tensor where it is one's.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        let path = folder.join(STATE);
        let State { format, step, taken, memory, trainer } = files::read_json(&path)?;
        if format != FORMAT {
            let rule =
                format!("its format is {format}, but this packscan knows {FORMAT}; take the packscan that wrote it");
            return Err(Error::saved(&path, rule));
        }
        let weights = Pretrained::open(folder)?;
        let tokenizer = folder.join(Tokenizer::FILE);
        let IgnoredAny = files::read_json(&tokenizer)?;
        let moments = TensorFile::open(&folder.join(MOMENTS))?;
        for p in &Layout::of(&weights.config).table {
            moments.check(&format!("m.{}", p.name), &p.shape, "the model of config.json")?;
            moments.check(&format!("v.{}", p.name), &p.shape, "the model of config.json")?;
        }
        let path = folder.join(MEMORY);
        let memory = memory.unwrap_or_else(|| path.is_file()).then(|| TensorFile::open(&path)).transpose()?;
        if let Some(memory) = &memory {
            let entries = memory_entries(&weights.config);
            entries.iter().try_for_each(|(name, shape)| memory.check(name, shape, "the model of config.json"))?;
        }
        Ok(Checkpoint { folder: folder.to_owned(), step, trainer, tokenizer, taken, weights, moments, memory })
    }

    /// The model's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// Checks that it is of a model of these sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] by the first tensor that differs; [`Error::Saved`] where none does, or one is not there at all.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        if self.config() == config {
            return Ok(());
        }
        let mut missing = String::new();
        let (here, there) = (Layout::of(self.config()), Layout::of(config));
        for want in there.table {
            match here.find(&want.name) {
                Some(got) if got.shape == want.shape => (),
                Some(got) => {
                    let (path, got) = (self.folder.join(hugging_face::WEIGHTS), got.shape.clone());
                    return Err(Error::Shape {
                        path,
                        name: want.name,
                        got,
                        of: "the model of run.toml",
                        want: want.shape,
                    });
                }
                None => {
                    missing = format!("{} is missing; ", want.name);
                    break;
                }
            }
        }
        let [here, there] = self.config().differing(config);
        let cure = format!("write {here} there again, or begin another run");
        let rule = format!("{missing}it is of a model with {here}, but run.toml has {there}; {cure}");
        Err(Error::saved(&self.folder, rule))
    }

    /// Its model on a device, with activations of type `io`.
    ///
    /// # Errors
    /// As [`Model::read`].
    pub fn model(&self, device: &Device, io: Dtype) -> Result<Model> {
        self.weights.model(device, io)
    }

    /// Gives the optimiser of a learner, whose model is this one's, its moments and its count of steps.
    ///
    /// # Errors
    /// As [`Checkpoint::check`], and [`packscan_runtime::Error::Cuda`] where an earlier launch failed.
    pub fn restore(&self, learner: &mut Learner) -> Result<()> {
        self.check(&learner.model.config)?;
        let Learner { model, optimiser, .. } = learner;
        for (kind, moments) in KINDS.iter().zip([&optimiser.m, &optimiser.v]) {
            for p in &model.layout.table {
                let Range { start, end } = p.slot.range();
                let share = if start < model.layout.products { optimiser.share.clone() } else { start..end };
                let (from, to) = (start.max(share.start), end.min(share.end));
                if from < to {
                    let values = self.moments.values(&format!("{kind}.{}", p.name))?;
                    moments
                        .part(optimiser.place(&model.layout, from), to - from, 1)?
                        .write(&values[from - start..to - start])?;
                }
            }
        }
        optimiser.taken = self.taken;
        if let Some(file) = &self.memory {
            learner.recall(|l, what| file.values(&format!("{what}.{l}")))?;
        }
        Ok(())
    }
}
