//! Float functions for the native CPU paths: plain arithmetic, so that the compiler vectorises the loops that call them.

/// `2^x`: relative error below 2^-22, 0 below 2^-126 as `ex2.approx.ftz.f32`.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    // Split into an integer and a rest within half of it; the constant's last place is 1, so adding it rounds.
    const ROUND: f32 = 12_582_912.0;
    // NaN goes through: `clamp` keeps it, and the polynomial carries it.
    let clamped = x.clamp(-200.0, 200.0);
    let whole = clamped + ROUND - ROUND;
    let rest = clamped - whole;
    let mut p = 0.000_153_458_11_f32;
    for c in EXP2 {
        p = p * rest + c;
    }
    // Two factors, since 2^128 and 2^-149 are no single float's exponent field.
    let half = (whole * 0.5).floor();
    let value = p * power_of_two(half) * power_of_two(whole - half);
    if x < -126.0 { 0.0 } else { value }
}

/// The coefficients of 2^x on [-1/2, 1/2] after the first, highest power first, fitted for relative error.
const EXP2: [f32; 6] = [0.001_339_993_1, 0.009_618_489, 0.055_503_286, 0.240_226_46, std::f32::consts::LN_2, 1.0];

#[inline(always)]
fn power_of_two(exponent: f32) -> f32 {
    f32::from_bits(((exponent as i32 + 127) << 23) as u32)
}

/// `exp(x)`
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}

/// `log(1 + exp(x))`
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

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
    fn exp2_at_the_edges() {
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-3.0), 0.125);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-130.0), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert!(exp2(f32::NAN).is_nan());
    }
}
