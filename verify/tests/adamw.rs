//! The suites of the optimiser, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::adamw::faults;

every_property_holds!("adamw", common::plan);

#[test]
fn every_fault_is_caught() {
    common::assert_each_is_caught("adamw", faults());
}
