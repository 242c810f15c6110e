//! Which variants a model launches: tuned on this GPU, tuned for packscan's release, or picked by hand.

use std::collections::{BTreeMap, HashSet};

use indicatif::{ProgressBar, ProgressStyle};
use packscan::runtime::{Cuda, cache};
use packscan::{Device, Dtype};
use packscan_train::ModelConfig;
use packscan_train::activations::Sizes;
use packscan_train::parameters::Layout;
use packscan_train::variants::{Carries, Ids, Variants};
use packscan_tune::Tuning;
use packscan_tune::file::{Tuned, TuningFile};
use packscan_tune::known::{Choice, Known, Origin, teams};
use packscan_tune::tune::{Found, Team, Watch};
use packscan_tune::workload::Problem;

use crate::error::{Error, Result};
use crate::{output, respawn};

/// Seconds that tuning may take where a run begins.
const AT_START_S: f64 = 40.0;
/// Parameters that one launch of the optimiser is timed on, at most: enough for any GPU to show its bandwidth.
const MOST_PARAMETERS: usize = 1 << 28;

/// The launches of a model.
#[derive(Debug)]
pub struct Launches {
    /// Sizes for which they are timed.
    pub problem: Problem,
    hand_picked: Ids,
}

/// What is to happen with launches for which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are tuned.
    Tune,
    /// They run what was picked by hand, for this reason.
    Leave(&'static str),
}

impl Launches {
    /// Those of a model on packs of these lengths.
    pub fn new(config: &ModelConfig, io: Dtype, lengths: Vec<usize>) -> Launches {
        let hand_picked = Variants::hand_picked(config, io, Carries { initial: false, last: false });
        let (tokens, distance) = (lengths.iter().sum(), hand_picked.scan.distance as usize);
        let sizes = Sizes { config: config.clone(), io, tokens, distance, recompute: Vec::new() };
        let problem = Problem {
            lengths,
            width: config.width,
            channels: config.channels(),
            state: config.state,
            taps: config.taps,
            rank: config.rank,
            vocabulary: config.vocabulary,
            logits_rows: sizes.logits_rows(),
            parameters: Layout::of(config).elements.min(MOST_PARAMETERS),
            decays: Layout::of(config).a_logs.len(),
            io,
        };
        Launches { problem, hand_picked: hand_picked.ids() }
    }

    /// Those that are chosen together, side by side.
    pub fn teams(&self, device: &Device) -> Result<Vec<Team>> {
        let ids = self.hand_picked.iter().map(|(name, id)| (name.as_str(), id.as_str()));
        Ok(teams(ids, &self.problem, device.arch().unwrap_or_default())?)
    }

    /// Whether a launch runs this variant where nothing else is known.
    pub fn is_hand_picked(&self, id: &str) -> bool {
        self.hand_picked.values().any(|picked| picked == id)
    }

    /// The variants to launch on a device, and lines that say which and why. Whatever ends the tuning, training can go on; an error is a
    /// launch for which nothing verified.
    pub fn choose(&self, device: &Device, missing: Missing) -> Result<(Ids, Vec<String>)> {
        let Device::Cuda(cuda) = device else { return Ok((self.hand_picked.clone(), Vec::new())) };
        let (known, said) = known(cuda)?;
        let mut lines = Vec::from_iter(said);
        let tokens = self.problem.tokens();
        let (mut choices, mut unknown) = (Vec::new(), Vec::new());
        for team in self.teams(device)? {
            let answer = known.choose(&team, tokens);
            lines.extend(answer.passed_over);
            match answer.choices {
                Some(found) => choices.extend(found),
                None => unknown.push(team),
            }
        }
        // The same is said once, though several launches ask.
        let mut seen = HashSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        let why = match missing {
            Missing::Leave(why) => why,
            Missing::Tune if unknown.is_empty() => "",
            Missing::Tune => match self.tune(device, &known, unknown, AT_START_S) {
                Ok(found) => {
                    choices.extend(of_found(found)?);
                    "not reached by the tuner"
                }
                Err(Error::Tune(packscan_tune::Error::Lost { .. })) => {
                    let why = "a candidate ended everything that ran on the GPU; `packscan tune` finds out which";
                    respawn::again(&["--no-tune".to_owned()], why)?;
                    "nothing could be tuned"
                }
                Err(error) => {
                    lines.push(format!("nothing was tuned: {error}"));
                    "nothing could be tuned"
                }
            },
        };
        lines.extend(self.told(&choices, why));
        let mut ids = self.hand_picked.clone();
        ids.extend(choices.into_iter().map(|choice| (choice.slot, choice.id)));
        Ok((ids, lines))
    }

    /// Tunes, under a bar, beginning with what is known to be fast elsewhere, and keeps what was found in the GPU's tuning file; a file that
    /// cannot be written is told.
    pub fn tune(&self, device: &Device, known: &Known, mut teams: Vec<Team>, seconds: f64) -> Result<Vec<Found>> {
        teams.iter_mut().for_each(|team| known.favour(team));
        let tuning = Tuning::new(device, &self.problem)?;
        let progress = Progress::new();
        let found = packscan_tune::tune(&tuning, teams, self.problem.tokens(), seconds, &progress);
        progress.finish();
        let found = found?;
        keep(device, found.iter().filter_map(|found| found.tuned.as_ref().ok().cloned()).collect())?;
        Ok(found)
    }

    /// A line for each launch: what runs there, and why.
    fn told(&self, choices: &[Choice], why: &str) -> Vec<String> {
        let chosen: BTreeMap<&str, &Choice> = choices.iter().map(|choice| (choice.slot.as_str(), choice)).collect();
        let line = |(name, id): (&String, &String)| match chosen.get(name.as_str()) {
            Some(choice) => choice.to_string(),
            None => format!("{name:<14} picked by hand ({why}): {id}"),
        };
        self.hand_picked.iter().map(line).collect()
    }
}

/// What is known of a GPU, and what is to be said of its tuning file.
pub fn known(cuda: &Cuda) -> Result<(Known, Option<String>)> {
    let (cache, driver) = (cache::default_folder()?, Cuda::driver());
    Ok(Known::open(&cache, cuda.name(), &driver)
        .unwrap_or_else(|error| (Known::shipped_alone(cuda.name(), &driver), Some(error.to_string()))))
}

/// Adds what was found on a GPU to its tuning file; tells where that cannot be done.
pub fn keep(device: &Device, new: Vec<Tuned>) -> Result<()> {
    let Device::Cuda(cuda) = device else { return Ok(()) };
    match TuningFile::of(&cache::default_folder()?, cuda.name()).add(&new) {
        Ok(said) => said.iter().for_each(|said| output::note(said)),
        Err(error) => output::note(&format!("what was tuned is not kept: {error}")),
    }
    Ok(())
}

/// What a tuning says of its launches; an error for one without a variant that may run.
fn of_found(found: Vec<Found>) -> Result<Vec<Choice>> {
    let choice = |Found { slot, tuned, .. }: Found| {
        let tuned = tuned?;
        Ok(Choice { slot: slot.name, id: tuned.id, ms: tuned.ms, origin: Origin::Here })
    };
    found.into_iter().map(choice).collect()
}

/// How far the tuner is: a bar on a terminal, nothing elsewhere.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// At the beginning.
    pub fn new() -> Progress {
        let style = ProgressStyle::with_template("{wide_msg}\n{bar:40} {prefix}, {pos}/{len}, {elapsed}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar }
    }

    /// Leaves the terminal as it was.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn begin(&self, doing: &'static str, steps: usize) {
        self.bar.set_prefix(doing);
        self.bar.set_position(0);
        self.bar.set_length(steps as u64);
    }

    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }

    fn note(&self, line: &str) {
        self.bar.suspend(|| output::note(line));
    }
}
