//! The suites of the sums of rows, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::sum_rows::{Several, Sum, default_variant, faults, forward, several};
use packscan_runtime::{Buffer, Device, Dtype, Packed};

every_property_holds!("sum-rows", common::plan);

#[test]
fn every_fault_is_caught_in_every_variant() {
    for fault in faults() {
        let name = fault.name;
        let (plan, jobs) = common::sabotaged("sum-rows", fault, &[1], &[Dtype::F32]);
        // One thread a column has no ways to lose and no barrier to drop, and what does not add overwrites.
        let has_it = jobs.iter().filter(|job| match name {
            "sum-overwrites" | "sums-overwrite" => job.id().ends_with("-add"),
            _ => !job.id().contains("-w1-"),
        });
        let has_it: Vec<_> = has_it.collect();
        assert!(!has_it.is_empty(), "nothing has {name}");
        assert!(has_it.iter().all(|job| common::catches(&plan, &***job, name)), "{name} escaped");
    }
}

/// Sums of one launch are added up in the order in which each alone is, and fewer than six leave the others out.
#[test]
fn several_sums_have_the_bits_of_each_alone() {
    let device = Device::emulator(1);
    let packed = Packed::from_lengths(&[1]).unwrap().on(&device).unwrap();
    let sizes = [(300, 8), (7, 260), (1, 4), (0, 12), (33, 20)];
    let floats = |n: usize| (0..n).map(|i| ((i * 7919 % 1009) as f32).sin() / 3.0).collect::<Vec<_>>();
    let parts: Vec<Buffer> =
        sizes.iter().map(|&(rows, columns)| Buffer::from_slice(&device, &floats(rows * columns)).unwrap()).collect();
    for add in [false, true] {
        let made = |make: &dyn Fn(&[Sum<'_>])| {
            let outs: Vec<Buffer> =
                sizes.iter().map(|&(_, columns)| Buffer::from_slice(&device, &floats(columns)).unwrap()).collect();
            let all: Vec<Sum<'_>> = (0..sizes.len())
                .map(|i| Sum {
                    name: "out",
                    parts: parts[i].view(),
                    rows: sizes[i].0,
                    columns: sizes[i].1,
                    out: outs[i].view(),
                })
                .collect();
            make(&all);
            outs.iter().map(|out| out.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
        };
        let alone = made(&|sums| {
            for sum in sums {
                let variant = default_variant(&sum.sizes(), Dtype::F32, add);
                forward(&packed, &variant, &sum.sizes(), sum.parts, sum.out).unwrap();
            }
        });
        for (block, vec) in [(32, 4), (256, 1)] {
            let together = made(&|sums| {
                several(&packed, &Several { block, vec, add }, sums).unwrap();
            });
            assert_eq!(together, alone, "add {add}, blocks of {block}");
        }
    }
    let variant = Several { block: 32, vec: 4, add: false };
    let wrong = Buffer::from_slice(&device, &[1.0f32; 6]).unwrap();
    let sum = Sum { name: "out", parts: wrong.view(), rows: 1, columns: 6, out: wrong.view() };
    let error = several(&packed, &variant, &[sum]).unwrap_err().to_string();
    assert!(error.contains("6 columns"), "{error}");
    let error = several(&packed, &variant, &[sum; 7]).unwrap_err().to_string();
    assert!(error.contains("6 at most"), "{error}");
    assert!(several(&packed, &variant, &[]).unwrap().counts.is_none());
}
