//! A number that every operation moves a little, as rounding to f32 does.
//!
//! [`Perturbed`] is Monte Carlo arithmetic (D. S. Parker, *Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic*, UCLA
//! CSD-970002, 1997): the result of each operation is moved at random, by no more than an f32 kernel may be off in it. A computation that is run
//! a few times shows how far apart its results come out, and so how far from the truth f32 may be expected to be, with all that
//! amplifies and all that cancels on the way. That is what can be said of a whole model; a proof that holds for every
//! rounding is [`Bounded`](crate::Bounded)'s, for one operator.
//!
//! The constants are `Bounded`'s. Where it charges more than one operation at once, so does this.

use std::cell::Cell;

use crate::Number;
use crate::bounded::{
    EX2_RELATIVE, EXP_ARGUMENT, LG2_ERROR, LOG1P_RELATIVE, RCP_RELATIVE, ROUNDING, RSQRT_RELATIVE, SQRT_RELATIVE,
};

/// A value in f64 that was moved by every operation that made it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perturbed(pub f64);

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// The computations of this thread are moved by other numbers from now on, those of this seed.
pub fn seed(seed: u64) {
    STATE.set(seed);
}

/// A number from -1 to 1, all equally likely: SplitMix64 (Steele, Lea and Flood, 2014).
fn random() -> f64 {
    let state = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// A value moved by at most a share of it.
fn moved(value: f64, relative: f64) -> f64 {
    value * (1.0 + relative * random())
}

/// The result of one correctly rounded operation. A zero stays one: rounding makes nothing of nothing.
fn rounded(value: f64) -> Perturbed {
    Perturbed(moved(value, ROUNDING))
}

/// `e^x`, by `ex2` of a product.
fn exp(x: f64) -> f64 {
    moved(moved(x, EXP_ARGUMENT).exp(), EX2_RELATIVE)
}

/// `1 / (1 + e^-x)`
fn sigmoid(x: f64) -> f64 {
    moved(1.0 / moved(1.0 + exp(-x), ROUNDING), RCP_RELATIVE)
}

impl Number for Perturbed {
    /// As a kernel reads it.
    fn constant(value: f64) -> Self {
        Self(f64::from(value as f32))
    }

    fn add(&self, other: &Self) -> Self {
        rounded(self.0 + other.0)
    }

    fn sub(&self, other: &Self) -> Self {
        rounded(self.0 - other.0)
    }

    fn mul(&self, other: &Self) -> Self {
        rounded(self.0 * other.0)
    }

    fn neg(&self) -> Self {
        Self(-self.0)
    }

    fn div(&self, other: &Self) -> Self {
        rounded(moved(self.0 / other.0, RCP_RELATIVE))
    }

    fn max(&self, other: &Self) -> Self {
        Self(self.0.max(other.0))
    }

    fn sqrt(&self) -> Self {
        Self(moved(self.0.sqrt(), SQRT_RELATIVE))
    }

    fn exp(&self) -> Self {
        Self(exp(self.0))
    }

    fn ln(&self) -> Self {
        let base_two = self.0.log2() + LG2_ERROR * random() * self.0.log2().abs().max(1.0);
        rounded(moved(base_two * std::f64::consts::LN_2, ROUNDING))
    }

    /// `max(x, 0) + log1p(e^-|x|)`
    fn softplus(&self) -> Self {
        rounded(self.0.max(0.0) + moved(exp(-self.0.abs()).ln_1p(), LOG1P_RELATIVE))
    }

    fn silu(&self) -> Self {
        rounded(self.0 * sigmoid(self.0))
    }

    fn sigmoid(&self) -> Self {
        Self(sigmoid(self.0))
    }

    fn rsqrt(&self) -> Self {
        Self(moved(1.0 / self.0.sqrt(), RSQRT_RELATIVE))
    }

    /// One after the other: in no order do roundings grow faster with the number of terms.
    fn sum(terms: impl Iterator<Item = Self>) -> Self {
        terms.reduce(|sum, term| sum.add(&term)).unwrap_or(Self(0.0))
    }
}

/// How far from `exact: (n)` a computation in f32 may be expected to be, element by element, (n), from `samples` of it: [`LIMIT`] times the
/// root of their mean square distance.
///
/// # Panics
///
/// Without a sample, or where lengths differ.
pub fn expected_error(exact: &[f64], samples: &[Vec<f64>]) -> Vec<f64> {
    assert!(
        !samples.is_empty() && samples.iter().all(|sample| sample.len() == exact.len()),
        "samples have the length of exact"
    );
    let spread =
        |i: usize| samples.iter().map(|sample| (sample[i] - exact[i]).powi(2)).sum::<f64>() / samples.len() as f64;
    (0..exact.len()).map(|i| LIMIT * spread(i).sqrt()).collect()
}

/// Samples that [`LIMIT`] is for.
pub const SAMPLES: usize = 32;

/// What f32 is off in is one more draw, by errors that are no larger than those of the samples. A sum of many of them is about normal, and the
/// quotient of one draw and the root mean square of 32 others has Student's t distribution with 32 degrees of freedom. Beyond 7 it comes seven
/// times in 10^8 elements.
pub const LIMIT: f64 = 7.0;
