//! `packscan doctor`

use packscan::runtime::doctor::Report;

use crate::error::Result;
use crate::{Verdict, output};

/// Prints what is there; bad where not even the emulator can run.
pub fn run() -> Result<Verdict> {
    let report = Report::gather()?;
    output::results(format!("{}\n", report.to_string().trim_end()))?;
    Ok(if report.emulator_can_run() { Verdict::Good } else { Verdict::Bad })
}
