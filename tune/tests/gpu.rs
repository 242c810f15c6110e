//! On a GPU: workloads agree with the book at sizes of a model and have times that make sense, a trace tells what was launched, and the tuner
//! finds something that is at least as fast as what was picked by hand.

use std::sync::Mutex;

use packscan_runtime::{Device, Dtype, GemmContext};
use packscan_tune::known::teams;
use packscan_tune::report::Row;
use packscan_tune::tune::{Found, Watch, tune};
use packscan_tune::workload::{Bench, Machine, Problem, Product, natural_lengths, passes};
use packscan_tune::{FoundProduct, Tuning, products};

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
    for pass in passes() {
        let id = bench.problem().hand_picked(pass.kernel).unwrap();
        let row = Row::measure(&bench, &id, None, 5, &machine).unwrap_or_else(|error| panic!("{id}: {error}"));
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

/// Prints what is told.
#[derive(Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Watch for Told {
    fn begin(&self, doing: &'static str, steps: usize) {
        println!("{doing} {steps}");
        self.0.lock().unwrap().push(doing);
    }
    fn step(&self, _: &str) {}
    fn note(&self, line: &str) {
        println!("{line}");
    }
}

#[test]
fn products_are_tuned_to_algorithms_that_run_for_every_number_of_tokens_near() {
    let Some(device) = gpu() else { return };
    let problem = Problem::of_channels(natural_lengths(4096, 0), 1536, 16, Dtype::Bf16);
    let kinds = Product::kinds(&problem);
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let found = products(&device, &problem, &names, 60.0, &Told::default()).unwrap();
    assert_eq!(found.iter().map(|found| found.name).collect::<Vec<_>>(), names);
    let bench = Bench::new(&device, problem).unwrap();
    let context = GemmContext::new(&device).unwrap();
    let ids = found.iter().map(|found| (found.tuned.problem.as_str(), found.tuned.id.as_str()));
    context.choose(ids);
    for FoundProduct { name, tuned, own_ms, timed } in &found {
        let own_ms = own_ms.expect("cuBLASLt's own choice multiplies right");
        println!("{name} {:.4} ms instead of {own_ms:.4}: {}", tuned.ms, tuned.id);
        assert!(tuned.is_fresh() && tuned.ms > 0.0 && tuned.ms <= own_ms && *timed > 1, "{tuned:?}");
        assert!(tuned.dropped.iter().all(|dropped| !dropped.reason.contains("beyond")), "{:?}", tuned.dropped);
        let product = Product::new(&bench, name).unwrap();
        let [most, less] = product.sizes();
        for t in [most, less, most - 1, most / 2 + 1, 1] {
            assert_eq!(product.check(&context, t).unwrap(), None, "{name} of {t} by {}", tuned.id);
        }
        for t in [most, less] {
            let runs = context.algorithm(&product.gemm(t).unwrap()).unwrap();
            assert_eq!(runs.as_ref(), Some(&tuned.id), "{name} of {t}");
        }
    }
}

#[test]
fn what_is_tuned_is_no_slower_than_what_was_picked_by_hand() {
    let Some(device) = gpu() else { return };
    let problem = Problem::of_channels(natural_lengths(4096, 0), 1536, 16, Dtype::Bf16);
    let kernels = ["selective_scan_fwd", "selective_scan_bwd", "causal_conv1d_fwd", "cross_entropy"];
    let picked = kernels.map(|kernel| (kernel, problem.hand_picked(kernel).unwrap()));
    let picked = picked.iter().map(|(name, id)| (*name, id.as_str()));
    let teams = teams(picked, &problem, device.arch().unwrap()).unwrap();
    let (tuning, told) = (Tuning::new(&device, &problem).unwrap(), Told::default());
    let began = std::time::Instant::now();
    let found = tune(&tuning, teams, problem.tokens(), 30.0, &told).unwrap();
    println!("{:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(*told.0.lock().unwrap(), ["compiling", "verifying", "timing"]);
    for Found { slot, tuned, floor, hand_picked, counts, .. } in &found {
        let (best, picked) = (tuned.as_ref().unwrap(), hand_picked.expect("it is timed"));
        println!("{} {best:?}, picked {picked:?}, floor {floor:?}, {counts:?}", slot.name);
        // The scan's passes are chosen together, so one alone may lose.
        if !slot.kernel.starts_with("selective_scan") {
            assert!(best.ms <= picked.median_ms, "{best:?} {picked:?}");
        }
        assert!(best.is_fresh() && floor.is_some() && counts.1 > 1, "{best:?}");
    }
    let sum = |ms: fn(&Found) -> f64| found[..2].iter().map(ms).sum::<f64>();
    let both = sum(|f| f.tuned.as_ref().unwrap().ms);
    let by_hand = sum(|f| f.hand_picked.unwrap().median_ms);
    assert!(both <= 1.03 * by_hand, "both passes take {both} ms, and {by_hand} as picked by hand");
}
