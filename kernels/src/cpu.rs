//! Float functions for the native CPU paths: plain arithmetic, so that the compiler vectorises the loops that call them.

/// Runs `work` compiled for the widest registers that both pulp and this machine know, where all of it is inlined.
///
/// Nothing is contracted or summed in another order, so the bits are those of any other machine.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// `2^x`: relative error below 2^-22, 0 below 2^-126 as `ex2.approx.ftz.f32`.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    // Split into an integer and a rest within half of it; the constant's last place is 1, so adding it rounds.
    const ROUND: f32 = 12_582_912.0;
    // At 128 the exponent's field is that of infinity, and p is 1.
    let clamped = x.clamp(-127.0, 128.0);
    let rounded = clamped + ROUND;
    let rest = clamped - (rounded - ROUND);
    let mut p = 0.000_153_458_11_f32;
    for c in EXP2 {
        p = p * rest + c;
    }
    // The integer is in the last bits of `rounded`; those above it fall off.
    let value = f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23));
    let flushed = if x < -126.0 { 0.0 } else { value };
    if x.is_nan() { x } else { flushed }
}

/// The coefficients of 2^x on [-1/2, 1/2] after the first, highest power first, fitted for relative error.
const EXP2: [f32; 6] = [0.001_339_993_1, 0.009_618_489, 0.055_503_286, 0.240_226_46, std::f32::consts::LN_2, 1.0];

/// `exp(x)`
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}

/// `log(1 + exp(x))`, by the kernels' formula.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let larger = if x < 0.0 { 0.0 } else { x };
    larger + ln_1p(exp(-x.abs()))
}

/// `log(1 + w)` for w from 0 to 1: relative error below 2^-21.
#[inline(always)]
fn ln_1p(w: f32) -> f32 {
    let mut p = 0.005_232_68_f32;
    for c in LN_1P {
        p = p * w + c;
    }
    p * w
}

/// The coefficients of `log(1 + w) / w` after the first, highest power first: those of the kernels' prelude.
const LN_1P: [f32; 8] = [
    -0.029_505_188,
    0.078_225_88,
    -0.136_632_41,
    0.191_060_05,
    -0.248_429_82,
    0.333_190_98,
    -0.499_994_93,
    0.999_999_94,
];

/// `x / (1 + exp(-x))`
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_as_exact_as_the_gpu_claims() {
        for i in -126 * 4096..128 * 4096 {
            let x = i as f32 / 4096.0;
            let error = (f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs();
            assert!(error <= f64::powi(2.0, -22), "exp2({x}) is off by {error:e}");
        }
    }

    #[test]
    fn ln_1p_is_as_exact_as_the_book_allows() {
        for i in 1..=1 << 20 {
            let w = i as f32 / (1 << 20) as f32;
            let error = (f64::from(ln_1p(w)) / f64::from(w).ln_1p() - 1.0).abs();
            assert!(error <= f64::powi(2.0, -21), "ln_1p({w}) is off by {error:e}");
        }
        assert_eq!(ln_1p(0.0), 0.0);
        assert!(softplus(f32::NAN).is_nan());
        assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
        assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp2_at_the_edges() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-3.0), 0.125);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-130.0), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp2(128.0), f32::INFINITY);
        for payload in [0, 1, 0x1ff] {
            assert!(exp2(f32::from_bits(0x7fc0_0000 | payload)).is_nan());
        }
    }
}
