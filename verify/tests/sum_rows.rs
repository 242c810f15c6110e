//! The suites of the sums of rows, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::sum_rows::faults;
use packscan_runtime::Dtype;

every_property_holds!("sum-rows", common::plan);

#[test]
fn every_fault_is_caught_in_every_variant() {
    for fault in faults() {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("sum-rows", fault, &[1], &[Dtype::F32]);
        // One thread a column has no ways to lose and no barrier to drop, and what does not add overwrites.
        let mut has_it = jobs.iter().filter(|job| match name {
            "sum-overwrites" => job.id().ends_with("-add"),
            _ => !job.id().contains("-w1-"),
        });
        assert!(has_it.all(|job| common::catches(&plan, &**job, name)), "{name} escaped");
    }
}
