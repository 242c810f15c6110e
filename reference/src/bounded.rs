//! A number that knows how far an f32 kernel may be from it.
//!
//! [`Bounded`] is a running error analysis (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd edition, section 3.3):
//! beside the value, every operation computes a bound on `|what f32 got - value|` from its operands' bounds and its own
//! rounding. The bound is for these data, not for the worst ones, and no tolerance is chosen by hand anywhere.
//!
//! # What it covers
//!
//! A kernel that evaluates the same formula in f32, where
//!
//! - a product that feeds an addition may be fused with it or not (fusing drops one of two roundings that are both charged);
//! - a [`Number::sum`] is taken in any order: chain, lanes, tree;
//! - `exp(x)` is `ex2.approx(x * log2e)`, the factor `log2e` applied beforehand to a factor of `x` or afterwards to `x`;
//! - a quotient is correctly rounded, or the product with `rcp.approx`; a square root is correctly rounded or `sqrt.approx`;
//! - `ln(x)` is `lg2.approx(x) * ln2`;
//! - softplus, SiLU and sigmoid are evaluated as stated at [`Bounded::softplus`](Number::softplus), [`silu`](Number::silu) and
//!   [`sigmoid`](Number::sigmoid);
//! - subnormal numbers are kept or flushed to zero, at every operation as it pleases.
//!
//! It does not cover another formula for the same thing, such as a scan that is cut along time and combines products of decays:
//! run that formula with `Bounded` instead ([`forward_in_segments`](crate::selective_scan::forward_in_segments) is the one that packscan has).
//!
//! # How the f64 arithmetic of the analysis itself is paid for
//!
//! `value` and `error` are rounded too, by at most a few times 2^-53 an operation. Every constant below that multiplies a magnitude
//! carries [`ANALYSIS`] on top, which is more than that.

use crate::Number;

/// Added to every relative constant: covers the roundings (in f64) of this analysis. 2^-50.
pub const ANALYSIS: f64 = 4.0 * f64::EPSILON;

/// Relative error of one f32 addition, multiplication or fused multiply-add, rounded to nearest: 2^-24 (IEEE 754).
pub const ROUNDING: f64 = f32::EPSILON as f64 / 2.0 + ANALYSIS;

/// Absolute error of one operation whose result is subnormal: flushed to zero it loses less than 2^-126. Where the operation
/// keeps it and the next one flushes its operands, the loss is the same one, paid for here.
pub const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;

/// Relative error of the argument that `ex2` sees for `exp(x)`: three roundings, of the constant `log2e`, of its product with a factor
/// of `x`, and of the product of the factors. `3u / (1 - 3u)` (Higham, lemma 3.1).
pub const EXP_ARGUMENT: f64 = 3.0 * ROUNDING / (1.0 - 3.0 * ROUNDING);

/// Relative error of `ex2.approx.ftz.f32`: at most 2^-22 (PTX ISA, `ex2`). Over all f32 arguments, an H200 was measured to stay below 2^-22.70.
pub const EX2_RELATIVE: f64 = 2.0 * f32::EPSILON as f64 + ANALYSIS;

/// Relative error of `rcp.approx.ftz.f32`: at most 2^-23 (PTX ISA, `rcp`). Over all f32 arguments, an
/// H200 was measured to stay below 2^-23.27.
pub const RCP_RELATIVE: f64 = f32::EPSILON as f64 + ANALYSIS;

/// Relative error of `rsqrt.approx.ftz.f32`: at most 2^-22.9 (PTX ISA, `rsqrt`), which is 1.2777e-7. A root and a division, each correctly
/// rounded, stay below 2^-23.
pub const RSQRT_RELATIVE: f64 = 1.278e-7 + ANALYSIS;

/// Relative error of `sqrt.approx.ftz.f32`: at most 2^-23 (PTX ISA, `sqrt`). More than that of a correctly rounded root.
pub const SQRT_RELATIVE: f64 = f32::EPSILON as f64 + ANALYSIS;

/// Error of `lg2.approx.ftz.f32`: at most 2^-22, absolute for arguments in (0.5, 2) and relative elsewhere (PTX ISA, `lg2`). Where
/// it is relative the logarithm is at least 1, so it is 2^-22 of the larger of the two everywhere.
pub const LG2_ERROR: f64 = 2.0 * f32::EPSILON as f64 + ANALYSIS;

/// Relative error allowed to a kernel's `log1p` on [0, 1], by polynomial or library: 8u. A promise that kernels have to keep.
pub const LOG1P_RELATIVE: f64 = 8.0 * ROUNDING;

/// The largest slope of SiLU is 1.0998, at z = 2.3994.
pub const SILU_SLOPE: f64 = 1.1;

/// Beyond this magnitude of x, e^-|x| (below 2^-184) is zero in f32 and e^|x| infinite, computed with whatever error.
const EXP_RANGE: f64 = 128.0;

/// How a result is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// As it was computed.
    F32,
    /// IEEE half precision: 11 significant bits, largest number 65504.
    F16,
    /// The upper half of an f32: 8 significant bits, range of f32.
    Bf16,
}

/// A value, and a bound on how far the result of an f32 kernel may be from it.
///
/// The bound is infinite where f32 may overflow, and never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    /// The value, in f64.
    pub value: f64,
    /// Bound on `|what f32 got - value|`; at least 0, possibly infinite.
    pub error: f64,
}

impl Bounded {
    /// A value with a bound, which becomes infinite if f32 may overflow (or if it came out as NaN, as in infinity times 0).
    fn new(value: f64, error: f64) -> Self {
        let in_range = value.abs() + error <= f64::from(f32::MAX);
        Self { value, error: if in_range { error } else { f64::INFINITY } }
    }

    /// The result of one correctly rounded operation on operands whose own errors move it by `propagated` at most.
    fn rounded(value: f64, propagated: f64) -> Self {
        Self::new(value, propagated + ROUNDING * (value.abs() + propagated) + UNDERFLOW)
    }

    /// The largest magnitude that f32 may have got.
    fn reach(&self) -> f64 {
        self.value.abs() + self.error
    }

    /// Whether `got` is within the bound. False for NaN.
    pub fn allows(&self, got: f64) -> bool {
        (got - self.value).abs() <= self.error
    }

    /// The same result after a conversion (to nearest) to the type in which it is stored.
    ///
    /// With p significant bits, the conversion moves a number by at most 2^-p of it, or by half the spacing of subnormal numbers:
    /// 2^-11 and 2^-25 for f16. For bf16 it is 2^-8 (one implicit bit and seven stored ones: neighbours of 1 are 2^-7 apart, the
    /// nearest is half that away) and, flushing allowed, 2^-126. The bound is infinite where the conversion may
    /// overflow: for f16 from 65520 on, halfway between 65504 and the next number that 11 bits would give.
    pub fn rounded_to(self, io: Io) -> Self {
        let reach = self.reach();
        let (relative, absolute, limit) = match io {
            Io::F32 => return self,
            Io::F16 => (1.0 / 2048.0, 1.0 / 33_554_432.0, 65520.0),
            Io::Bf16 => (1.0 / 256.0, UNDERFLOW, f64::from(f32::MAX) * (1.0 - 1.0 / 512.0)),
        };
        let error = if reach < limit { self.error + f64::max(relative * reach, absolute) } else { f64::INFINITY };
        Self { value: self.value, error }
    }
}

/// Relative error of the f32 `exp` of an f32 number no larger than `reach` (itself at most [`EXP_RANGE`]):
/// `(1 + EX2_RELATIVE) e^argument - 1`, with `e^argument - 1 <= argument + argument^2` for arguments up to 1.
fn exp_relative(reach: f64) -> f64 {
    let argument = EXP_ARGUMENT * reach + UNDERFLOW;
    let moved = argument + argument * argument;
    moved + EX2_RELATIVE * (1.0 + moved)
}

/// Relative error of the f32 `r = rcp(q)`, `q = 1 + w`, `w = exp(-x)`, where `r` is not subnormal, on top of what x's own error does.
///
/// The relative error of `w` reaches `q` times `w / (1 + w) = sigmoid(-x)`, which is small for positive x; `q` is rounded, and `rcp` adds
/// [`RCP_RELATIVE`]: `(1 + rcp) / (1 - q) - 1` is at most `(q + rcp)(1 + 2q)`. Beyond [`EXP_RANGE`], `r` is 0 or 1 to within `rcp`.
fn sigmoid_relative(x: &Bounded) -> f64 {
    let q_relative = exp_relative(x.reach().min(EXP_RANGE)) * (x.error - x.value).sigmoid() + ROUNDING;
    (q_relative + RCP_RELATIVE) * (1.0 + 2.0 * q_relative)
}

impl Number for Bounded {
    /// An input or constant that a kernel reads as an f32: exact if it is one and not subnormal.
    fn constant(value: f64) -> Self {
        let stored = if value.abs() < UNDERFLOW { 0.0 } else { f64::from(value as f32) };
        Self::new(value, (value - stored).abs())
    }

    fn add(&self, other: &Self) -> Self {
        Self::rounded(self.value + other.value, self.error + other.error)
    }

    fn sub(&self, other: &Self) -> Self {
        Self::rounded(self.value - other.value, self.error + other.error)
    }

    /// `(x + ex)(y + ey) - xy = x ey + ex y + ex ey`
    fn mul(&self, other: &Self) -> Self {
        let propagated = self.value.abs() * other.error + self.error * other.reach();
        Self::rounded(self.value * other.value, propagated)
    }

    fn neg(&self) -> Self {
        Self { value: -self.value, error: self.error }
    }

    /// The quotient moves by `(ex + |x/y| ey) / (|y| - ey)` at most, since `(x + ex)/(y + ey) - x/y = (ex - (x/y) ey) / (y + ey)`.
    /// [`RCP_RELATIVE`] and the rounding of the product exceed the one rounding of a division. The reciprocal of a divisor above 2^126
    /// may be flushed, which loses at most 2^-126 of it.
    fn div(&self, other: &Self) -> Self {
        let value = self.value / other.value;
        let least = other.value.abs() - other.error;
        if least < UNDERFLOW {
            return Self { value, error: f64::INFINITY };
        }
        let propagated = (self.error + value.abs() * other.error) / least;
        let flushed = if other.reach() > 1.0 / UNDERFLOW { UNDERFLOW * self.reach() } else { 0.0 };
        Self::rounded(value, propagated + RCP_RELATIVE * (value.abs() + propagated) + flushed)
    }

    /// A selection: nothing is rounded, and the larger of two moves by no more than either.
    fn max(&self, other: &Self) -> Self {
        Self { value: self.value.max(other.value), error: self.error.max(other.error) }
    }

    /// `|sqrt(x + e) - sqrt(x)| = |e| / (sqrt(x + e) + sqrt(x))`, and no more than `sqrt(|e|)`. A sum of squares is not negative in f32
    /// either, so its bound may reach below 0.
    fn sqrt(&self) -> Self {
        let value = self.value.sqrt();
        let lowest = (self.value - self.error).max(0.0).sqrt();
        let propagated = (self.error / (value + lowest)).min(self.error.sqrt());
        Self::rounded(value, propagated + SQRT_RELATIVE * (value + propagated))
    }

    /// `ex2` sees an argument that is off by the operand's error and by [`EXP_ARGUMENT`]; a shift of the argument by `s` moves the
    /// result by `e^x (e^|s| - 1)` at most, and [`EX2_RELATIVE`] comes on top.
    fn exp(&self) -> Self {
        let value = self.value.exp();
        let shift = self.error + EXP_ARGUMENT * self.reach() + UNDERFLOW;
        let propagated = if shift <= 1.0 { value * (shift + shift * shift) } else { (self.value + shift).exp() };
        Self::new(value, propagated + EX2_RELATIVE * (value + propagated) + UNDERFLOW)
    }

    /// The slope is at most `1 / (x - e)`; [`LG2_ERROR`] of the logarithm to base 2, the rounding of the constant `ln2` and that of
    /// the product come on top.
    fn ln(&self) -> Self {
        let value = self.value.ln();
        let least = self.value - self.error;
        if least < UNDERFLOW {
            return Self { value, error: f64::INFINITY };
        }
        let propagated = self.error / least;
        let base_two = (value.abs() + propagated) / std::f64::consts::LN_2;
        let moved = propagated + std::f64::consts::LN_2 * LG2_ERROR * base_two.max(1.0);
        Self::rounded(value, moved + ROUNDING * (value.abs() + moved))
    }

    /// Implemented without a branch as `max(x, 0) + log1p(w)`, `w = exp(-|x|)`.
    ///
    /// The operand's error is passed on with a slope of at most `sigmoid(x + error)`, less than 1. `w` has the error of an exponential, or
    /// underflows; `log1p` has a slope of at most 1, a value of at most `w`, and [`LOG1P_RELATIVE`] of its own.
    fn softplus(&self) -> Self {
        let w = (-f64::max(self.value.abs() - self.error, 0.0)).exp();
        let w_error = w * exp_relative(self.reach().min(EXP_RANGE)) + UNDERFLOW;
        let log1p_error = w_error + LOG1P_RELATIVE * (w + w_error) + UNDERFLOW;
        let passed_on = self.error * (self.value + self.error).sigmoid();
        Self::rounded(self.value.softplus(), passed_on + log1p_error)
    }

    /// Implemented as `z * r`, with the `r` of [`sigmoid`](Number::sigmoid).
    ///
    /// The operand's error is passed on with [`SILU_SLOPE`]. For z below -87, `r` is subnormal and may be flushed, and below -88.7 `w`
    /// overflows and `r` is 0: either way `r`, at most 2^-126 to within rounding, is lost, and the result is off by that times |z|.
    /// Below -128 the result is 0 for certain, where 128 * 2^-125 still exceeds z * sigmoid(z).
    fn silu(&self) -> Self {
        let value = self.value.silu();
        let passed_on = SILU_SLOPE * self.error;
        let flushed = 2.0 * UNDERFLOW * self.reach().min(EXP_RANGE);
        Self::rounded(value, passed_on + sigmoid_relative(self) * (value.abs() + passed_on) + flushed)
    }

    /// Implemented as `r = rcp(q)`, `q = 1 + w`, `w = exp(-x)`.
    ///
    /// The slope is `s(1 - s)`, at most 1/4 and at most `e^-|x|`. As in [`silu`](Number::silu), a subnormal `r` may be lost.
    fn sigmoid(&self) -> Self {
        let value = self.value.sigmoid();
        let nearest_zero = f64::max(self.value.abs() - self.error, 0.0);
        let passed_on = self.error * f64::min(0.25, (-nearest_zero).exp());
        Self::new(value, passed_on + sigmoid_relative(self) * (value + passed_on) + 2.0 * UNDERFLOW)
    }

    /// The function falls and is convex, so an operand that is off by its bound moves the result most where it is smaller. Where that
    /// may be subnormal, zero or negative, there is no bound.
    fn rsqrt(&self) -> Self {
        let value = self.value.rsqrt();
        let lowest = self.value - self.error;
        if lowest < UNDERFLOW {
            return Self { value, error: f64::INFINITY };
        }
        let furthest = lowest.rsqrt();
        Self::new(value, furthest - value + RSQRT_RELATIVE * furthest)
    }

    /// In whatever order n terms are added, none takes part in more than n - 1 additions (Higham, section 4.2), so the
    /// roundings amount to at most `k / (1 - k)` of the sum of magnitudes, `k = (n - 1) u`.
    fn sum(terms: impl Iterator<Item = Self>) -> Self {
        let (mut value, mut error, mut magnitude, mut count) = (0.0, 0.0, 0.0, 0.0);
        for term in terms {
            value += term.value;
            error += term.error;
            magnitude += term.reach();
            count += 1.0;
        }
        let additions = f64::max(count - 1.0, 0.0);
        let k = additions * ROUNDING;
        error += k / (1.0 - k) * magnitude + additions * UNDERFLOW;
        // A partial sum may overflow where the whole does not.
        let in_range = k < 1.0 && magnitude + error <= f64::from(f32::MAX);
        Self::new(value, if in_range { error } else { f64::INFINITY })
    }
}
