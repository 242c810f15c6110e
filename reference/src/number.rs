//! What a formula may do with a number.

/// A number that the book's formulas can be run with.
///
/// The operations are those of the formulas and no others. They are methods that borrow, not operators, so that a number may own
/// memory ([`Traced`](crate::Traced) does) without a clone in every formula.
pub trait Number: Clone {
    /// A constant of the formula, or an input of which only the value matters.
    fn constant(value: f64) -> Self;

    /// `self + other`
    fn add(&self, other: &Self) -> Self;

    /// `self - other`
    fn sub(&self, other: &Self) -> Self;

    /// `self * other`
    fn mul(&self, other: &Self) -> Self;

    /// `-self`
    fn neg(&self) -> Self;

    /// `self / other`
    fn div(&self, other: &Self) -> Self;

    /// The larger of two.
    fn max(&self, other: &Self) -> Self;

    /// The square root, of what is not negative.
    fn sqrt(&self) -> Self;

    /// `e^self`
    fn exp(&self) -> Self;

    /// The natural logarithm, of what is positive.
    fn ln(&self) -> Self;

    /// `ln(1 + e^self)`, computed as `max(self, 0) + ln(1 + e^-|self|)`, which never overflows.
    fn softplus(&self) -> Self;

    /// `self / (1 + e^-self)`, also called swish.
    fn silu(&self) -> Self;

    /// `1 / (1 + e^-self)`, also called the logistic function. The derivative of softplus.
    fn sigmoid(&self) -> Self;

    /// The derivative of SiLU, `s * (1 + self * (1 - s))` with `s = sigmoid(self)`.
    fn silu_derivative(&self) -> Self {
        let (one, s) = (Self::constant(1.0), self.sigmoid());
        s.mul(&one.add(&self.mul(&one.sub(&s))))
    }

    /// `1 / sqrt(self)`
    fn rsqrt(&self) -> Self;

    /// The sum of the terms, 0 for none. What a number claims about it holds for every order of summation.
    fn sum(terms: impl Iterator<Item = Self>) -> Self;
}

impl Number for f64 {
    fn constant(value: f64) -> Self {
        value
    }

    fn add(&self, other: &Self) -> Self {
        self + other
    }

    fn sub(&self, other: &Self) -> Self {
        self - other
    }

    fn mul(&self, other: &Self) -> Self {
        self * other
    }

    fn neg(&self) -> Self {
        -self
    }

    fn div(&self, other: &Self) -> Self {
        self / other
    }

    fn max(&self, other: &Self) -> Self {
        f64::max(*self, *other)
    }

    fn sqrt(&self) -> Self {
        f64::sqrt(*self)
    }

    fn exp(&self) -> Self {
        f64::exp(*self)
    }

    fn ln(&self) -> Self {
        f64::ln(*self)
    }

    fn softplus(&self) -> Self {
        f64::max(*self, 0.0) + (-self.abs()).exp().ln_1p()
    }

    fn silu(&self) -> Self {
        self / (1.0 + (-self).exp())
    }

    fn sigmoid(&self) -> Self {
        1.0 / (1.0 + (-self).exp())
    }

    fn rsqrt(&self) -> Self {
        1.0 / self.sqrt()
    }

    fn sum(terms: impl Iterator<Item = Self>) -> Self {
        terms.sum()
    }
}
