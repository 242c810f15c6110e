//! What is known of a GPU already: from its own tuning file, and from the one that comes with packscan.

use std::fmt;
use std::path::Path;

use packscan_runtime::nvrtc::Arch;

use crate::Result;
use crate::candidates::{Slot, slot};
use crate::file::{Contents, Key, PRODUCT, Tuned, TuningFile};
use crate::tune::Team;
use crate::workload::Problem;

/// The file for the published sizes on an H200, measured there.
pub const SHIPPED: &str = include_str!("shipped/h200.toml");

/// Who found a variant to be the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This GPU's tuning file.
    Here,
    /// The file that comes with packscan.
    Shipped,
}

/// The fastest variant of a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The launch.
    pub slot: String,
    /// The variant.
    pub id: String,
    /// Its time where it was tuned.
    pub ms: f64,
    /// Who says so.
    pub origin: Origin,
}

/// A line for people: the launch, who chose, the time, the variant.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { slot, id, ms, origin } = self;
        let whose = if *origin == Origin::Here { "tuned here" } else { "shipped" };
        write!(f, "{slot:<14} {whose}, {ms:.3} ms: {id}")
    }
}

/// Entries that may answer for a GPU.
#[derive(Debug)]
pub struct Known {
    here: Vec<Tuned>,
    shipped: Vec<Tuned>,
    driver: String,
}

/// The answer for a team.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// A choice for each launch of the team, or none.
    pub choices: Option<Vec<Choice>>,
    /// Why entries for it were passed over.
    pub passed_over: Vec<String>,
}

impl Known {
    /// Reads the tuning file of a GPU in packscan's cache folder, and what ships for that GPU; with it what is to be said of the file.
    ///
    /// # Errors
    /// [`crate::Error::Store`] for a file that cannot be read.
    pub fn open(cache: &Path, gpu: &str, driver: &str) -> Result<(Known, Option<String>)> {
        let (contents, said) = TuningFile::of(cache, gpu).read()?;
        Ok((Known { here: contents.tuned, ..Known::shipped_alone(gpu, driver) }, said))
    }

    /// What ships for a GPU, where its own file cannot be read.
    pub fn shipped_alone(gpu: &str, driver: &str) -> Known {
        Known { here: Vec::new(), shipped: shipped().tuned_for(gpu), driver: driver.to_owned() }
    }

    /// The fastest variants of launches that are chosen together, for packs of `tokens`. Both files are asked for all of them: this GPU's
    /// first, whose entries hold for the driver with which they were made. The other's hold for every driver, since packscan compiles
    /// without it.
    pub fn choose(&self, team: &Team, tokens: usize) -> Answer {
        let mut answer = Answer::default();
        for (origin, entries) in [(Origin::Here, &self.here), (Origin::Shipped, &self.shipped)] {
            match self.ask(team, tokens, origin, entries) {
                Ok(choices) => {
                    answer.choices = Some(choices);
                    break;
                }
                Err(Some(why)) => answer.passed_over.push(why),
                Err(None) => {}
            }
        }
        answer
    }

    /// Lets a tuner begin with what was the fastest for other problems, on whatever GPU.
    pub fn favour(&self, team: &mut Team) {
        let shipped = shipped().tuned;
        for slot in team {
            let of_kernel = self.here.iter().chain(&shipped).filter(|entry| entry.kernel == slot.kernel);
            slot.favour(&of_kernel.map(|entry| entry.id.as_str()).collect::<Vec<_>>());
        }
    }

    /// The algorithm of a product of this name and [kind](packscan_runtime::Gemm::kind), of the cuBLASLt whose ids begin with `prefix`; asks as
    /// [`Known::choose`] does.
    pub fn product(&self, name: &str, kind: &str, tokens: usize, prefix: &str) -> Answer {
        let mut answer = Answer::default();
        let key = Key::new(PRODUCT, kind, tokens);
        for (origin, entries) in [(Origin::Here, &self.here), (Origin::Shipped, &self.shipped)] {
            let for_key: Vec<&Tuned> = entries.iter().filter(|entry| entry.is_for(&key)).collect();
            let of_driver = |entry: &&&Tuned| origin == Origin::Shipped || entry.driver == self.driver;
            let holds = |entry: &&&Tuned| of_driver(entry) && entry.is_fresh() && entry.digest == prefix;
            match (for_key.iter().find(holds), for_key.first()) {
                (Some(entry), _) => {
                    let (slot, id) = (name.to_owned(), entry.id.clone());
                    answer.choices = Some(vec![Choice { slot, id, ms: entry.ms, origin }]);
                    break;
                }
                (None, Some(Tuned { driver, digest, .. })) => answer.passed_over.push(format!(
                    "products that were tuned with driver {driver} and algorithms {digest} do not hold for driver {} and {prefix}",
                    self.driver
                )),
                (None, None) => {}
            }
        }
        answer
    }

    /// One file's answer; `Err` says why entries were passed over, or that there are none.
    fn ask(
        &self,
        team: &Team,
        tokens: usize,
        origin: Origin,
        entries: &[Tuned],
    ) -> Result<Vec<Choice>, Option<String>> {
        let mut found = Vec::new();
        let mut groups = Vec::new();
        for slot in team {
            let key = Key::new(slot.kernel, &slot.problem, tokens);
            let for_key: Vec<&Tuned> = entries.iter().filter(|entry| entry.is_for(&key)).collect();
            let other = for_key.first().ok_or(None)?;
            let of_driver = |entry: &&&Tuned| origin == Origin::Shipped || entry.driver == self.driver;
            let entry = for_key.iter().find(of_driver).ok_or_else(|| {
                Some(format!(
                    "what was tuned here with driver {} does not hold for driver {}",
                    other.driver, self.driver
                ))
            })?;
            let candidate = slot.candidates.iter().find(|candidate| candidate.id == entry.id);
            let (Some(candidate), true) = (candidate, entry.is_fresh()) else {
                let whose = if origin == Origin::Here { "was tuned here" } else { "came with packscan" };
                return Err(Some(format!("what {whose} for {} is of another version of the kernel", slot.kernel)));
            };
            groups.push(candidate.group);
            found.push(Choice { slot: slot.name.clone(), id: entry.id.clone(), ms: entry.ms, origin });
        }
        match groups.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(found),
            false => Err(Some("what was tuned for the two passes of the scan does not fit together".to_owned())),
        }
    }
}

/// The file that comes with packscan.
///
/// # Panics
/// Never: a test reads it.
pub fn shipped() -> Contents {
    Contents::parse(SHIPPED).expect("the shipped file is whole")
}

impl Contents {
    fn tuned_for(self, gpu: &str) -> Vec<Tuned> {
        if self.gpu == gpu { self.tuned } else { Vec::new() }
    }
}

/// The launches of a model, by name and hand-picked variant, in teams that are chosen together: the two passes of the scan that meet at its
/// saved states, and every other launch alone.
///
/// # Errors
/// [`packscan_runtime::Error::Id`] and [`packscan_runtime::Error::Variant`] for an id that names none that the architecture runs.
pub fn teams<'a>(
    hand_picked: impl IntoIterator<Item = (&'a str, &'a str)>,
    problem: &Problem,
    arch: Arch,
) -> Result<Vec<Team>> {
    let (mut scan, mut alone) = (Vec::new(), Vec::new());
    for (name, id) in hand_picked {
        let slot = slot(name, id, problem, arch)?;
        match slot.kernel.starts_with("selective_scan") && !saves_nothing(&slot) {
            true => scan.push(slot),
            false => alone.push(vec![slot]),
        }
    }
    if !scan.is_empty() {
        alone.insert(0, scan);
    }
    Ok(alone)
}

/// Whether this is the forward scan of a block that computes it again.
fn saves_nothing(slot: &Slot) -> bool {
    slot.kernel == "selective_scan_fwd" && !slot.problem.contains("checkpoints")
}
