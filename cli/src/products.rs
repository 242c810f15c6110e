//! By which of cuBLASLt's algorithms a model's products are multiplied: tuned on this GPU, tuned for packscan's release, or cuBLASLt's own
//! choice.

use packscan::Device;
use packscan::runtime::GemmContext;
use packscan_train::variants::Ids;
use packscan_tune::known::{Choice, Origin};
use packscan_tune::workload::Product;
use packscan_tune::{FoundProduct, prefix};

use crate::error::Result;
use crate::variants::{Launches, Missing, Progress, keep, known};

/// Seconds that tuning products may take.
const PRODUCTS_S: f64 = 10.0;

impl Launches {
    /// The algorithms of products on a device, ids by their kinds, and lines that say which and why. Whatever ends the tuning, training can go
    /// on.
    pub fn choose_products(&self, device: &Device, missing: Missing) -> Result<(Ids, Vec<String>)> {
        let Device::Cuda(cuda) = device else { return Ok((Ids::new(), Vec::new())) };
        // What is to be said of the file, the launches of kernels say.
        let (known, _) = known(cuda)?;
        let prefix = prefix(&GemmContext::new(device)?);
        let (mut ids, mut lines, mut choices, mut unknown) = (Ids::new(), Vec::new(), Vec::new(), Vec::new());
        let kinds = Product::kinds(&self.problem);
        for (name, kind) in &kinds {
            let answer = known.product(name, kind, self.problem.tokens(), &prefix);
            lines.extend(answer.passed_over);
            match answer.choices {
                Some(found) => choices.extend(found.into_iter().map(|choice| (kind.clone(), choice))),
                None => unknown.push(*name),
            }
        }
        // The same is said once, though all ask.
        lines.sort();
        lines.dedup();
        if missing == Missing::Tune && !unknown.is_empty() {
            match self.tune_products(device, &unknown) {
                Ok(found) => choices.extend(found.into_iter().map(|FoundProduct { name, tuned, .. }| {
                    let choice = Choice { slot: name.to_owned(), id: tuned.id, ms: tuned.ms, origin: Origin::Here };
                    (tuned.problem, choice)
                })),
                Err(error) => lines.push(format!("no product was tuned: {error}")),
            }
        }
        // cuBLASLt's own choice needs no line.
        let others = choices.iter().filter(|(_, choice)| !is_first(&choice.id));
        lines.extend(others.clone().map(|(_, choice)| choice.to_string()));
        lines.push(format!("products: cuBLASLt chooses for {} of {}", kinds.len() - others.count(), kinds.len()));
        ids.extend(choices.into_iter().map(|(kind, choice)| (kind, choice.id)));
        Ok((ids, lines))
    }

    /// Tunes products, under a bar, and keeps what was found in the GPU's tuning file; a file that cannot be written is told.
    pub fn tune_products(&self, device: &Device, names: &[&str]) -> Result<Vec<FoundProduct>> {
        let progress = Progress::new();
        let found = packscan_tune::products(device, &self.problem, names, PRODUCTS_S, &progress);
        progress.finish();
        let found = found?;
        keep(device, found.iter().map(|found| found.tuned.clone()).collect())?;
        Ok(found)
    }
}

/// What is to be said where a run that goes on chose its algorithms with another cuBLASLt.
pub fn of_another(device: &Device, products: &Ids) -> Result<Option<String>> {
    if products.is_empty() {
        return Ok(None);
    }
    let prefix = prefix(&GemmContext::new(device)?);
    let other = products.values().find(|id| !id.starts_with(&prefix));
    Ok(other.filter(|_| !prefix.is_empty()).map(|id| {
        format!("products ran {id}, but the algorithms here are {prefix}: cuBLASLt chooses, and bits may differ from the run so far")
    }))
}

/// Whether an id leaves the choice to cuBLASLt.
fn is_first(id: &str) -> bool {
    id.ends_with("-first")
}

/// A line for each product: its time, what cuBLASLt's own choice takes, and what multiplies it.
pub fn report(found: &[FoundProduct]) -> String {
    let line = |FoundProduct { name, tuned, own_ms, timed }: &FoundProduct| {
        let gain = match own_ms {
            Some(own) => format!("{:.1} % less than cuBLASLt's choice", 100.0 * (1.0 - tuned.ms / own)),
            None => "cuBLASLt's choice failed".to_owned(),
        };
        format!("{name:<14} {:.3} ms, {gain}, {timed} timed: {}\n", tuned.ms, tuned.id)
    };
    found.iter().map(line).collect()
}
