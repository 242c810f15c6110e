//! The operators, each with what the suite must know of it, in a file of its name.

use std::str::FromStr;

use packscan_runtime::kernel::Variant;
use packscan_runtime::nvrtc::Arch;
use packscan_runtime::{Dtype, Edit, Error, Result, kernel};

use crate::suite::Suite;
use crate::{Job, Operator, Plan};

mod adamw;
mod arguments;
mod cast;
mod causal_conv1d;
mod cross_entropy;
mod embedding;
mod grad_norm;
mod neg_exp;
mod rms_norm;
mod selective_scan;
mod sum_rows;

pub use selective_scan::{SelectiveScan, agreement_in_segments, option_jobs};

/// One pass of an operator, as the suites see it.
#[derive(Debug)]
pub struct Pass {
    /// The operator, as the command line takes it.
    pub operator: &'static str,
    /// Its name among the operator's passes, as the command line takes it.
    pub name: &'static str,
    /// The kernel: the first part of its variants' ids.
    pub kernel: &'static str,
    /// The id of the hand-picked variant for a model.
    pick: fn(&Model) -> Result<String>,
    /// The suites that a plan asks for.
    jobs: fn(&Plan) -> Vec<Box<dyn Job>>,
    /// The suite of the variant with this id.
    job: fn(&str) -> Result<Box<dyn Job>>,
    /// The faults that the suites must notice.
    faults: fn() -> Vec<Edit>,
}

/// What a variant is picked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Channels, D, or whatever the operator's rows are as long as: M, or V.
    pub width: usize,
    /// State size, N.
    pub state: u32,
    /// Type of the activations.
    pub io: Dtype,
}

impl Pass {
    /// The id of the hand-picked variant for a model.
    ///
    /// # Errors
    /// [`Error::Variant`] for sizes that no variant has.
    pub fn pick(&self, model: &Model) -> Result<String> {
        (self.pick)(model)
    }
}

/// The id of a variant. An id states no number that is out of its range, so that is told before there is one.
fn checked<V: Variant>(variant: &V) -> Result<String> {
    kernel::check(variant, Arch::default())?;
    Ok(variant.to_string())
}

/// The suite of the variant of an operator with this id.
fn suite_of<O: Operator>(id: &str) -> Result<Box<dyn Job>>
where
    O::Variant: FromStr<Err = Error>,
{
    let variant: O::Variant = id.parse()?;
    kernel::check(&variant, Arch::default())?;
    Ok(Box::new(Suite::<O>::new(variant)))
}

/// Every pass of every operator.
pub static PASSES: [Pass; 20] = [
    selective_scan::FORWARD,
    selective_scan::BACKWARD,
    selective_scan::STATE,
    selective_scan::JOIN,
    causal_conv1d::FORWARD,
    causal_conv1d::BACKWARD,
    rms_norm::FORWARD,
    rms_norm::BACKWARD,
    embedding::FORWARD,
    embedding::BACKWARD,
    sum_rows::FORWARD,
    sum_rows::TOKENS,
    sum_rows::SEVERAL,
    cross_entropy::FORWARD,
    grad_norm::FORWARD,
    grad_norm::CLIP,
    neg_exp::FORWARD,
    neg_exp::BACKWARD,
    adamw::FORWARD,
    cast::FORWARD,
];

/// The pass of an operator with this name.
///
/// # Errors
/// [`Error::Unknown`] for an operator or a pass that there is not.
pub fn pass(operator: &str, name: &str) -> Result<&'static Pass> {
    let passes: Vec<&Pass> = PASSES.iter().filter(|pass| pass.operator == operator).collect();
    if passes.is_empty() {
        return Err(unknown("operator", operator, &names()));
    }
    let known: Vec<&str> = passes.iter().map(|pass| pass.name).collect();
    passes.into_iter().find(|pass| pass.name == name).ok_or_else(|| unknown("pass", name, &known))
}

/// The names of the operators.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = PASSES.iter().map(|pass| pass.operator).collect();
    names.dedup();
    names
}

/// The state sizes that are verified unless others are named; 33 and 127 leave lanes with padding.
pub const STATES: [u32; 11] = [1, 3, 8, 16, 24, 33, 64, 127, 128, 256, 1024];

/// The types that are verified unless others are named.
pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Every suite that a plan asks for: of one operator or of `all`.
///
/// # Errors
/// [`Error::Unknown`] for an operator that there is not.
pub fn jobs(operator: &str, plan: &Plan) -> Result<Vec<Box<dyn Job>>> {
    if operator != "all" && !names().contains(&operator) {
        return Err(unknown("operator", operator, &[&["all"], names().as_slice()].concat()));
    }
    let asked = PASSES.iter().filter(|pass| operator == "all" || pass.operator == operator);
    let jobs = asked.flat_map(|pass| (pass.jobs)(plan));
    Ok(jobs.filter(|job| plan.fault.is_none_or(|kernel| job.id().split('-').next() == Some(kernel))).collect())
}

/// The suite of the one variant with this id.
///
/// # Errors
/// [`Error::Id`] or [`Error::Variant`] for an id that names none.
pub fn job(id: &str) -> Result<Box<dyn Job>> {
    let kernel = id.split('-').next().unwrap_or_default();
    match PASSES.iter().find(|pass| pass.kernel == kernel) {
        Some(pass) => (pass.job)(id),
        None => {
            let known: Vec<&str> = PASSES.iter().map(|pass| pass.kernel).collect();
            Err(Error::Id { id: id.to_owned(), expected: format!("it must start with {}", known.join(" or ")) })
        }
    }
}

/// Every fault.
pub fn faults() -> Vec<Edit> {
    PASSES.iter().flat_map(|pass| (pass.faults)()).collect()
}

/// The fault with this name.
///
/// # Errors
/// [`Error::Unknown`] for one that there is not.
pub fn fault(name: &str) -> Result<Edit> {
    let names: Vec<&str> = faults().iter().map(|fault| fault.name).collect();
    faults().into_iter().find(|fault| fault.name == name).ok_or_else(|| unknown("fault", name, &names))
}

fn unknown(what: &'static str, got: &str, known: &[&str]) -> Error {
    Error::Unknown { what, got: got.to_owned(), known: known.join(", ") }
}
