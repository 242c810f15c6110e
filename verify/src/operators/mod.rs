//! The operators, each with what the suite must know of it, in a file of its name.

use packscan_runtime::{Dtype, Edit, Error, Result};

use crate::{Job, Plan};

mod selective_scan;

pub use selective_scan::{SelectiveScan, option_jobs};

/// The names of the operators, as the command line takes them.
pub const NAMES: [&str; 1] = ["selective-scan"];

/// The state sizes that are verified unless others are named.
pub const STATES: [u32; 9] = [1, 3, 8, 16, 24, 64, 128, 256, 1024];

/// The types that are verified unless others are named.
pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Every suite that a plan asks for.
///
/// # Errors
/// [`Error::Unknown`] for an operator that there is not.
pub fn jobs(operator: &str, plan: &Plan) -> Result<Vec<Box<dyn Job>>> {
    match operator {
        "all" | "selective-scan" => Ok(selective_scan::jobs(plan)),
        _ => Err(unknown("operator", operator, &[&["all"], &NAMES[..]].concat())),
    }
}

/// The suite of the one variant with this id.
///
/// # Errors
/// [`Error::Id`] or [`Error::Variant`] for an id that names none.
pub fn job(id: &str) -> Result<Box<dyn Job>> {
    selective_scan::job(id)
}

/// The fault with this name.
///
/// # Errors
/// [`Error::Unknown`] for one that there is not.
pub fn fault(name: &str) -> Result<Edit> {
    let faults = packscan_kernels::selective_scan::faults();
    let names: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
    let known = unknown("fault", name, &names);
    faults.into_iter().find(|fault| fault.name == name).ok_or(known)
}

fn unknown(what: &'static str, got: &str, known: &[&str]) -> Error {
    Error::Unknown { what, got: got.to_owned(), known: known.join(", ") }
}
