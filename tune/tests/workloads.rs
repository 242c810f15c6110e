//! Every workload runs, agrees with the book on a slice, and says what it needs at least. On the CPU, at small sizes: what is checked
//! is that each hands its operator and the book the same numbers.

use packscan_runtime::{Device, Dtype};
use packscan_tune::workload::{Bench, Problem, timing};
use packscan_verify::operators::PASSES;

/// Two sequences and an empty one, sizes that no tile divides.
fn problem(io: Dtype) -> Problem {
    Problem {
        vocabulary: 120,
        logits_rows: 9,
        parameters: 70_000,
        decays: 100,
        ..Problem::of_channels(vec![40, 0, 33], 24, 16, io)
    }
}

#[test]
fn every_pass_agrees_with_the_book_on_a_slice_also_after_it_ran() {
    for io in [Dtype::F32, Dtype::Bf16] {
        let bench = Bench::new(&Device::Cpu, problem(io)).unwrap();
        for pass in &PASSES {
            let id = bench.problem().hand_picked(pass.kernel).unwrap();
            let mut workload = bench.workload(&id).unwrap_or_else(|error| panic!("{id}: {error}"));
            assert_eq!(workload.id(), id);
            let before = workload.check().unwrap();
            timing::times(bench.device(), 3, || workload.run()).unwrap();
            // What is updated in place is written anew, so nothing is left of those runs.
            assert_eq!(workload.check().unwrap(), before, "{id}");
            assert!(workload.floor().bytes > 0.0, "{id}");
        }
    }
}
