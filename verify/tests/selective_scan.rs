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

/// The longest packs, real documents and 5,000 tokens among them, in one state size for each type: a large one takes minutes, and only
/// the chunks see how long a pack is.
#[test]
fn the_longest_packs_hold_on_the_emulator_in_f32() {
    assert_all_held(&plan(Device::emulator(0), &[24], &[Dtype::F32]));
}

#[test]
fn the_longest_packs_hold_on_the_emulator_in_f16() {
    assert_all_held(&plan(Device::emulator(0), &[3], &[Dtype::F16]));
}

#[test]
fn the_longest_packs_hold_on_the_emulator_in_bf16() {
    assert_all_held(&plan(Device::emulator(0), &[33], &[Dtype::Bf16]));
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
    // Other operators' tests look for the faults of theirs.
    for fault in operators::faults().into_iter().filter(|fault| fault.kernel.starts_with("selective_scan")) {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("selective-scan", fault, &[33], &[Dtype::Bf16]);
        // A fault in what an option or several warps do exists only in the variant that has them all.
        let whole = jobs.iter().find(|job| job.id().contains("-softplus-bias-skip-gate-initial-final"));
        assert!(common::catches(&plan, &**whole.expect("one variant has every option"), name), "{name} escaped");
    }
}
