//! The suites of the residual addition and norm, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::rms_norm::faults;

every_property_holds!("rms-norm", common::plan);

#[test]
fn every_fault_is_caught() {
    common::assert_each_is_caught("rms-norm", faults());
}
