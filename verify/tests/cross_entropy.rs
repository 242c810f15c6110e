//! The suites of the loss, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::cross_entropy::{Problem, default_variant, faults};
use packscan_runtime::{Device, Dtype};
use packscan_verify::operators;

every_property_holds!("cross-entropy", common::plan);

#[test]
fn every_fault_is_caught() {
    common::assert_each_is_caught("cross-entropy", faults());
}

/// The hand-picked variants of real vocabularies, whole rows in registers and rows that do not fit.
#[test]
fn real_vocabularies_hold_on_the_emulator() {
    for (vocabulary, io) in [(50_280, Dtype::Bf16), (50_277, Dtype::F32), (262_144, Dtype::F16)] {
        let id = default_variant(&Problem { vocabulary, io }).to_string();
        let case = format!("2,0,1/d{vocabulary}/g2/p1/x7").parse().expect("it is a case");
        let outcome = operators::job(&id).expect("it is a variant").replay(&Device::emulator(0), &case);
        assert_eq!((outcome.failure, outcome.error), (None, None), "{id}");
    }
}
