//! Races whose times are known beforehand: the best is found, with few launches, whatever else happens.

use packscan_tune::rounds::{Entrant, Fate, Timer, race, ranking};

/// Times that never change but for a small wave, and a clock that counts launches.
struct Fake {
    ms: Vec<Result<f64, &'static str>>,
    wave_ms: f64,
    launched: Vec<usize>,
    most: usize,
}

impl Fake {
    fn new(ms: &[f64]) -> Fake {
        let launched = vec![0; ms.len()];
        Fake { ms: ms.iter().copied().map(Ok).collect(), wave_ms: 0.001, launched, most: usize::MAX }
    }
}

impl Timer for Fake {
    fn launch(&mut self, index: usize, launches: usize) -> Result<Vec<f64>, String> {
        let ms = self.ms[index]?;
        let before = self.launched[index];
        self.launched[index] += launches;
        Ok((before..before + launches).map(|n| ms + self.wave_ms * (n % 3) as f64).collect())
    }

    fn is_over(&self) -> bool {
        self.launched.iter().sum::<usize>() >= self.most
    }
}

fn alone(count: usize) -> Vec<Entrant> {
    (0..count).map(|i| Entrant { id: format!("v{i}"), part: 0, group: 0 }).collect()
}

fn level(_: u32) -> f64 {
    1.0
}

#[test]
fn the_fastest_wins_and_the_slow_are_launched_least() {
    let times: Vec<f64> = (0..16).map(|i| 1.0 + ((i * 7) % 16) as f64).collect();
    let (entrants, mut timer) = (alone(16), Fake::new(&times));
    let fates = race(&entrants, &level, &mut timer);
    let ranked = ranking(&entrants, &fates, &level, 0);
    let expected: Vec<usize> =
        (0..16).map(|place| times.iter().position(|&t| t == 1.0 + place as f64).unwrap()).collect();
    assert_eq!(ranked, expected);
    assert_eq!(timer.launched[expected[15]], 3, "the slowest is out after the first round");
    assert!(timer.launched[expected[0]] > 3, "the best is timed again");
    assert!(timer.launched.iter().sum::<usize>() < 16 * 8 * 3 / 3, "{:?}", timer.launched);
}

#[test]
fn what_cannot_be_told_apart_is_timed_to_the_end() {
    let (entrants, mut timer) = (alone(4), Fake::new(&[1.0, 1.0005, 2.0, 3.0]));
    let fates = race(&entrants, &level, &mut timer);
    assert_eq!(timer.launched[0], 24, "eight rounds");
    assert_eq!(timer.launched[1], 24);
    assert_eq!(timer.launched[3], 3);
    assert_eq!(ranking(&entrants, &fates, &level, 0)[..2], [0, 1]);
}

#[test]
fn the_median_and_the_spread_are_of_all_launches() {
    let (entrants, mut timer) = (alone(1), Fake { wave_ms: 0.5, ..Fake::new(&[1.0]) });
    let fates = race(&entrants, &level, &mut timer);
    let times = fates[0].times().unwrap();
    assert_eq!((times.median_ms, times.launches), (1.5, timer.launched[0]));
    assert!(times.spread_ms > 0.0 && times.spread_ms <= 1.0, "{times:?}");
}

#[test]
fn one_that_fails_is_dropped_and_the_others_go_on() {
    let (entrants, mut timer) = (alone(3), Fake::new(&[1.0, 2.0, 3.0]));
    timer.ms[0] = Err("too hot");
    let fates = race(&entrants, &level, &mut timer);
    assert_eq!(fates[0], Fate::Dropped("too hot".to_owned()));
    assert_eq!(ranking(&entrants, &fates, &level, 0), [1, 2]);
}

#[test]
fn without_time_the_first_is_still_timed() {
    let (entrants, mut timer) = (alone(5), Fake { most: 0, ..Fake::new(&[5.0, 4.0, 3.0, 2.0, 1.0]) });
    let fates = race(&entrants, &level, &mut timer);
    assert!(fates[0].times().is_some());
    assert!(fates[1..].iter().all(|fate| *fate == Fate::NotReached), "{fates:?}");
}

/// Distances 8, 16 and 32 of the scan's two passes.
fn passes() -> Vec<Entrant> {
    let all = [(0, 8), (0, 16), (0, 32), (1, 8), (1, 16), (1, 32)];
    all.map(|(part, group)| Entrant { id: format!("{part}-{group}"), part, group }).to_vec()
}

#[test]
fn parts_are_chosen_together() {
    // Alone, forward would take 32 and backward 8; together 16 is the best.
    let (entrants, mut timer) = (passes(), Fake::new(&[3.0, 2.2, 2.0, 7.8, 8.0, 9.0]));
    let fates = race(&entrants, &level, &mut timer);
    assert_eq!([0, 1].map(|part| ranking(&entrants, &fates, &level, part)[0]), [1, 4]);
}

#[test]
fn a_group_that_costs_beside_time_must_be_faster_by_that() {
    let weigh = |group: u32| if group < 16 { 1.02 } else { 1.0 };
    for (backward, best) in [(7.9, [1, 4]), (7.5, [0, 3])] {
        let (entrants, mut timer) = (passes(), Fake::new(&[2.0, 2.0, 2.0, backward, 8.0, 9.0]));
        let fates = race(&entrants, &weigh, &mut timer);
        assert_eq!([0, 1].map(|part| ranking(&entrants, &fates, &weigh, part)[0]), best, "{backward}");
    }
}

#[test]
fn a_group_that_a_part_has_nobody_in_cannot_win() {
    let (entrants, mut timer) = (passes(), Fake::new(&[2.0, 2.0, 2.0, 1.0, 8.0, 9.0]));
    timer.ms[3] = Err("it does not run");
    let fates = race(&entrants, &level, &mut timer);
    assert_eq!([0, 1].map(|part| ranking(&entrants, &fates, &level, part)[0]), [1, 4]);
}
