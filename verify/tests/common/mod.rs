//! What the tests of every operator do: its suites on each device, and the search for a fault in its kernels.
#![allow(dead_code, reason = "each operator's tests use a part")]

use packscan_runtime::{Device, Dtype, Edit};
use packscan_verify::operators::{self, DTYPES};
use packscan_verify::{Job, Level, Plan};

/// Every type, the longest cases.
pub fn plan(device: Device) -> Plan {
    Plan { states: vec![1], dtypes: DTYPES.to_vec(), device, cases: 8, seed: 1, level: Level::Full, fault: None }
}

/// The suites of an operator that a plan asks for.
pub fn jobs(operator: &str, plan: &Plan) -> Vec<Box<dyn Job>> {
    operators::jobs(operator, plan).expect("the operator exists")
}

/// Runs every one of these suites: none may fail, and each must have run its cases.
pub fn assert_held(plan: &Plan, jobs: &[Box<dyn Job>]) {
    for outcome in jobs.iter().map(|job| job.run(plan, &|| ())) {
        println!("{}: {} cases in {:?}, {:.2} of the bound", outcome.id, outcome.cases, outcome.time, outcome.worst);
        if let Some((case, failure)) = outcome.failure {
            panic!("{} on {}, case {case}: {failure}", outcome.id, plan.device);
        }
        assert_eq!(outcome.error, None, "{}", outcome.id);
        assert!(outcome.worst <= 1.0 && outcome.cases >= plan.cases as usize, "{outcome:?}");
    }
}

/// The suites of the kernel that a fault is in, with the fault, as `packscan verify --quick --fault NAME` runs them.
pub fn sabotaged(operator: &str, fault: Edit, states: &[u32], dtypes: &[Dtype]) -> (Plan, Vec<Box<dyn Job>>) {
    let kernel = Some(fault.kernel);
    let device = Device::emulator(0).sabotaged(fault).expect("the emulator compiles");
    let (states, dtypes) = (states.to_vec(), dtypes.to_vec());
    let plan = Plan { states, dtypes, cases: 3, level: Level::Quick, fault: kernel, ..plan(device) };
    let jobs = jobs(operator, &plan);
    (plan, jobs)
}

/// Whether the suite of one variant notices the fault of its plan.
pub fn catches(plan: &Plan, job: &dyn Job, fault: &str) -> bool {
    let outcome = job.run(plan, &|| ());
    assert_eq!(outcome.error, None, "{fault} in {}", outcome.id);
    if let Some((case, failure)) = &outcome.failure {
        println!("{fault} in {}: caught with {case} by {failure}", outcome.id);
    }
    outcome.failure.is_some()
}

/// Each fault must be noticed in a variant. One in what only some variants do exists in those alone.
pub fn assert_each_is_caught(operator: &str, faults: Vec<Edit>) {
    for fault in faults {
        let name = fault.name;
        let (plan, jobs) = sabotaged(operator, fault, &[1], &DTYPES[..2]);
        assert!(jobs.iter().any(|job| catches(&plan, &**job, name)), "{name} escaped");
    }
}

/// A test for each device: the suites that a plan for it asks for.
#[macro_export]
macro_rules! every_property_holds {
    ($operator:literal, $plan:expr) => {
        fn assert_all_held(device: packscan_runtime::Device) {
            let plan = $plan(device);
            $crate::common::assert_held(&plan, &$crate::common::jobs($operator, &plan));
        }

        #[test]
        fn every_property_holds_on_the_emulator() {
            assert_all_held(packscan_runtime::Device::emulator(0));
        }

        #[test]
        fn every_property_holds_on_the_cpu() {
            assert_all_held(packscan_runtime::Device::Cpu);
        }

        #[test]
        fn every_property_holds_on_the_gpu() {
            match packscan_runtime::Device::cuda(0) {
                Ok(device) => assert_all_held(device),
                Err(error) => println!("skipped: {error}"),
            }
        }
    };
}
