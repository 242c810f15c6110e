//! The suites of the causal convolution, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::causal_conv1d::{backward_faults, forward_faults};
use packscan_runtime::{Dtype, Edit};

every_property_holds!("causal-conv1d", common::plan);

/// Every fault must be caught in the hand-picked variant, which has every option.
fn assert_all_caught(faults: Vec<Edit>) {
    for fault in faults {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("causal-conv1d", fault, &[1], &[Dtype::Bf16]);
        assert!(common::catches(&plan, &*jobs[0], name), "{name} escaped");
    }
}

#[test]
fn every_fault_of_forward_is_caught() {
    assert_all_caught(forward_faults());
}

#[test]
fn every_fault_of_backward_is_caught() {
    assert_all_caught(backward_faults());
}
