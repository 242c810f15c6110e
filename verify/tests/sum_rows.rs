//! The suites of the sums of rows, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

use packscan_runtime::{Device, Dtype};
use packscan_verify::operators::{self, DTYPES};
use packscan_verify::{Job, Level, Plan};

fn plan(device: Device, dtypes: &[Dtype]) -> Plan {
    Plan { states: vec![1], dtypes: dtypes.to_vec(), device, cases: 8, seed: 1, level: Level::Full, fault: None }
}

fn jobs(plan: &Plan) -> Vec<Box<dyn Job>> {
    operators::jobs("sum-rows", plan).expect("the operator exists")
}

fn assert_all_held(plan: &Plan) {
    for outcome in jobs(plan).iter().map(|job| job.run(plan, &|| ())) {
        if let Some((case, failure)) = outcome.failure {
            panic!("{} on {}, case {case}: {failure}", outcome.id, plan.device);
        }
        assert_eq!(outcome.error, None, "{}", outcome.id);
        assert!(outcome.worst <= 1.0 && outcome.cases >= plan.cases as usize, "{outcome:?}");
    }
}

#[test]
fn every_property_holds_on_the_emulator() {
    assert_all_held(&plan(Device::emulator(0), &DTYPES));
}

#[test]
fn every_property_holds_on_the_cpu() {
    assert_all_held(&plan(Device::Cpu, &DTYPES));
}

#[test]
fn every_property_holds_on_the_gpu() {
    match Device::cuda(0) {
        Ok(device) => assert_all_held(&plan(device, &DTYPES)),
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn every_fault_is_caught() {
    for fault in packscan_kernels::sum_rows::faults() {
        let (name, kernel) = (fault.name, fault.kernel);
        let device = Device::emulator(0).sabotaged(fault).expect("the emulator compiles");
        let plan = Plan { cases: 3, level: Level::Quick, fault: Some(kernel), ..plan(device, &[Dtype::F32]) };
        // One thread a column has no ways to lose and no barrier to drop.
        for job in jobs(&plan).iter().filter(|job| !job.id().contains("-w1-") || name == "sum-overwrites") {
            let outcome = job.run(&plan, &|| ());
            assert_eq!(outcome.error, None, "{name} in {}", outcome.id);
            let (case, failure) = outcome.failure.unwrap_or_else(|| panic!("{name} escaped in {}", outcome.id));
            println!("{name} in {}: caught with {case} by {failure}", outcome.id);
        }
    }
}
