//! The suites of the negative exponential, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::neg_exp::faults;

every_property_holds!("neg-exp", common::plan);

#[test]
fn every_fault_is_caught() {
    common::assert_each_is_caught("neg-exp", faults());
}
