//! The norm of a gradient, and what it is multiplied with so that the norm stays below a limit (Pascanu et al., arXiv 1211.5063,
//! algorithm 1).
//!
//! ```text
//! norm   = sqrt(sum of g*g)
//! factor = min(1, max_norm / (norm + 1e-6))
//! ```

use crate::Number;

/// Added to the norm before it divides.
pub const EPS: f64 = 1e-6;

/// What clipping needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip<X> {
    /// What the gradients are to be multiplied with.
    pub factor: X,
    /// L2 norm of all gradients.
    pub norm: X,
}

/// The sum of the squares of `g: (n)`.
pub fn sum_of_squares<X: Number>(g: &[X]) -> X {
    X::sum(g.iter().map(|g| g.mul(g)))
}

/// The norm and the factor from sums of squares, `parts: (P)`, of parts of the gradients.
pub fn clip<X: Number>(parts: &[X], max_norm: &X) -> Clip<X> {
    let norm = X::sum(parts.iter().cloned()).sqrt();
    let quotient = max_norm.div(&norm.add(&X::constant(EPS)));
    let minus_one = X::constant(-1.0);
    Clip { factor: quotient.neg().max(&minus_one).neg(), norm }
}
