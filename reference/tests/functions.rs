//! The functions of each number at the edges of their range.

use packscan_reference::bounded::{LG2_ERROR, LOG1P_RELATIVE, RCP_RELATIVE, ROUNDING, SQRT_RELATIVE, UNDERFLOW};
use packscan_reference::{Bounded, Io, Number};

/// -100 to 100 in eighths, and far beyond.
fn arguments() -> impl Iterator<Item = f64> {
    let dense = (-800..=800).map(|eighths| f64::from(eighths) / 8.0);
    dense.chain([-1e30, -1e5, -744.0, -1e-30, 1e-30, 1e5, 1e30])
}

#[test]
fn softplus_and_silu_meet_their_textbook_forms() {
    for x in arguments().filter(|x| x.abs() <= 100.0) {
        // ln(1 + e^x) loses its digits where e^x is small: there its series takes over.
        let softplus = if x < -17.0 { x.exp() - x.exp().powi(2) / 2.0 } else { (1.0 + x.exp()).ln() };
        let loss = if x < -17.0 { 0.0 } else { 4.0 * f64::EPSILON };
        assert!((x.softplus() - softplus).abs() <= 1e-14 * softplus + loss, "softplus({x})");
        let silu = x * x.exp() / (1.0 + x.exp());
        assert!((x.silu() - silu).abs() <= 1e-14 * silu.abs(), "silu({x})");
        assert!((x.sigmoid() - silu / x).abs() <= 1e-14 * x.sigmoid() || x == 0.0, "sigmoid({x})");
    }
}

#[test]
fn derivatives_are_slopes() {
    for x in arguments().filter(|x| x.abs() <= 20.0) {
        let slope = |f: fn(&f64) -> f64| (f(&(x + 1e-4)) - f(&(x - 1e-4))) / 2e-4;
        assert!((slope(Number::softplus) - x.sigmoid()).abs() <= 1e-8, "softplus at {x}");
        assert!((slope(Number::silu) - x.silu_derivative()).abs() <= 1e-8, "silu at {x}");
    }
}

#[test]
fn bounds_are_numbers_and_no_larger_than_they_need_be() {
    for x in arguments() {
        let x = Bounded::constant(f64::from(x as f32));
        let exp = x.exp();
        assert!(!exp.value.is_nan() && !exp.error.is_nan());
        for result in [x.softplus(), x.silu(), x.sigmoid(), x.silu_derivative()] {
            assert!(result.value.is_finite() && result.error.is_finite(), "{x:?} gives {result:?}");
        }
        // Three roundings of the exponential's argument, and a few of everything else.
        let relative = 2e-6 + 2e-7 * x.value.abs().min(128.0);
        let (softplus, silu, sigmoid) = (x.softplus(), x.silu(), x.sigmoid());
        assert!(softplus.error <= relative * softplus.value + 4.0 * UNDERFLOW, "{softplus:?}");
        assert!(silu.error <= relative * silu.value.abs() + 512.0 * UNDERFLOW, "{silu:?}");
        assert!(sigmoid.error <= relative * sigmoid.value + 4.0 * UNDERFLOW, "{sigmoid:?}");
    }
    assert!(Bounded::constant(-1e8).exp().error <= 2.0 * UNDERFLOW);
    assert_eq!(Bounded::constant(89.0).exp().error, f64::INFINITY);
    let infinite = Bounded { value: 0.0, error: f64::INFINITY };
    for result in [
        infinite.exp(),
        infinite.softplus(),
        infinite.silu(),
        infinite.sigmoid(),
        infinite.mul(&Bounded::constant(0.0)),
    ] {
        assert_eq!(result.error, f64::INFINITY);
    }
}

/// An f32 `exp(x)` as GPUs do it, wrong by `bias` on top of its roundings, subnormal results flushed.
fn exp_f32(x: f32, bias: f64) -> f32 {
    let argument = f64::from(x * std::f32::consts::LOG2_E);
    flush((argument.exp2() * (1.0 + bias)) as f32)
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}

#[test]
fn the_worst_f32_softplus_silu_and_sigmoid_stay_within_their_bounds() {
    let unit = f64::from(f32::EPSILON);
    for x in arguments().map(|x| x as f32) {
        for (exp_bias, bias) in [(0.0, 0.0), (1.5, 1.0), (1.5, -1.0), (-1.5, 1.0), (-1.5, -1.0)] {
            let exp_bias = exp_bias * unit;
            let w = exp_f32(-x.abs(), exp_bias);
            let log1p_bias = bias * (LOG1P_RELATIVE - 2.0 * ROUNDING);
            let softplus = flush(x.max(0.0) + flush((f64::from(w).ln_1p() * (1.0 + log1p_bias)) as f32));
            let bound = Bounded::constant(f64::from(x)).softplus();
            assert!(bound.allows(f64::from(softplus)), "softplus({x}) = {softplus}, {bound:?}");

            let q = 1.0 + exp_f32(-x, exp_bias);
            let rcp_bias = bias * (RCP_RELATIVE - 1.1 * ROUNDING);
            let r = flush((1.0 / f64::from(q) * (1.0 + rcp_bias)) as f32);
            let silu = flush(x * r);
            let bound = Bounded::constant(f64::from(x)).silu();
            assert!(bound.allows(f64::from(silu)), "silu({x}) = {silu}, {bound:?}");
            let bound = Bounded::constant(f64::from(x)).sigmoid();
            assert!(bound.allows(f64::from(r)), "sigmoid({x}) = {r}, {bound:?}");
            let derivative = flush(r * x.mul_add(1.0 - r, 1.0));
            let bound = Bounded::constant(f64::from(x)).silu_derivative();
            assert!(bound.allows(f64::from(derivative)), "silu'({x}) = {derivative}, {bound:?}");
        }
    }
}

#[test]
fn the_worst_f32_quotient_root_and_logarithm_stay_within_their_bounds() {
    for step in -400..400 {
        let x = (f64::from(step) * 0.2).exp() as f32;
        let exact = Bounded::constant(f64::from(x));
        for bias in [-1.0, 0.0, 1.0] {
            let rcp = (1.0 / f64::from(x) * (1.0 + bias * (RCP_RELATIVE - ROUNDING))) as f32;
            for numerator in [0.7f32, -3.1] {
                let bound = Bounded::constant(f64::from(numerator)).div(&exact);
                assert!(bound.allows(f64::from(numerator * rcp)), "{numerator} / {x}, {bound:?}");
                assert!(bound.allows(f64::from(numerator / x)), "{numerator} / {x}, {bound:?}");
                assert!(bound.error < 4e-7 * bound.value.abs() + 2.0 * UNDERFLOW, "{bound:?} is loose");
            }
            let root = (f64::from(x).sqrt() * (1.0 + bias * (SQRT_RELATIVE - ROUNDING))) as f32;
            assert!(exact.sqrt().allows(f64::from(root)), "sqrt({x}), {:?}", exact.sqrt());
            let log = f64::from(x).log2();
            let lg2 = (log + bias * (LG2_ERROR - ROUNDING) * log.abs().max(1.0)) as f32;
            let ln = lg2 * std::f32::consts::LN_2;
            assert!(exact.ln().allows(f64::from(ln)), "ln({x}) = {ln}, {:?}", exact.ln());
            assert!(exact.ln().error < 5e-7 * exact.ln().value.abs().max(1.0), "{:?} is loose", exact.ln());
        }
    }
}

#[test]
fn what_divides_or_has_a_logarithm_must_be_apart_from_zero() {
    let unsure = Bounded { value: 1.0, error: 1.0 };
    assert_eq!(Bounded::constant(1.0).div(&unsure).error, f64::INFINITY);
    assert_eq!(unsure.ln().error, f64::INFINITY);
    let huge = Bounded::constant(2f64.powi(127));
    assert!(Bounded::constant(1.0).div(&huge).allows(0.0), "its reciprocal may be flushed");
    assert!(Bounded::constant(0.0).sqrt().allows(0.0));
    assert_eq!(Bounded::constant(-1.0).max(&unsure), unsure);
}

#[test]
fn a_sum_may_be_taken_in_the_worst_order() {
    // Each small term alone is rounded away against the 1; among themselves they add up.
    let small = 0.99 * f32::EPSILON / 2.0;
    let terms: Vec<f32> = [1.0].into_iter().chain([small; 1000]).collect();
    let bound = Bounded::sum(terms.iter().map(|x| Bounded::constant(f64::from(*x))));
    for sum in [terms.iter().sum::<f32>(), terms.iter().rev().sum::<f32>()] {
        assert!(bound.allows(f64::from(sum)), "{sum}, {bound:?}");
    }
    assert!(bound.error < 1.1 * (bound.value - 1.0), "{bound:?} is looser than its worst case");
    assert_eq!(Bounded::sum([].into_iter()), Bounded { value: 0.0, error: 0.0 });
    let huge = Bounded::constant(3e38);
    assert_eq!(Bounded::sum([huge, huge.neg(), huge].into_iter()).error, f64::INFINITY);
}

#[test]
fn a_subnormal_number_may_be_flushed() {
    let tiny = Bounded::constant(f64::from(1e-20f32));
    assert!(tiny.mul(&tiny).allows(0.0));
    let least = Bounded::constant(f64::from(f32::MIN_POSITIVE));
    let above = Bounded::constant(f64::from(f32::MIN_POSITIVE * 1.5));
    assert!(above.sub(&least).allows(0.0));
    assert!(Bounded::constant(f64::from(1e-40f32)).allows(0.0));
}

#[test]
fn an_uncertain_operand_may_be_anywhere_in_its_interval() {
    for x in arguments().filter(|x| x.abs() <= 100.0) {
        for error in [1e-6, 1e-2, 1.0, 30.0] {
            let uncertain = Bounded { value: x, error };
            for moved in [x - error, x - error / 3.0, x + error / 2.0, x + error] {
                assert!(uncertain.exp().allows(moved.exp()), "exp of {moved} from {uncertain:?}");
                assert!(uncertain.softplus().allows(moved.softplus()), "softplus of {moved} from {uncertain:?}");
                assert!(uncertain.silu().allows(moved.silu()), "silu of {moved} from {uncertain:?}");
                assert!(uncertain.sigmoid().allows(moved.sigmoid()), "sigmoid of {moved} from {uncertain:?}");
                let derivative = moved.silu_derivative();
                assert!(uncertain.silu_derivative().allows(derivative), "silu' of {moved} from {uncertain:?}");
                if x > 0.0 && moved > 0.0 {
                    assert!(uncertain.sqrt().allows(moved.sqrt()), "sqrt of {moved} from {uncertain:?}");
                    assert!(uncertain.ln().allows(moved.ln()), "ln of {moved} from {uncertain:?}");
                    let quotient = Bounded::constant(-2.0).div(&uncertain);
                    assert!(quotient.allows(-2.0 / moved), "-2 / {moved} from {uncertain:?}");
                }
                assert!(uncertain.neg().sub(&uncertain).allows(-x - moved), "{moved} from {uncertain:?}");
            }
        }
    }
}

/// `x` rounded to nearest even with `bits` significant bits and a smallest spacing of `2^least`.
fn round_to_bits(x: f64, bits: i32, least: i32) -> f64 {
    let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 };
    let spacing = 2f64.powi((exponent - bits + 1).max(least));
    (x / spacing).round_ties_even() * spacing
}

#[test]
fn storing_adds_the_rounding_of_the_stored_type() {
    let mut largest_used = [0f64; 2];
    for step in 0..4000 {
        let value = f64::from((f64::from(step - 2000) * 0.0123).exp() as f32);
        let exact = Bounded { value, error: 0.0 };
        for (io, bits, least, used) in [(Io::F16, 11, -24, 0), (Io::Bf16, 8, -133, 1)] {
            let stored = exact.rounded_to(io);
            let got = round_to_bits(value, bits, least);
            if got.abs() > 65504.0 && io == Io::F16 {
                assert_eq!(stored.error, f64::INFINITY);
                continue;
            }
            assert!(stored.allows(got), "{value} is stored as {got}, {stored:?}");
            largest_used[used] = largest_used[used].max((got - value).abs() / stored.error);
        }
        assert_eq!(exact.rounded_to(Io::F32), exact);
    }
    assert!(largest_used.iter().all(|used| *used > 0.95), "the bounds are loose: {largest_used:?}");
    assert_eq!(Bounded { value: 65519.0, error: 0.5 }.rounded_to(Io::F16).error, 0.5 + 65519.5 / 2048.0);
    assert_eq!(Bounded { value: 65519.0, error: 1.0 }.rounded_to(Io::F16).error, f64::INFINITY);
}
