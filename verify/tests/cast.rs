//! The suites of casts, on the emulator, on the CPU and on a GPU where there is one; and the faults that they must catch.

#[macro_use]
mod common;

use packscan_kernels::cast::{default_variant, faults, forward};
use packscan_runtime::{Buffer, Device, Dtype, Packed};
use packscan_verify::operators::DTYPES;

every_property_holds!("cast", common::plan);

#[test]
fn every_fault_is_caught() {
    common::assert_each_is_caught("cast", faults());
}

/// Ties, the edges of the ranges, subnormal numbers, infinities and NaN, to the last bit as the `half` crate rounds them.
#[test]
fn every_kind_of_number_is_rounded_to_nearest_even() {
    let ties = (0..64).map(|i| 1.0 + (2 * i + 1) as f32 / 512.0);
    let halves = (0..64).map(|i| 1.0 + (2 * i + 1) as f32 / 4096.0);
    let edges = [
        0.0,
        -0.0,
        65504.0,
        65519.99,
        65520.0,
        3.4e38,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        1e-40,
        6e-8,
        2.9e-8,
        3e-8,
        1e-39,
    ];
    let numbers: Vec<f32> = ties.chain(halves).chain(edges).flat_map(|x| [x, -x]).collect();
    let cols = numbers.len();
    for device in [Device::Cpu, Device::emulator(0)] {
        let packed = Packed::from_lengths(&[1]).and_then(|packed| packed.on(&device)).expect("it is a pack");
        let x = Buffer::from_slice(&device, &numbers).expect("there is room");
        for to in DTYPES {
            let out = Buffer::unwritten(&device, to, cols).expect("there is room");
            let variant = default_variant(cols, Dtype::F32, to);
            let (x, copy) = (x.rows(1).expect("one row"), out.rows(1).expect("one row"));
            forward(&packed, &variant, x, copy).expect("the call is right");
            let want = Buffer::from_f32(&Device::Cpu, to, &numbers).and_then(|b| b.to_f32()).expect("converted");
            for ((x, got), want) in numbers.iter().zip(out.to_f32().expect("it can be read")).zip(want) {
                assert!(
                    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                    "{x:e} to {to} on {device}: {got:e}, not {want:e}"
                );
            }
        }
    }
}
