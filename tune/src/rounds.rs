//! Timing in rounds: all that are in the race take turns, and the slower half leaves after each round.
//!
//! A race has one part, or several that are chosen together: both passes of the scan save and read states at the same distance. What counts
//! in a race is the *score*: an entrant's own time and the best time of every other part in its group.

/// What takes part in a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrant {
    /// The id of a variant.
    pub id: String,
    /// Which part of the race it is for, from 0.
    pub part: usize,
    /// With what it can be chosen: entrants of the other parts in the same group.
    pub group: u32,
}

/// How long something took, over all its launches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Half of the launches were faster, in milliseconds.
    pub median_ms: f64,
    /// From the fastest quarter to the slowest, in milliseconds.
    pub spread_ms: f64,
    /// How many there were.
    pub launches: usize,
}

/// How an entrant left the race.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It was timed.
    Timed(Measured),
    /// It could not be, for this reason.
    Dropped(String),
    /// Time was over before its turn.
    NotReached,
}

impl Fate {
    /// Its times.
    pub fn times(&self) -> Option<Measured> {
        match self {
            Fate::Timed(times) => Some(*times),
            Fate::Dropped(_) | Fate::NotReached => None,
        }
    }
}

/// What a group's score is multiplied with, for what it costs beside time.
pub type Weigh<'a> = &'a dyn Fn(u32) -> f64;

/// Launches of an entrant in each round.
const LAUNCHES: usize = 3;
/// After so many rounds what is still level is level.
const MOST_ROUNDS: usize = 8;

/// What runs a launch.
pub trait Timer {
    /// Launches entrant `index` so often; how long each took, in milliseconds.
    ///
    /// # Errors
    /// The reason for which it cannot be timed.
    fn launch(&mut self, index: usize, launches: usize) -> Result<Vec<f64>, String>;

    /// Whether there is no time for another round.
    fn is_over(&self) -> bool;
}

/// Races the entrants; the fate of each, in their order.
pub fn race(entrants: &[Entrant], weigh: Weigh<'_>, timer: &mut dyn Timer) -> Vec<Fate> {
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); entrants.len()];
    let mut fates = vec![Fate::NotReached; entrants.len()];
    let mut left: Vec<usize> = (0..entrants.len()).collect();
    for round in 0..MOST_ROUNDS {
        for &i in &left {
            if round > 0 && timer.is_over() {
                return fates;
            }
            // Even without time the first of each part is timed: somebody has to win.
            if timer.is_over() && won(entrants, &fates, entrants[i].part) {
                continue;
            }
            fates[i] = match timer.launch(i, LAUNCHES) {
                Ok(times) => {
                    samples[i].extend(times);
                    Fate::Timed(of_samples(&samples[i]))
                }
                Err(reason) => Fate::Dropped(reason),
            };
        }
        left.retain(|&i| fates[i].times().is_some());
        if round > 0 && is_decided(entrants, &fates, &left, weigh) {
            break;
        }
        left = better_half(entrants, &fates, &left, weigh);
    }
    fates
}

fn won(entrants: &[Entrant], fates: &[Fate], part: usize) -> bool {
    std::iter::zip(entrants, fates).any(|(entrant, fate)| entrant.part == part && fate.times().is_some())
}

/// Median, and the distance of the quarters.
pub(crate) fn of_samples(samples: &[f64]) -> Measured {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    Measured { median_ms: at(0.5), spread_ms: at(0.75) - at(0.25), launches: sorted.len() }
}

/// What choosing an entrant would cost together with the best of every other part in its group; none if a part has nobody there.
pub fn score(entrants: &[Entrant], fates: &[Fate], weigh: Weigh<'_>, index: usize) -> Option<f64> {
    let Entrant { part, group, .. } = entrants[index];
    let parts = entrants.iter().map(|entrant| entrant.part + 1).max().unwrap_or(0);
    let mut together = fates[index].times()?.median_ms;
    for other in (0..parts).filter(|&other| other != part) {
        let partners = std::iter::zip(entrants, fates).filter(|(e, _)| e.part == other && e.group == group);
        together += partners.filter_map(|(_, fate)| Some(fate.times()?.median_ms)).min_by(f64::total_cmp)?;
    }
    Some(together * weigh(group))
}

/// The timed entrants of a part, the best score first.
pub fn ranking(entrants: &[Entrant], fates: &[Fate], weigh: Weigh<'_>, part: usize) -> Vec<usize> {
    let of_part = (0..entrants.len()).filter(|&i| entrants[i].part == part);
    let mut scored: Vec<(f64, usize)> = of_part.filter_map(|i| Some((score(entrants, fates, weigh, i)?, i))).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    scored.into_iter().map(|(_, i)| i).collect()
}

/// Of those left in each part the better half, two at least, and whoever is too close to tell from the best.
fn better_half(entrants: &[Entrant], fates: &[Fate], left: &[usize], weigh: Weigh<'_>) -> Vec<usize> {
    let mut kept = Vec::new();
    for part in 0..entrants.iter().map(|entrant| entrant.part + 1).max().unwrap_or(0) {
        let ranked: Vec<usize> =
            ranking(entrants, fates, weigh, part).into_iter().filter(|i| left.contains(i)).collect();
        let Some(&best) = ranked.first() else { continue };
        let half = ranked.len().div_ceil(2).max(2);
        let stays = |&(place, &i): &(usize, &usize)| place < half || !is_slower(entrants, fates, weigh, i, best);
        kept.extend(ranked.iter().enumerate().filter(stays).map(|(_, &i)| i));
    }
    kept.sort_unstable();
    kept
}

/// Whether an entrant's score is above the best by more than the spread of both.
fn is_slower(entrants: &[Entrant], fates: &[Fate], weigh: Weigh<'_>, i: usize, best: usize) -> bool {
    let of = |i: usize| Some((score(entrants, fates, weigh, i)?, fates[i].times()?.spread_ms));
    match (of(i), of(best)) {
        (Some((score, spread)), Some((least, best_spread))) => score - least > spread.max(best_spread),
        _ => true,
    }
}

/// Whether every other entrant that is left is slower than the best of its part, beyond the spread.
fn is_decided(entrants: &[Entrant], fates: &[Fate], left: &[usize], weigh: Weigh<'_>) -> bool {
    let parts = entrants.iter().map(|entrant| entrant.part + 1).max().unwrap_or(0);
    (0..parts).all(|part| {
        let ranked = ranking(entrants, fates, weigh, part);
        let Some((&best, others)) = ranked.split_first() else { return true };
        others.iter().filter(|i| left.contains(i)).all(|&i| is_slower(entrants, fates, weigh, i, best))
    })
}
