//! A run: text in, a trained model and its records out.

mod agreement;
mod folder;
mod plan;
mod records;
mod settings;
mod source;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use packscan_data::{Position, Tokenizer};
use packscan_runtime::collective::{Collective, World, join};
use packscan_runtime::{Device, Dtype, Timestamp};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Beside, Checkpoint};
use crate::hugging_face::Pretrained;
use crate::parameters::Layout;
use crate::report::{Metrics, Status};
use crate::{DevicePack, Error, Learner, Model, Report, Result};

pub use folder::Lock;
pub use plan::{Plan, Request};
pub use records::{Records, left_in, peak_flops};
pub use settings::{Cut, FILE, Settings, Text};
pub use source::Source;
pub(crate) use source::place;

/// How a run is started.
pub struct Start<'a> {
    /// What it computes.
    pub settings: Settings,
    /// Where its records and checkpoints go.
    pub folder: &'a Path,
    /// That of the folder on rank 0, where it was taken already.
    pub lock: Option<Lock>,
    /// Where it runs.
    pub device: Device,
    /// What a launcher says of other ranks.
    pub world: Option<World>,
    /// A checkpoint of this run to go on from.
    pub resumed: Option<Checkpoint>,
    /// A model to start from instead of a fresh one.
    pub pretrained: Option<Pretrained>,
    /// Set from elsewhere to end the run after the step under way.
    pub stop: &'a AtomicBool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were taken.
    Finished,
    /// It was asked to stop, and can be resumed.
    Stopped,
}

/// A run that is over for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: Ending,
    /// Whether `run.html` shows all of it; other ranks than the first write none.
    pub page: bool,
}

/// What a checkpoint keeps of the run beside model and optimiser.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progressed {
    /// When the run began.
    began: SystemTime,
    position: Position,
    elapsed_s: f64,
    tokens: u64,
}

/// Steps in a row whose gradients were not finite, after which a run ends.
const MOST_SKIPPED: u32 = 10;

/// Trains.
///
/// # Errors
/// For settings that make no sense, text that cannot be used, too little memory, [`Error::Diverged`], and whatever a device fails
/// with. A checkpoint that cannot be written is told and does not end the run.
pub fn train(mut start: Start<'_>) -> Result<Ended> {
    start.settings.check()?;
    // Those that nobody named too: what is picked by hand may be another one in a later packscan.
    start.settings.variants = start.settings.variants()?.ids();
    let mut run = Run::new(start)?;
    let ending = run.steps();
    let status = if matches!(ending, Ok(Ending::Finished)) { Status::Finished } else { Status::Stopped };
    let page = run.records.close(status);
    let how = ending?;
    run.ranks.leave()?;
    Ok(Ended { how, page })
}

/// A step that was launched, and what will be told of it.
struct Started {
    packs: source::Packs,
    /// Tokens of the text on all ranks, and the room there that has none.
    tokens: f64,
    padding: f64,
    learning_rate: f32,
    /// The end of the step before, or where that was waited for, the beginning of this one.
    since: Timestamp,
}

struct Run<'a> {
    settings: Settings,
    folder: PathBuf,
    learner: Learner,
    source: Source,
    /// Where the packs of a step are; the next step's take their places while the device is at it.
    rooms: Vec<DevicePack>,
    ranks: Rc<dyn Collective>,
    records: Records,
    /// The last step that was launched, and the one that was not waited for.
    step: u32,
    started: Option<Started>,
    /// What was learnt from until the last step that was waited for.
    progressed: Option<Progressed>,
    /// Tokens of all ranks until then.
    tokens: u64,
    skipped_in_a_row: u32,
    /// The step of the newest checkpoint.
    saved: Option<u32>,
    /// When the run began.
    began: SystemTime,
    /// Seconds before this process, and when that opened the run.
    before_s: f64,
    opened: Instant,
    stop: &'a AtomicBool,
}

impl<'a> Run<'a> {
    fn new(start: Start<'a>) -> Result<Run<'a>> {
        let Start { settings, folder, lock, device, world, resumed, pretrained, stop } = start;
        let progressed: Option<Progressed> = match &resumed {
            Some(checkpoint) => Some(serde_json::from_value(checkpoint.trainer.clone()).map_err(|error| {
                Error::saved(&checkpoint.folder, format!("it does not say how far the run was: {error}"))
            })?),
            None => None,
        };
        let ranks: Rc<dyn Collective> = join(&device, world.as_ref())?.into();
        agreement::check(&settings, &*ranks)?;
        let tokenizer = match &resumed {
            Some(checkpoint) => Some(&checkpoint.tokenizer),
            None => settings.text.tokenizer.as_ref(),
        };
        let tokenizer = Tokenizer::open(tokenizer.map(PathBuf::as_path))?;
        let began = progressed.as_ref().map_or_else(SystemTime::now, |p| p.began);
        let position = progressed.as_ref().map(|p| &p.position);
        let source = Source::open(&settings, tokenizer, &*ranks, position).map_err(|error| match resumed {
            Some(_) => source::not_of_the_run(error, folder, &settings.text.paths, began),
            None => error,
        })?;
        let step = resumed.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let learner = learner(&settings, &device, resumed, pretrained, &ranks)?;
        let Settings { text, model, .. } = &settings;
        let room = |_| DevicePack::with_room(&device, text.tokens, model.vocabulary);
        let rooms = (0..text.packs).map(room).collect::<Result<_>>()?;
        let writes = ranks.rank() == 0;
        let opened = writes.then(|| folder::open(folder, &settings.text(), step, lock)).transpose()?;
        let records = Records::open(&settings, opened, &device, &learner, &source, step)?;
        let (before_s, tokens) = progressed.as_ref().map_or((0.0, 0), |p| (p.elapsed_s, p.tokens));
        Ok(Run {
            settings,
            folder: folder.to_owned(),
            learner,
            source,
            rooms,
            ranks,
            records,
            step,
            started: None,
            progressed,
            tokens,
            skipped_in_a_row: 0,
            saved: (step > 0).then_some(step),
            began,
            before_s,
            opened: Instant::now(),
            stop,
        })
    }

    /// Launches step after step. One is waited for when the next is under way, so that the device does not wait for the host in between; at
    /// once only where what follows needs its end, and where nothing is left to wait for.
    fn steps(&mut self) -> Result<Ending> {
        let (steps, first) = (self.settings.rates.steps, self.step);
        let is_done = !matches!(self.learner.model.device, Device::Cuda(_));
        // A checkpoint that had to wait until a step is not skipped.
        let mut due = false;
        while self.step < steps {
            self.ranks.progress(self.step.into())?;
            let (next, stop) = self.prepare()?;
            if stop && self.step > first {
                self.finish_step(false)?;
                if self.saved != Some(self.step) {
                    self.save(true)?;
                }
                return Ok(Ending::Stopped);
            }
            self.start_step(next)?;
            let last = self.step == steps;
            let saves = last || due || self.step.is_multiple_of(self.settings.save_every);
            let evaluates = last || self.step.is_multiple_of(self.settings.eval_every);
            if saves || evaluates || is_done {
                self.finish_step(evaluates)?;
            }
            due = saves && !last && self.skipped_in_a_row > 0;
            if saves && !due {
                self.save(last)?;
            }
        }
        Ok(Ending::Finished)
    }

    /// Puts the packs of the next step where it will run, and asks whether any rank is to stop: they end together. What ranks tell each
    /// other is told here, where they wait for the step under way if they wait at all.
    fn prepare(&mut self) -> Result<(Started, bool)> {
        let since = match self.learner.under_way() {
            Some(end) => end.clone(),
            None => Timestamp::of(&self.learner.model.device)?,
        };
        let packs = self.source.next(&mut self.rooms)?;
        let stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        let mut all = [packs.tokens as f64, packs.padding as f64, stop];
        self.ranks.all_reduce_f64(&mut all)?;
        let [tokens, padding, stop] = all;
        let learning_rate = self.settings.rates.at(self.step + 1);
        Ok((Started { packs, tokens, padding, learning_rate, since }, stop > 0.0))
    }

    /// Launches the next step, and tells of the one before if that was not waited for yet.
    fn start_step(&mut self, next: Started) -> Result<()> {
        let report = self.learner.start(&self.rooms, &self.settings.rates, next.learning_rate)?;
        let before = self.started.replace(next);
        self.step += 1;
        match (before, report) {
            (Some(before), Some(report)) => self.tell(self.step - 1, &before, &report, false),
            _ => Ok(()),
        }
    }

    /// Waits for the step under way, and tells of it.
    fn finish_step(&mut self, evaluates: bool) -> Result<()> {
        match (self.started.take(), self.learner.finish()?) {
            (Some(started), Some(report)) => self.tell(self.step, &started, &report, evaluates),
            _ => Ok(()),
        }
    }

    /// Records a step that is over.
    fn tell(&mut self, step: u32, started: &Started, report: &Report, evaluates: bool) -> Result<()> {
        let Started { packs, tokens, padding, learning_rate, since } = started;
        let diverged = self.count_skipped(step, report, packs);
        self.tokens += *tokens as u64;
        let per_second = tokens / self.learner.ended().since_s(since)?.max(1e-9);
        let elapsed_s = self.before_s + self.opened.elapsed().as_secs_f64();
        let (began, position) = (self.began, packs.position);
        self.progressed = Some(Progressed { began, position, elapsed_s, tokens: self.tokens });
        let held_out = match evaluates {
            true => self.source.held_out_loss(&self.learner, &mut self.rooms[0], &*self.ranks)?,
            false => None,
        };
        self.records.step(&Metrics {
            step: step.into(),
            // Every token of the text comes once in an epoch.
            epoch: self.tokens as f64 / self.source.corpus.total_tokens() as f64,
            loss: report.loss,
            held_out_loss: held_out,
            gradient_norm: report.gradient_norm.into(),
            learning_rate: (*learning_rate).into(),
            tokens: *tokens as u64,
            tokens_per_second: per_second,
            flops_utilisation: self.records.utilisation(per_second / self.ranks.size() as f64),
            memory_bytes: self.learner.model.device.most_memory_bytes(),
            padding: padding / (tokens + padding).max(1.0),
            skipped: report.skipped,
            elapsed_s,
        });
        diverged
    }

    /// Ends the run where step after step is skipped.
    fn count_skipped(&mut self, step: u32, report: &Report, packs: &source::Packs) -> Result<()> {
        self.skipped_in_a_row = if report.skipped { self.skipped_in_a_row + 1 } else { 0 };
        if !report.skipped {
            return Ok(());
        }
        let culprit = report.losses.iter().position(|loss| !loss.is_finite());
        let what = match culprit {
            Some(pack) => format!("the loss of pack {pack} ({}) is not finite", packs.names(pack, &self.source)),
            None if report.loss.is_finite() => "a gradient is not finite, though every loss is".to_owned(),
            None => "the loss of another rank's pack is not finite".to_owned(),
        };
        self.records.note(&format!("step {step} was skipped: {what}"));
        if self.skipped_in_a_row < MOST_SKIPPED {
            return Ok(());
        }
        let folder = self.folder.display();
        let cure = match self.saved {
            Some(saved) => format!(
                "lower learning_rate in {folder}/{FILE}, and go on from its newest checkpoint, of step {saved}, with \
                 `packscan train --resume {folder}`"
            ),
            None => "no checkpoint was saved yet: begin anew with a lower --learning-rate".to_owned(),
        };
        Err(Error::Diverged { steps: self.skipped_in_a_row, step, what, cure })
    }

    /// Writes a checkpoint on rank 0; one that cannot be written is told, and the run goes on. It is an error where the run ends here. While
    /// steps are skipped no older one goes: those may be the last from which the run can be saved.
    fn save(&mut self, ends: bool) -> Result<()> {
        let Settings { keep, .. } = self.settings;
        let Some(progressed) = self.progressed.as_ref().filter(|_| keep > 0) else { return Ok(()) };
        let state = serde_json::to_value(progressed).expect("numbers become JSON");
        let keep = if self.skipped_in_a_row > 0 { usize::MAX } else { keep };
        let beside = Beside { tokenizer: &self.source.tokenizer, trainer: &state };
        match checkpoint::save(&self.folder, self.step, &mut self.learner, &beside, keep) {
            Ok(_) => self.saved = Some(self.step),
            Err(error) => self.unsaved(error, ends)?,
        }
        Ok(self.ranks.progress(self.step.into())?)
    }

    /// Tells of a checkpoint that cannot be written, and what is left.
    fn unsaved(&mut self, error: Error, ends: bool) -> Result<()> {
        let (step, folder, every) = (self.step, self.folder.display(), self.settings.save_every);
        if ends {
            let cure = match self.saved {
                Some(saved) => format!("`packscan train --resume {folder}` goes on from step {saved}"),
                None => "begin anew in another folder: there is no checkpoint before it".to_owned(),
            };
            return Err(Error::Unsaved { step, error: Box::new(error), cure });
        }
        let next = (step / every + 1).saturating_mul(every).min(self.settings.rates.steps);
        let left =
            self.saved.map_or_else(|| "there is none".to_owned(), |saved| format!("the newest is of step {saved}"));
        self.records.loud(&format!(
            "the checkpoint of step {step} was NOT saved: {error}; it is tried again after step {next}, and until then {left}"
        ));
        Ok(())
    }
}

/// The learner of a run: fresh, from another model, or from a checkpoint.
fn learner(
    settings: &Settings,
    device: &Device,
    resumed: Option<Checkpoint>,
    pretrained: Option<Pretrained>,
    ranks: &Rc<dyn Collective>,
) -> Result<Learner> {
    let Settings { model: config, text, recompute, .. } = settings;
    let io: Dtype = settings.io()?;
    let mut model = match (&resumed, pretrained) {
        (Some(checkpoint), _) => {
            checkpoint.check(config)?;
            checkpoint.model(device, io)?
        }
        (None, Some(pretrained)) => pretrained.model(device, io)?,
        (None, None) => Model::new(device, io, config, &Layout::of(config).fresh(settings.seed))?,
    };
    model.variants = settings.variants()?;
    model.choose_products(&settings.products);
    let mut learner = Learner::among(ranks.clone(), settings.shard, model, text.tokens, text.packs, recompute)?;
    learner.let_gradients_flow(text.cut == Cut::Flow);
    if text.chain() > 0 {
        learner.expect_cuts()?;
    }
    if let Some(checkpoint) = resumed {
        checkpoint.restore(&mut learner)?;
    }
    Ok(learner)
}
