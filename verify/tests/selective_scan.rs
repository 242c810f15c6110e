//! The suite of the selective scan, on the emulator, on the CPU and on a GPU where there is one; and the faults that it must catch.

mod common;

use packscan_runtime::{Device, Dtype};
use packscan_verify::operators::{self, DTYPES, STATES, option_jobs};
use packscan_verify::{Level, Plan};

fn plan(device: Device, states: &[u32], dtypes: &[Dtype]) -> Plan {
    Plan { states: states.to_vec(), dtypes: dtypes.to_vec(), cases: 6, ..common::plan(device) }
}

fn assert_all_held(plan: &Plan) {
    common::assert_held(plan, &common::jobs("selective-scan", plan));
}

/// Every state size in both mappings, the types in turn: what depends on the state does not depend on how a number is stored.
#[test]
fn every_state_holds_on_the_emulator() {
    assert_all_held(&Plan { level: Level::Quick, ..plan(Device::emulator(0), &STATES, &DTYPES) });
}

/// Sequences cut along time: both kernels in both directions, and the passes over segments.
#[test]
fn sequences_that_are_cut_hold_on_the_emulator() {
    let plan = plan(Device::emulator(0), &[16, 3], &[Dtype::Bf16, Dtype::F32]);
    for kernel in ["selective_scan_state", "selective_scan_join"] {
        let plan = Plan { level: Level::Quick, fault: Some(kernel), ..plan.clone() };
        assert_all_held(&plan);
    }
}

/// Both passes alone: what a cut scan runs besides has a test of its own.
fn assert_whole_passes_held(plan: &Plan) {
    for kernel in ["selective_scan_fwd", "selective_scan_bwd"] {
        assert_all_held(&Plan { fault: Some(kernel), ..plan.clone() });
    }
}

/// The longest packs, real documents and 5,000 tokens among them, in one state size for each type: a large one takes minutes, and only
/// the chunks see how long a pack is.
#[test]
fn the_longest_packs_hold_on_the_emulator_in_f32() {
    assert_whole_passes_held(&plan(Device::emulator(0), &[24], &[Dtype::F32]));
}

#[test]
fn the_longest_packs_hold_on_the_emulator_in_f16() {
    assert_whole_passes_held(&plan(Device::emulator(0), &[3], &[Dtype::F16]));
}

#[test]
fn the_longest_packs_hold_on_the_emulator_in_bf16() {
    assert_whole_passes_held(&plan(Device::emulator(0), &[33], &[Dtype::Bf16]));
}

#[test]
fn every_property_holds_on_the_cpu() {
    assert_all_held(&plan(Device::Cpu, &STATES, &DTYPES));
}

#[test]
fn every_property_holds_on_the_gpu() {
    match Device::cuda(0) {
        Ok(device) => assert_all_held(&plan(device, &STATES, &DTYPES)),
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn every_combination_of_options_holds() {
    let plan = Plan { cases: 1, level: Level::Quick, ..plan(Device::emulator(0), &[], &[]) };
    common::assert_held(&plan, &option_jobs(3, Dtype::F32));
}

#[test]
fn every_fault_is_caught() {
    assert_caught(&["selective_scan_fwd", "selective_scan_bwd"]);
}

#[test]
fn every_fault_of_a_cut_is_caught() {
    assert_caught(&["selective_scan_state", "selective_scan_join"]);
}

/// Other operators' tests look for the faults of theirs.
fn assert_caught(kernels: &[&str]) {
    for fault in operators::faults().into_iter().filter(|fault| kernels.contains(&fault.kernel)) {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("selective-scan", fault, &[33], &[Dtype::Bf16]);
        // A fault in what an option or several warps do exists only in the variant that has them all; one of a direction in that.
        let whole = ["-softplus-bias-skip-gate-initial-final", "-softplus-bias-ends", "-reverse-ends", "-given-left"];
        let mut wholes = jobs.iter().filter(|job| whole.iter().any(|options| job.id().contains(options)));
        assert!(wholes.any(|job| common::catches(&plan, &**job, name)), "{name} escaped");
    }
}
