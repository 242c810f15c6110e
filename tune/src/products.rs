//! The tuner of matrix products: which of cuBLASLt's algorithms multiplies each product of a training step.
//!
//! cuBLASLt says which it thinks best, without having tried. Here the first few of its list verify and race, and another than the first is
//! chosen only if a race of the two alone shows it faster by more than what such races are off by. A choice is kept by name: a run never
//! looks at a clock.

use std::time::{Duration, Instant};

use packscan_runtime::{Cuda, Device, GemmContext};

use crate::file::{Dropped, PRODUCT, RunnerUp, Tuned};
use crate::rounds::{Entrant, Fate, Measured, Timer, of_samples, race};
use crate::tune::Watch;
use crate::workload::{Bench, Problem, Product};
use crate::{Error, Result};

/// The first algorithms of each list that race.
const MOST: usize = 8;
/// What another algorithm than cuBLASLt's own has to gain, as a share.
const GAIN: f64 = 0.02;
/// Rounds of the race of two, and calls of each in a round.
const ROUNDS: usize = 6;
const CALLS: usize = 3;

/// What was found for one product.
#[derive(Debug)]
pub struct FoundProduct {
    /// The product, `in_proj_dw`.
    pub name: &'static str,
    /// What multiplies it.
    pub tuned: Tuned,
    /// Time of cuBLASLt's own choice: of another race, of the two alone, where another was faster. None where it failed.
    pub own_ms: Option<f64>,
    /// How many were timed.
    pub timed: usize,
}

/// Tunes the products of these names within about `seconds`, in their order; what is not reached is left out, and what fails is told and left
/// to cuBLASLt. Nothing on a device without it.
///
/// # Errors
/// Where cuBLASLt cannot be opened.
pub fn products(
    device: &Device,
    problem: &Problem,
    names: &[&str],
    seconds: f64,
    watch: &dyn Watch,
) -> Result<Vec<FoundProduct>> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let context = GemmContext::new(device)?;
    if context.cublaslt_version().is_none() {
        return Ok(Vec::new());
    }
    let bench = Bench::new(device, problem.clone())?;
    watch.begin("timing products", names.len());
    let mut found = Vec::new();
    for name in names {
        if Instant::now() > end {
            break;
        }
        watch.step(name);
        let one = Product::new(&bench, name).and_then(|product| tune(&context, product, problem.tokens(), end, watch));
        match one {
            Ok(one) => found.extend(one),
            Err(error) => watch.note(&format!("{name} was not tuned: {error}")),
        }
    }
    Ok(found)
}

/// Races the algorithms of one product; `None` where not even the first could be timed.
fn tune(
    context: &GemmContext,
    product: Product,
    tokens: usize,
    end: Instant,
    watch: &dyn Watch,
) -> Result<Option<FoundProduct>> {
    let kind = product.gemm(product.sizes()[0])?.kind();
    let mut dropped = Vec::new();
    let mut entrants = Vec::new();
    for id in candidates(context, &product, &kind)? {
        match verify(context, &product, &kind, &id)? {
            None => entrants.push(Entrant { id, part: 0, group: 0 }),
            Some(reason) => {
                watch.note(&format!("dropped {id} for {}: {reason}", product.name));
                dropped.push(Dropped { id, reason });
            }
        }
    }
    let mut calls = Calls { context, product: &product, kind: &kind, entrants: &entrants, end };
    let fates = race(&entrants, &|_| 1.0, &mut calls);
    let times: Vec<Option<Measured>> = fates.iter().map(Fate::times).collect();
    for (Entrant { id, .. }, fate) in std::iter::zip(&entrants, &fates) {
        if let Fate::Dropped(reason) = fate {
            dropped.push(Dropped { id: id.clone(), reason: reason.clone() });
        }
    }
    let timed = || (0..entrants.len()).filter_map(|i| Some((i, times[i]?)));
    let Some(fastest) = timed().min_by(|a, b| a.1.median_ms.total_cmp(&b.1.median_ms)) else { return Ok(None) };
    let own = timed().find(|(i, _)| entrants[*i].id == own_choice(context));
    let (winner, second, own) = match own {
        Some((own, _)) if own != fastest.0 => {
            let [own_times, times] = calls.duel([own, fastest.0]).map_err(|reason| failed(product.name, reason))?;
            let (own, other) = ((own, own_times), (fastest.0, times));
            let wins = other.1.median_ms < (1.0 - GAIN) * own.1.median_ms;
            let (winner, second) = if wins { (other, own) } else { (own, other) };
            (winner, Some(second), Some(own))
        }
        // cuBLASLt's own choice is the fastest, or failed.
        _ => (fastest, None, own),
    };
    let tuned = Tuned {
        kernel: PRODUCT.to_owned(),
        problem: kind.clone(),
        tokens: tokens.next_power_of_two(),
        driver: Cuda::driver(),
        digest: prefix(context),
        id: entrants[winner.0].id.clone(),
        ms: winner.1.median_ms,
        spread_ms: winner.1.spread_ms,
        runner_up: second.map(|(i, times)| RunnerUp { id: entrants[i].id.clone(), ms: times.median_ms }),
        dropped,
    };
    let own_ms = own.map(|(_, times)| times.median_ms);
    Ok(Some(FoundProduct { name: product.name, tuned, own_ms, timed: timed().count() }))
}

/// What the ids of this cuBLASLt's algorithms begin with; nothing where there is none.
pub fn prefix(context: &GemmContext) -> String {
    context.cublaslt_version().map_or(String::new(), |version| format!("lt{version}-"))
}

/// The id of cuBLASLt's own choice.
fn own_choice(context: &GemmContext) -> String {
    format!("{}first", prefix(context))
}

/// cuBLASLt's own choice, and the best of its list at each size of the product.
fn candidates(context: &GemmContext, product: &Product, kind: &str) -> Result<Vec<String>> {
    // `lt130100-t16384-a66-...`: another size's list may name the same.
    let name = |id: &str| id.splitn(3, '-').nth(2).map(str::to_owned);
    let mut ids = vec![own_choice(context)];
    context.choose([(kind, ids[0].as_str())]);
    for t in product.sizes() {
        for id in context.algorithms(&product.gemm(t)?, MOST)? {
            if ids.iter().all(|known| name(known) != name(&id)) {
                ids.push(id);
            }
        }
    }
    Ok(ids)
}

/// Chooses an algorithm, and compares slices of its products of all sizes with sums in f64: what is wrong.
fn verify(context: &GemmContext, product: &Product, kind: &str, id: &str) -> Result<Option<String>> {
    context.choose([(kind, id)]);
    for t in product.sizes() {
        let gemm = product.gemm(t)?;
        if context.algorithm(&gemm)?.as_deref() != Some(id) {
            return Ok(Some(format!("cuBLASLt has it, but not for {gemm}")));
        }
        if let Some(wrong) = product.check(context, t)? {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

fn failed(name: &'static str, reason: String) -> Error {
    Error::Product { name, reason }
}

/// Calls of a product by one algorithm after the other.
struct Calls<'a> {
    context: &'a GemmContext,
    product: &'a Product,
    kind: &'a str,
    entrants: &'a [Entrant],
    end: Instant,
}

impl Timer for Calls<'_> {
    fn launch(&mut self, index: usize, launches: usize) -> Result<Vec<f64>, String> {
        self.context.choose([(self.kind, self.entrants[index].id.as_str())]);
        self.product.samples(self.context, launches).map_err(|error| error.to_string())
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }
}

impl Calls<'_> {
    /// Two in turn: the fastest of many was lucky too.
    fn duel(&mut self, pair: [usize; 2]) -> Result<[Measured; 2], String> {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (index, samples) in std::iter::zip(pair, &mut samples) {
                samples.extend(self.launch(index, CALLS)?);
            }
        }
        Ok(samples.map(|samples| of_samples(&samples)))
    }
}
