//! The state matrix from its logarithm (Mamba, arXiv 2312.00752, section 3.6), and the gradient of the logarithm.
//!
//! ```text
//! A = -exp(A_log)                         dA_log = dA * A
//! ```

use crate::Number;

/// `-exp(a_log)`, any shape.
pub fn forward<X: Number>(a_log: &[X]) -> Vec<X> {
    a_log.iter().map(|x| x.exp().neg()).collect()
}

/// The gradient of `a_log` from `g`, that of `a = forward(a_log)`; all of one length.
///
/// # Panics
///
/// Where the lengths differ.
pub fn backward<X: Number>(g: &[X], a: &[X]) -> Vec<X> {
    assert_eq!(g.len(), a.len(), "g and a have one length");
    std::iter::zip(g, a).map(|(g, a)| g.mul(a)).collect()
}
