//! The suites of the optimiser, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::adamw::faults;
use packscan_verify::operators::DTYPES;

every_property_holds!("adamw", common::plan);

#[test]
fn every_fault_is_caught() {
    for fault in faults() {
        let name = fault.name;
        // Of every type: halves are of the last one.
        let (plan, jobs) = common::sabotaged("adamw", fault, &[1], &DTYPES);
        assert!(jobs.iter().any(|job| common::catches(&plan, &**job, name)), "{name} escaped");
    }
}
