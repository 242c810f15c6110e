//! An f32 in two halves: the nearest bf16, which kernels read as it is, and the 16 bits that f32 has more.
//!
//! The rest is the lower half of the float, the rounded half its upper one, plus 1 where the rest is at least half a unit of it. So an
//! exact tie goes away from zero: ties to even could not be undone, for which way one went is not in the rest. Either way the bf16 is off by half
//! a unit at most. The largest floats, from 3.3961776e38 on, have a bf16 of infinity, as in any rounding to nearest, and come back exactly.
//!
//! A NaN is kept as the quiet NaN: carried into the upper half, its lower half could make a zero of what kernels read.

use half::bf16;

const HALF: u32 = 0x8000;

/// The halves of a float.
#[inline(always)]
pub fn split(value: f32) -> (bf16, u16) {
    let bits = if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
    (bf16::from_bits(((bits + HALF) >> 16) as u16), bits as u16)
}

/// The float that was [`split`].
#[inline(always)]
pub fn join(rounded: bf16, rest: u16) -> f32 {
    let upper = rounded.to_bits().wrapping_sub(rest >> 15);
    f32::from_bits(u32::from(upper) << 16 | u32::from(rest))
}

/// The halves of `values: (n)`: `(n)`, and `(n / 2, rounded up)` words of two rests each.
pub fn split_all(values: &[f32]) -> (Vec<bf16>, Vec<u32>) {
    let mut rests = vec![0; values.len().div_ceil(2)];
    let of_each = bytemuck::cast_slice_mut::<u32, u16>(&mut rests);
    let halves = values.iter().zip(of_each).map(|(&value, to)| {
        let (rounded, rest) = split(value);
        *to = rest;
        rounded
    });
    (halves.collect(), rests)
}

/// The floats that were [`split_all`].
pub fn join_all(rounded: &[bf16], rests: &[u32]) -> Vec<f32> {
    rounded.iter().zip(bytemuck::cast_slice::<u32, u16>(rests)).map(|(&rounded, &rest)| join(rounded, rest)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bits that came back, and the bf16.
    fn there_and_back(bits: u32) -> (u32, bf16) {
        let (rounded, rest) = split(f32::from_bits(bits));
        (join(rounded, rest).to_bits(), rounded)
    }

    #[test]
    fn every_lower_half_comes_back_under_upper_halves_of_every_kind() {
        // Zero, subnormals, the least normal, 1 and its neighbours, the largest, infinity; and their negatives.
        let uppers = [0x0000, 0x0001, 0x007f, 0x0080, 0x3f7f, 0x3f80, 0x3f81, 0x7f7e, 0x7f7f, 0x7f80];
        for upper in uppers.into_iter().flat_map(|upper| [upper, upper | 0x8000]) {
            for lower in 0..=0xffff {
                let value = f32::from_bits(upper << 16 | lower);
                if !value.is_nan() {
                    assert_eq!(there_and_back(value.to_bits()).0, value.to_bits(), "{value:e}");
                }
            }
        }
    }

    #[test]
    fn a_nan_stays_one_in_both() {
        for bits in [0x7f80_0001, 0x7fc0_0000, 0x7fff_8000, 0x7fff_ffff, 0xff80_0001, 0xffff_ffff] {
            let (back, rounded) = there_and_back(bits);
            assert!(rounded.is_nan() && f32::from_bits(back).is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn ties_go_away_from_zero_and_the_largest_to_infinity() {
        let rounded = |value: f32| split(value).0.to_f32();
        let unit = 1.0 / 128.0;
        assert_eq!([rounded(1.0 + 0.5 * unit), rounded(1.0 + 1.5 * unit)], [1.0 + unit, 1.0 + 2.0 * unit]);
        assert_eq!(rounded(-1.0 - 0.5 * unit), -1.0 - unit);
        assert_eq!([rounded(f32::MAX), rounded(f32::MIN)], [f32::INFINITY, f32::NEG_INFINITY]);
    }

    proptest! {
        #[test]
        fn every_float_comes_back(bits: u32) {
            let value = f32::from_bits(bits);
            let (back, rounded) = there_and_back(bits);
            prop_assert!(back == bits || value.is_nan());
            // Where it is no tie, it is the usual rounding.
            if bits & 0xffff != HALF && !value.is_nan() {
                prop_assert_eq!(rounded, bf16::from_f32(value));
            }
        }

        #[test]
        fn many_come_back_as_one_does(values in prop::collection::vec(-1e3f32..1e3, 0..9)) {
            let (rounded, rests) = split_all(&values);
            prop_assert_eq!(rests.len(), values.len().div_ceil(2));
            prop_assert_eq!(join_all(&rounded, &rests), values);
        }
    }
}
