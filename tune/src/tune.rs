//! The tuner: from the candidates of a model's launches to the fastest that verified.
//!
//! In this order, for all launches side by side: compile and predict, leave those whose prediction is worst, but for what won elsewhere,
//! verify the others, time what verified. So nothing is timed that was not verified, and what does not compile or verify is dropped with its
//! reason. Each part of the work has a share of the time; what it does not reach is left out, except for the hand-picked variants.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::candidates::{Candidate, Slot};
use crate::file::{Dropped, RunnerUp, Tuned, digest};
use crate::rounds::{Entrant, Fate, Measured, Timer, race, ranking, score};

/// What tunes: a GPU, or in tests something that is quicker to ask. `Err` is a reason, for people.
pub trait Hardware: Sync {
    /// The driver, as entries of the tuning file name it.
    fn driver(&self) -> &str;

    /// Compiles a variant, and predicts its cost where that can be done.
    ///
    /// # Errors
    /// Why it cannot run there.
    fn compile(&self, slot: &Slot, id: &str) -> Result<Option<Promise>, String>;

    /// Verifies a variant that compiled.
    ///
    /// # Errors
    /// The property that did not hold.
    fn verify(&self, id: &str) -> Result<(), String>;

    /// What was under way when it stopped to run anything: a kernel that goes astray takes the whole context with it. Empty while it runs.
    fn lost(&self) -> Vec<String>;

    /// Makes ready to time, on this thread.
    ///
    /// # Errors
    /// Where there is no room for the sizes that are tuned for.
    fn stopwatch(&self) -> Result<Box<dyn Stopwatch + '_>, Error>;
}

/// What times.
pub trait Stopwatch {
    /// Launches a variant that verified so often, at the sizes that are tuned for: milliseconds.
    ///
    /// # Errors
    /// Why it cannot be timed.
    fn launch(&mut self, id: &str, launches: usize) -> Result<Vec<f64>, String>;

    /// Looks once more at a variant that is to be chosen: at the sizes that are tuned for, and in its other forms.
    ///
    /// # Errors
    /// Why it may not be chosen.
    fn confirm(&mut self, id: &str) -> Result<(), String>;

    /// What the machine needs at least for what a variant does; `None` where that is not known.
    fn floor(&mut self, id: &str) -> Option<Floor>;
}

/// What a variant is predicted to cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// Milliseconds.
    pub ms: f64,
    /// What is busiest meanwhile.
    pub limit: String,
}

/// The least time that a machine could need.
#[derive(Clone, Debug, PartialEq)]
pub struct Floor {
    /// Milliseconds.
    pub ms: f64,
    /// What they are needed for.
    pub limit: String,
}

/// Who looks on.
pub trait Watch: Sync {
    /// So many steps of this kind come next.
    fn begin(&self, doing: &'static str, steps: usize);
    /// One of them was made.
    fn step(&self, what: &str);
    /// Something that is worth a line.
    fn note(&self, line: &str);
}

/// Launches whose variants are chosen together, one or several.
pub type Team = Vec<Slot>;

/// What was found for one launch.
#[derive(Debug)]
pub struct Found {
    /// The launch.
    pub slot: Slot,
    /// The fastest, or why there is none.
    pub tuned: Result<Tuned, Error>,
    /// What the fastest was predicted to cost.
    pub prediction: Option<Promise>,
    /// What the machine needs for it at least.
    pub floor: Option<Floor>,
    /// How the hand-picked variant did, if it could be timed.
    pub hand_picked: Option<Measured>,
    /// Candidates that were listed, and that were timed.
    pub counts: (usize, usize),
}

/// Shares of the time after which compiling, verifying and timing leave out what they have not reached. The rest is for winners, which are
/// looked at once more.
const SHARES: [f64; 3] = [0.45, 0.7, 0.85];
/// Candidates of a launch that are compiled at most, the favoured ones and those nearest to the hand-picked one: of one that is chosen alone,
/// and of one in a team.
const COMPILED: [usize; 2] = [64, 160];
/// Candidates of a launch that are verified and timed at most: of one that is chosen alone, and in each group of one in a team; favoured ones
/// in any case.
const TIMED: [usize; 2] = [16, 10];
/// Distances of checkpoints below this one cost memory for the states between them.
const DISTANCE: u32 = 16;
/// What that memory is worth, as a share of the time of both passes.
const MEMORY: f64 = 0.02;
/// Letters of a reason that are kept.
const REASON: usize = 300;

/// Tunes teams for packs of `tokens` within `seconds`, on top of which come the hand-picked variants of each launch, whatever they take.
///
/// # Errors
/// That of [`Hardware::stopwatch`], and [`Error::Lost`]. A launch for which nothing is left is no error of the others: it is in what was found.
pub fn tune(
    hardware: &dyn Hardware,
    teams: Vec<Team>,
    tokens: usize,
    seconds: f64,
    watch: &dyn Watch,
) -> Result<Vec<Found>, Error> {
    if teams.is_empty() {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let work =
        Work { hardware, watch, tokens, ends: SHARES.map(|share| began + Duration::from_secs_f64(seconds * share)) };
    let slots: Vec<&Slot> = teams.iter().flatten().collect();
    let most = teams.iter().flat_map(|team| team.iter().map(|slot| of(team, COMPILED).min(slot.candidates.len())));
    let mut states = work.compile(&slots, most.collect());
    let mut first = 0;
    for team in &teams {
        let states = &mut states[first..first + team.len()];
        first += team.len();
        choose_to_time(team, states);
    }
    work.verify(&slots, &mut states);
    check_alive(hardware)?;
    let mut found = Vec::new();
    let mut states = states.into_iter();
    let mut stopwatch = hardware.stopwatch()?;
    watch.begin("timing", teams.len());
    for team in teams {
        let states: Vec<State> = states.by_ref().take(team.len()).collect();
        watch.step(&team.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>().join(" and "));
        found.extend(work.time(team, &states, &mut *stopwatch));
        check_alive(hardware)?;
    }
    Ok(found)
}

fn check_alive(hardware: &dyn Hardware) -> Result<(), Error> {
    let ids = hardware.lost();
    if ids.is_empty() { Ok(()) } else { Err(Error::Lost { ids }) }
}

/// The number for a launch that is chosen alone, or for one in a team.
fn of(team: &Team, [alone, together]: [usize; 2]) -> usize {
    if team.len() > 1 { together } else { alone }
}

/// What is known of the candidates of a slot so far, by their places.
#[derive(Default)]
struct State {
    predicted: HashMap<usize, Option<Promise>>,
    /// Those that go on, the most promising first.
    left: Vec<usize>,
    dropped: Vec<Dropped>,
}

struct Work<'a> {
    hardware: &'a dyn Hardware,
    watch: &'a dyn Watch,
    tokens: usize,
    ends: [Instant; 3],
}

impl Work<'_> {
    /// Compiles the first candidates, all slots in turn.
    fn compile(&self, slots: &[&Slot], most: Vec<usize>) -> Vec<State> {
        let tasks = in_turn(most.into_iter().map(|most| (0..most).collect()).collect());
        let done = self.side_by_side(
            "compiling",
            &tasks,
            self.ends[0],
            |&(s, c)| self.hardware.compile(slots[s], &slots[s].candidates[c].id),
            slots,
        );
        let mut states: Vec<State> = slots.iter().map(|_| State::default()).collect();
        for ((s, c), result) in done {
            match result {
                Ok(prediction) => {
                    states[s].predicted.insert(c, prediction);
                    states[s].left.push(c);
                }
                Err(reason) => self.drop(&mut states[s], slots[s], c, &reason),
            }
        }
        states
    }

    /// Verifies those that are left, the most promising of each slot first.
    fn verify(&self, slots: &[&Slot], states: &mut [State]) {
        let tasks = in_turn(states.iter().map(|state| state.left.clone()).collect());
        let done = self.side_by_side(
            "verifying",
            &tasks,
            self.ends[1],
            |&(s, c)| {
                if !self.hardware.lost().is_empty() {
                    return Err("nothing runs any more, after another variant".to_owned());
                }
                self.hardware.verify(&slots[s].candidates[c].id)
            },
            slots,
        );
        states.iter_mut().for_each(|state| state.left.clear());
        for ((s, c), result) in done {
            match result {
                Ok(()) => states[s].left.push(c),
                Err(reason) => self.drop(&mut states[s], slots[s], c, &reason),
            }
        }
    }

    fn drop(&self, state: &mut State, slot: &Slot, candidate: usize, reason: &str) {
        let id = slot.candidates[candidate].id.clone();
        let reason: String = reason.trim().chars().take(REASON).collect();
        self.watch.note(&format!("dropped {id}: {reason}"));
        state.dropped.push(Dropped { id, reason });
    }

    /// Does tasks on all processors until time is over, in their order; the hand-picked ones in any case.
    fn side_by_side<T: Send>(
        &self,
        doing: &'static str,
        tasks: &[(usize, usize)],
        end: Instant,
        work: impl Fn(&(usize, usize)) -> T + Sync,
        slots: &[&Slot],
    ) -> Vec<((usize, usize), T)> {
        self.watch.begin(doing, tasks.len());
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(tasks.len());
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(&task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if task.1 > 0 && Instant::now() > end {
                            continue;
                        }
                        let result = work(&task);
                        self.watch.step(&slots[task.0].candidates[task.1].id);
                        done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((task, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = |task: &(usize, usize)| tasks.iter().position(|other| other == task);
        done.sort_by_key(|(task, _)| place(task));
        done
    }

    /// Measured what verified of a team.
    fn time(&self, team: Team, states: &[State], stopwatch: &mut dyn Stopwatch) -> Vec<Found> {
        let mut entrants = Vec::new();
        for (part, (slot, state)) in std::iter::zip(&team, states).enumerate() {
            let candidates = state.left.iter().map(|&c| slot.candidates[c].clone());
            entrants.extend(candidates.map(|Candidate { id, group }| Entrant { id, part, group }));
        }
        let weigh = weigh(team.len());
        let mut timer = Launches { stopwatch, entrants: &entrants, end: self.ends[2] };
        let mut fates = race(&entrants, &weigh, &mut timer);
        confirm(&entrants, &mut fates, &weigh, stopwatch);
        if team.len() > 1 {
            self.say_if_memory_decided(&team, &entrants, &fates);
        }
        let mut all = Vec::new();
        for (part, (slot, state)) in std::iter::zip(team, states).enumerate() {
            let ranked = places(&entrants, &fates, &weigh, part);
            let race = Race { part, ranked, entrants: &entrants, fates: &fates };
            all.push(self.found(slot, state, &race, stopwatch));
        }
        all
    }

    fn found(&self, slot: Slot, state: &State, race: &Race<'_>, stopwatch: &mut dyn Stopwatch) -> Found {
        let mut dropped = state.dropped.clone();
        for (id, reason) in race.dropped() {
            self.watch.note(&format!("dropped {id}: {reason}"));
            dropped.push(Dropped { id, reason });
        }
        let listed = slot.candidates.len();
        let mut found = Found {
            prediction: None,
            floor: None,
            hand_picked: race.times(slot.hand_picked()),
            counts: (listed, race.ranked.len()),
            tuned: Err(Error::NoneLeft { slot: slot.name.clone(), dropped: dropped.clone() }),
            slot,
        };
        let Some((id, times)) = race.place(0) else { return found };
        let place = found.slot.candidates.iter().position(|candidate| candidate.id == id);
        found.prediction = place.and_then(|place| state.predicted.get(&place).cloned().flatten());
        found.floor = stopwatch.floor(&id);
        found.tuned = Ok(Tuned {
            kernel: found.slot.kernel.to_owned(),
            problem: found.slot.problem.clone(),
            tokens: self.tokens.next_power_of_two(),
            driver: self.hardware.driver().to_owned(),
            digest: digest(&id).unwrap_or_default(),
            id,
            ms: times.median_ms,
            spread_ms: times.spread_ms,
            runner_up: race.place(1).map(|(id, times)| RunnerUp { id, ms: times.median_ms }),
            dropped,
        });
        found
    }

    /// A longer distance of checkpoints that won by its memory, not by its time.
    fn say_if_memory_decided(&self, team: &Team, entrants: &[Entrant], fates: &[Fate]) {
        let winner = |weigh: &dyn Fn(u32) -> f64| {
            let i = *ranking(entrants, fates, weigh, 0).first()?;
            Some((entrants[i].group, score(entrants, fates, &|_| 1.0, i)?))
        };
        if let (Some((group, ms)), Some((fastest, least))) = (winner(&weigh(team.len())), winner(&|_| 1.0))
            && group != fastest
        {
            let names = team.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>().join(" and ");
            let slower = 100.0 * (ms / least - 1.0);
            self.watch.note(&format!(
                "{names}: checkpoints {group} tokens apart ({ms:.3} ms) instead of {fastest} ({least:.3} ms), which would be \
                 {slower:.1} % faster and take {:.1} times their memory",
                f64::from(group) / f64::from(fastest)
            ));
        }
    }
}

/// What a group counts: short distances of checkpoints, where there are any, as if they were slower by what their memory is worth.
fn weigh(parts: usize) -> impl Fn(u32) -> f64 {
    move |group| if parts > 1 && group < DISTANCE { 1.0 + MEMORY } else { 1.0 }
}

/// The first of each list, then the second of each, and so on, with the number of their list.
fn in_turn(lists: Vec<Vec<usize>>) -> Vec<(usize, usize)> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let at = |place: usize| lists.iter().enumerate().filter_map(move |(list, all)| Some((list, *all.get(place)?)));
    (0..longest).flat_map(at).collect()
}

/// Leaves the favoured candidates, the hand-picked one first, and those with the best predictions in each group; those without a prediction
/// come last, nearest to the hand-picked one first.
fn choose_to_time(team: &Team, states: &mut [State]) {
    for (slot, state) in std::iter::zip(team, states) {
        let promise = |c: &usize| state.predicted.get(c).and_then(|p| p.as_ref()).map_or(f64::INFINITY, |p| p.ms);
        let mut order = state.left.clone();
        order.sort_by(|a, b| promise(a).total_cmp(&promise(b)).then(a.cmp(b)));
        let most = of(team, TIMED);
        let mut taken: HashMap<u32, usize> = HashMap::new();
        order.retain(|&c| {
            let taken = taken.entry(slot.candidates[c].group).or_default();
            *taken += 1;
            *taken <= most || c < slot.favoured
        });
        order.sort_by_key(|&c| (c != 0, c >= slot.favoured));
        state.left = order;
    }
}

/// Drops winners that are not confirmed, until each part has one that is, or none.
fn confirm(entrants: &[Entrant], fates: &mut [Fate], weigh: &dyn Fn(u32) -> f64, stopwatch: &mut dyn Stopwatch) {
    let parts = entrants.iter().map(|entrant| entrant.part + 1).max().unwrap_or(0);
    let mut confirmed = HashSet::new();
    loop {
        let winners = winners(entrants, fates, weigh, parts);
        let Some(&new) = winners.iter().find(|i| !confirmed.contains(*i)) else { return };
        match stopwatch.confirm(&entrants[new].id) {
            Ok(()) => drop(confirmed.insert(new)),
            Err(reason) => fates[new] = Fate::Dropped(reason),
        }
    }
}

/// The best of each part; all parts take the group of the first one's best.
fn winners(entrants: &[Entrant], fates: &[Fate], weigh: &dyn Fn(u32) -> f64, parts: usize) -> Vec<usize> {
    (0..parts).filter_map(|part| places(entrants, fates, weigh, part).first().copied()).collect()
}

/// Who was timed in a part, the best first, those with whom the first part's best can be chosen before the others.
fn places(entrants: &[Entrant], fates: &[Fate], weigh: &dyn Fn(u32) -> f64, part: usize) -> Vec<usize> {
    let group = ranking(entrants, fates, weigh, 0).first().map(|&i| entrants[i].group);
    let mut ranked = ranking(entrants, fates, weigh, part);
    ranked.sort_by_key(|&i| Some(entrants[i].group) != group);
    ranked
}

/// How one part of a race ended.
struct Race<'a> {
    part: usize,
    /// Who was timed, the best first.
    ranked: Vec<usize>,
    entrants: &'a [Entrant],
    fates: &'a [Fate],
}

impl Race<'_> {
    fn place(&self, place: usize) -> Option<(String, Measured)> {
        let &i = self.ranked.get(place)?;
        Some((self.entrants[i].id.clone(), self.fates[i].times()?))
    }

    fn of_part(&self) -> impl Iterator<Item = (&Entrant, &Fate)> {
        std::iter::zip(self.entrants, self.fates).filter(|(entrant, _)| entrant.part == self.part)
    }

    fn times(&self, id: &str) -> Option<Measured> {
        self.of_part().find(|(entrant, _)| entrant.id == id).and_then(|(_, fate)| fate.times())
    }

    fn dropped(&self) -> Vec<(String, String)> {
        let reason = |(entrant, fate): (&Entrant, &Fate)| match fate {
            Fate::Dropped(reason) => Some((entrant.id.clone(), reason.clone())),
            Fate::Timed(_) | Fate::NotReached => None,
        };
        self.of_part().filter_map(reason).collect()
    }
}

/// Launches the entrants of a race.
struct Launches<'a> {
    stopwatch: &'a mut dyn Stopwatch,
    entrants: &'a [Entrant],
    end: Instant,
}

impl Timer for Launches<'_> {
    fn launch(&mut self, index: usize, launches: usize) -> Result<Vec<f64>, String> {
        self.stopwatch.launch(&self.entrants[index].id, launches)
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }
}
