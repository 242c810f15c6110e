//! The whole tuner, with a machine that is quick to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use packscan_runtime::nvrtc::Arch;
use packscan_runtime::{Dtype, Error as RuntimeError};
use packscan_tune::candidates::{Slot, slot};
use packscan_tune::file::digest;
use packscan_tune::tune::{Floor, Found, Hardware, Promise, Stopwatch, Watch, tune};
use packscan_tune::workload::Problem;
use packscan_tune::{Error, Result};

/// A machine on which a variant takes what `ms` says.
struct Fake {
    ms: fn(&str) -> f64,
    compile: fn(&str) -> Result<(), String>,
    verify: fn(&str) -> Result<(), String>,
    confirm: fn(&str) -> Result<(), String>,
    predicts: bool,
    room: bool,
    verified: Mutex<BTreeSet<String>>,
    launched: Mutex<BTreeMap<String, usize>>,
    /// Variants that take the machine with them.
    deadly: fn(&str) -> bool,
    lost: Mutex<Vec<String>>,
}

fn good(_: &str) -> Result<(), String> {
    Ok(())
}

impl Fake {
    fn new(ms: fn(&str) -> f64) -> Fake {
        let (verified, launched, lost) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (compile, verify, confirm, deadly): (_, _, _, fn(&str) -> bool) = (good, good, good, |_| false);
        Fake { ms, compile, verify, confirm, predicts: true, room: true, verified, launched, deadly, lost }
    }
}

impl Hardware for Fake {
    fn driver(&self) -> &str {
        "1.2.3"
    }

    fn compile(&self, _: &Slot, id: &str) -> Result<Option<Promise>, String> {
        (self.compile)(id)?;
        // Always off, but in the right order.
        let promise = Promise { ms: 2.0 * (self.ms)(id), limit: "issue".to_owned() };
        Ok(self.predicts.then_some(promise))
    }

    fn verify(&self, id: &str) -> Result<(), String> {
        if (self.deadly)(id) {
            self.lost.lock().unwrap().push(id.to_owned());
            return Err("illegal address".to_owned());
        }
        (self.verify)(id)?;
        self.verified.lock().unwrap().insert(id.to_owned());
        Ok(())
    }

    fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap().clone()
    }

    fn stopwatch(&self) -> Result<Box<dyn Stopwatch + '_>> {
        match self.room {
            true => Ok(Box::new(Watched(self))),
            false => Err(RuntimeError::Buffer { rule: "no room".to_owned() }.into()),
        }
    }
}

struct Watched<'a>(&'a Fake);

impl Stopwatch for Watched<'_> {
    fn launch(&mut self, id: &str, launches: usize) -> Result<Vec<f64>, String> {
        assert!(self.0.verified.lock().unwrap().contains(id), "{id} is timed before it verified");
        *self.0.launched.lock().unwrap().entry(id.to_owned()).or_default() += launches;
        let ms = (self.0.ms)(id);
        Ok((0..launches).map(|n| ms * (1.0 + 1e-4 * n as f64)).collect())
    }

    fn confirm(&mut self, id: &str) -> Result<(), String> {
        (self.0.confirm)(id)
    }

    fn floor(&mut self, _: &str) -> Option<Floor> {
        Some(Floor { ms: 0.5, limit: "memory".to_owned() })
    }
}

/// Keeps what is told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Watch for Notes {
    fn begin(&self, doing: &'static str, _: usize) {
        self.0.lock().unwrap().push(doing.to_owned());
    }
    fn step(&self, _: &str) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

const LOSS: &str = "cross_entropy-b1024-k7-v8-bf16";
const FAVOURED: &str = "selective_scan_bwd-n16-l8-k8-s8-w4-c64-b1-v4-bf16-softplus-bias-skip-gate";

fn problem() -> Problem {
    Problem::of_channels(vec![1000; 4], 4096, 16, Dtype::Bf16)
}

/// The hand-picked variants of the scan's passes.
fn scans() -> [String; 2] {
    ["selective_scan_fwd", "selective_scan_bwd"].map(|kernel| problem().hand_picked(kernel).unwrap())
}

fn team<T: AsRef<str>>(ids: &[T]) -> Vec<Slot> {
    let slot = |id: &str| slot(id.split('-').next().unwrap(), id, &problem(), Arch::new(90)).unwrap();
    ids.iter().map(|id| slot(id.as_ref())).collect()
}

fn run<T: AsRef<str>>(fake: &Fake, ids: &[T]) -> (Vec<Found>, Vec<String>) {
    let notes = Notes::default();
    let found = tune(fake, vec![team(ids)], 4000, 1e6, &notes).unwrap();
    (found, notes.0.into_inner().unwrap())
}

fn number(id: &str, tag: char) -> f64 {
    let part = id.split('-').find(|part| part.starts_with(tag) && part[1..].bytes().all(|b| b.is_ascii_digit()));
    part.unwrap()[1..].parse().unwrap()
}

/// A block of 256 threads is the fastest.
fn by_block(id: &str) -> f64 {
    1.0 + (number(id, 'b') / 256.0).log2().abs() + number(id, 'k') / 1000.0
}

#[test]
fn the_fastest_is_found_and_kept_with_all_that_was_learnt() {
    let fake = Fake::new(by_block);
    let (found, notes) = run(&fake, &[LOSS]);
    let best = found[0].tuned.as_ref().unwrap();
    assert!(best.id.starts_with("cross_entropy-b256-"), "{}", best.id);
    assert_eq!((best.kernel.as_str(), best.tokens, best.driver.as_str()), ("cross_entropy", 4096, "1.2.3"));
    assert_eq!((best.problem.as_str(), best.digest.clone()), ("v50280 bf16", digest(&best.id).unwrap()));
    assert!((best.ms - by_block(&best.id)).abs() < 1e-3 && best.spread_ms > 0.0);
    let second = best.runner_up.as_ref().unwrap();
    assert!(second.ms >= best.ms && second.id != best.id);
    assert!((found[0].hand_picked.unwrap().median_ms - by_block(LOSS)).abs() < 1e-3, "hand-picked is always timed");
    assert!((found[0].prediction.as_ref().unwrap().ms - 2.0 * by_block(&best.id)).abs() < 1e-9);
    assert_eq!(notes, ["compiling", "verifying", "timing"]);
}

#[test]
fn what_does_not_compile_or_verify_is_dropped_with_its_reason_and_never_timed() {
    fn compile(id: &str) -> Result<(), String> {
        if id.contains("-b512-") { Err("error: no such thing".to_owned()) } else { Ok(()) }
    }
    fn verify(id: &str) -> Result<(), String> {
        if id.contains("-b256-") { Err("isolation failed".to_owned()) } else { Ok(()) }
    }
    let fake = Fake { compile, verify, ..Fake::new(by_block) };
    let (found, notes) = run(&fake, &[LOSS]);
    let best = found[0].tuned.as_ref().unwrap();
    assert!(best.id.contains("-b128-"), "the best of those that are left: {}", best.id);
    assert!(fake.launched.lock().unwrap().keys().all(|id| !id.contains("-b512-") && !id.contains("-b256-")));
    for (block, reason) in [("-b512-", "no such thing"), ("-b256-", "isolation failed")] {
        assert!(best.dropped.iter().any(|d| d.id.contains(block) && d.reason.contains(reason)), "{best:?}");
        assert!(notes.iter().any(|line| line.contains(block) && line.contains(reason)), "{notes:?}");
    }
}

#[test]
fn a_winner_that_is_not_confirmed_makes_room_for_the_next() {
    fn confirm(id: &str) -> Result<(), String> {
        if id.contains("-b256-") { Err("wrong at this size".to_owned()) } else { Ok(()) }
    }
    let fake = Fake { confirm, ..Fake::new(by_block) };
    let (found, _) = run(&fake, &[LOSS]);
    let best = found[0].tuned.as_ref().unwrap();
    assert!(!best.id.contains("-b256-"), "{}", best.id);
    assert!(best.dropped.iter().any(|d| d.reason == "wrong at this size"), "{best:?}");
}

#[test]
fn none_left_is_an_error_with_every_reason() {
    fn verify(id: &str) -> Result<(), String> {
        Err(format!("agreement failed for {}", id.len()))
    }
    let fake = Fake { verify, ..Fake::new(any) };
    let notes = Notes::default();
    let found = tune(&fake, vec![team(&[LOSS]), team(&scans()[..1])], 4000, 1e6, &notes).unwrap();
    for Found { tuned, .. } in &found {
        let Err(error @ Error::NoneLeft { dropped, .. }) = tuned else { panic!("{tuned:?}") };
        assert!(error.to_string().contains("no candidate is left"), "{error}");
        assert!(dropped.len() > 1 && dropped.iter().all(|d| error.to_string().contains(&d.id)), "{error}");
    }
    assert!(fake.launched.lock().unwrap().is_empty());
}

#[test]
fn without_time_the_hand_picked_variants_are_still_verified_and_timed() {
    let fake = Fake::new(any);
    let found = tune(&fake, vec![team(&[LOSS]), team(&scans())], 4000, 0.0, &Notes::default()).unwrap();
    let chosen: Vec<&str> = found.iter().map(|f| f.tuned.as_ref().unwrap().id.as_str()).collect();
    let [forward, backward] = &scans();
    assert_eq!(chosen, [LOSS, forward, backward]);
    let launched = fake.launched.lock().unwrap();
    assert_eq!(launched.keys().map(String::as_str).collect::<Vec<_>>(), [LOSS, backward, forward]);
}

#[test]
fn what_is_favoured_is_timed_though_its_prediction_is_bad() {
    /// The favoured one is predicted to be the slowest of all.
    fn all_but_one(id: &str) -> f64 {
        if id == FAVOURED { 100.0 } else { passes(id) }
    }
    let fake = Fake::new(all_but_one);
    let mut scans = team(&scans());
    assert!(scans[1].candidates.iter().any(|candidate| candidate.id == FAVOURED), "it is a candidate");
    let was_timed = |team| {
        fake.launched.lock().unwrap().clear();
        tune(&fake, vec![team], 4000, 1e6, &Notes::default()).unwrap();
        fake.launched.lock().unwrap().contains_key(FAVOURED)
    };
    assert!(!was_timed(scans.clone()));
    scans[1].favour(&[FAVOURED]);
    assert!(was_timed(scans));
}

#[test]
fn without_predictions_the_nearest_are_timed() {
    let fake = Fake { predicts: false, ..Fake::new(by_block) };
    let (found, _) = run(&fake, &[LOSS]);
    assert!(found[0].tuned.is_ok() && found[0].prediction.is_none());
    assert_eq!(found[0].counts.1, fake.launched.lock().unwrap().len());
}

#[test]
fn a_variant_that_takes_the_machine_with_it_is_named() {
    let fake = Fake { deadly: |id| id.contains("-b256-"), ..Fake::new(by_block) };
    let error = tune(&fake, vec![team(&[LOSS])], 4000, 1e6, &Notes::default()).unwrap_err();
    let Error::Lost { ids } = &error else { panic!("{error}") };
    assert!(!ids.is_empty() && ids.iter().all(|id| id.contains("-b256-")), "{ids:?}");
    assert!(error.to_string().contains("--without"), "{error}");
    assert!(fake.launched.lock().unwrap().is_empty());
}

#[test]
fn no_room_is_an_error() {
    let fake = Fake { room: false, ..Fake::new(by_block) };
    let found = tune(&fake, vec![team(&[LOSS])], 4000, 1e6, &Notes::default());
    assert!(found.unwrap_err().to_string().contains("no room"));
}

fn any(id: &str) -> f64 {
    if id.starts_with("cross_entropy") { by_block(id) } else { passes(id) }
}

/// Of the states that forward saves, or that backward looks for.
fn distance(id: &str) -> f64 {
    number(id, if id.starts_with("selective_scan_fwd") { 'k' } else { 'l' })
}

/// Forward likes long distances, backward short ones; together 16 is the best.
fn passes(id: &str) -> f64 {
    let distance = distance(id);
    let other = (number(id, 'c') / 64.0).log2().abs() * 0.1 + (number(id, 's') / 4.0).log2().abs() * 0.1;
    let of_pass = match id.starts_with("selective_scan_fwd") {
        true => 3.0 - distance / 32.0,
        false => 7.0 + ((distance - 8.0) / 8.0).powi(2) * 0.2,
    };
    of_pass + other + 0.01 * number(id, 'v')
}

#[test]
fn the_passes_of_the_scan_get_the_same_distance() {
    let fake = Fake::new(passes);
    let (found, notes) = run(&fake, &scans());
    let distances: Vec<f64> = found.iter().map(|f| distance(&f.tuned.as_ref().unwrap().id)).collect();
    assert_eq!(distances, [16.0, 16.0]);
    assert!(notes.iter().all(|line| !line.contains("checkpoints")), "time alone decided: {notes:?}");
}

/// The same, but distance 8 is a little faster than 16, and much faster than 32.
fn short(id: &str) -> f64 {
    let distance = distance(id);
    let of_pass = match id.starts_with("selective_scan_fwd") {
        true => 2.0,
        false => 7.0 + 0.1 * (distance / 8.0 - 1.0).powi(2),
    };
    of_pass + (number(id, 'c') / 64.0).log2().abs() * 0.1
}

#[test]
fn a_short_distance_must_be_worth_its_memory() {
    let (found, notes) = run(&Fake::new(short), &scans());
    let distances: Vec<f64> = found.iter().map(|f| distance(&f.tuned.as_ref().unwrap().id)).collect();
    assert_eq!(distances, [16.0, 16.0], "1.1 % slower");
    let said = notes.iter().find(|line| line.contains("checkpoints 16 tokens apart")).expect("it is said");
    assert!(said.contains("instead of 8") && said.contains("1.1 % faster") && said.contains("2.0 times"), "{said}");
}
