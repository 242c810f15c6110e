//! On a GPU: workloads agree with the book at sizes of a model and have times that make sense, and a trace tells what was launched.

use packscan_runtime::{Device, Dtype};
use packscan_tune::report::Row;
use packscan_tune::workload::{Bench, Machine, Problem, natural_lengths};
use packscan_verify::operators::PASSES;

fn gpu() -> Option<Device> {
    Device::cuda(0).map_err(|error| println!("skipped: {error}")).ok()
}

#[test]
fn every_pass_is_timed_at_a_real_size_and_no_faster_than_the_machine_can() {
    let Some(device) = gpu() else { return };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let machine = Machine::of(cuda, &device).unwrap();
    assert!(machine.bytes_s > 1e11 && machine.special_s > 1e11, "{machine:?}");
    let problem = Problem::of_channels(natural_lengths(16_384, 0), 1536, 16, Dtype::Bf16);
    let bench = Bench::new(&device, problem).unwrap();
    for pass in &PASSES {
        let id = bench.problem().hand_picked(pass.kernel).unwrap();
        let row = Row::measure(&bench, &id, 5, &machine).unwrap_or_else(|error| panic!("{id}: {error}"));
        // A kernel that only reads is faster than a copy, which is the measure of bandwidth; by a little.
        assert!(row.share() < 1.3, "{row:?}");
        assert!(row.times.least_ms > 0.0 && row.worst_error <= 1.0, "{row:?}");
    }
}

#[test]
fn a_trace_tells_each_launch_in_order_and_nothing_after_it() {
    let Some(device) = gpu() else { return };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let bench = Bench::new(&device, Problem::of_channels(vec![4096], 512, 16, Dtype::Bf16)).unwrap();
    let id = bench.problem().hand_picked("causal_conv1d_bwd").unwrap();
    let mut workload = bench.workload(&id).unwrap();
    workload.run().unwrap();
    cuda.trace().unwrap();
    workload.run().unwrap();
    workload.run().unwrap();
    let traced = cuda.take_trace().unwrap();
    workload.run().unwrap();
    assert_eq!(cuda.take_trace().unwrap(), []);
    // The variant, and the sums of the gradients of weights and bias, twice.
    let kernels: Vec<&str> = traced.iter().filter_map(|launch| launch.label.split('-').next()).collect();
    assert_eq!(kernels, ["causal_conv1d_bwd", "sum_rows", "sum_rows"].repeat(2));
    assert_eq!(traced[0].label, id);
    for launch in &traced {
        assert!(launch.end_ms > launch.start_ms && launch.start_ms > 0.0 && launch.host_ms > 0.0, "{launch:?}");
    }
    assert!(traced.windows(2).all(|pair| pair[1].start_ms >= pair[0].end_ms), "{traced:?}");
}
