//! The suites of the embedding, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::embedding::faults;
use packscan_runtime::Dtype;

every_property_holds!("embedding", common::plan);

#[test]
fn every_fault_is_caught_in_every_variant() {
    for fault in faults() {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("embedding", fault, &[1], &[Dtype::F32]);
        assert!(jobs.iter().all(|job| common::catches(&plan, &**job, name)), "{name} escaped");
    }
}
