//! The residual addition and the root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), forward and backward.
//!
//! ```text
//! r    = residual + x                                      the residual is optional
//! rstd = 1 / sqrt(mean over m of r^2 + epsilon)
//! y    = r * rstd * weight
//!
//! g       = weight * dy
//! dr      = incoming + rstd * (g - r * rstd^2 * mean(g*r))     incoming, the gradient of r from elsewhere, is optional
//! dweight = sum over t of dy * r * rstd
//! ```
//!
//! `dr` is the gradient of the residual and of `x`. It follows from `d rstd / dr = -rstd^3 * r / M`.

use crate::Number;

/// What the norm reads.
pub struct Inputs<'a, X> {
    /// Model width, M. At least 1.
    pub width: usize,
    /// What is added to the residual stream, (T, M).
    pub x: &'a [X],
    /// The residual stream so far, (T, M).
    pub residual: Option<&'a [X]>,
    /// Weight of the norm, (M).
    pub weight: &'a [X],
    /// Added to the mean square.
    pub epsilon: X,
}

/// What the norm computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<X> {
    /// (T, M)
    pub y: Vec<X>,
    /// What was normed, (T, M).
    pub r: Vec<X>,
    /// (T)
    pub rstd: Vec<X>,
}

/// The norm of every row.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape.
pub fn forward<X: Number>(inputs: &Inputs<'_, X>) -> Outputs<X> {
    let width = inputs.width;
    assert_eq!(inputs.weight.len(), width, "weight has the wrong length for the shape (M)");
    assert_eq!(inputs.x.len() % width, 0, "x has the wrong length for the shape (T, M)");
    let mut r = inputs.x.to_vec();
    if let Some(residual) = inputs.residual {
        assert_eq!(residual.len(), r.len(), "residual has the wrong length for the shape (T, M)");
        r.iter_mut().zip(residual).for_each(|(r, residual)| *r = residual.add(r));
    }
    let mut outputs = Outputs { y: Vec::with_capacity(r.len()), rstd: Vec::new(), r };
    for row in outputs.r.chunks(width) {
        let rstd = mean(row.iter().map(|r| r.mul(r)), width).add(&inputs.epsilon).rsqrt();
        outputs.y.extend(row.iter().zip(inputs.weight).map(|(r, weight)| r.mul(&rstd).mul(weight)));
        outputs.rstd.push(rstd);
    }
    outputs
}

/// What the backward pass reads.
pub struct Incoming<'a, X> {
    /// Model width, M. At least 1.
    pub width: usize,
    /// Gradient of y, (T, M).
    pub dy: &'a [X],
    /// What was normed, (T, M).
    pub r: &'a [X],
    /// Of the forward pass, (T).
    pub rstd: &'a [X],
    /// Weight of the norm, (M).
    pub weight: &'a [X],
    /// Gradient of r from elsewhere, (T, M).
    pub incoming: Option<&'a [X]>,
}

/// The gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<X> {
    /// Of the residual and of x, (T, M).
    pub r: Vec<X>,
    /// (M)
    pub weight: Vec<X>,
}

/// The gradients of a loss, given that of y.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape.
pub fn backward<X: Number>(inputs: &Incoming<'_, X>) -> Gradients<X> {
    let Incoming { width, dy, r, rstd, weight, incoming } = *inputs;
    assert_eq!(dy.len(), rstd.len() * width, "dy has the wrong length for the shape (T, M)");
    assert_eq!(r.len(), dy.len(), "r has the wrong length for the shape (T, M)");
    assert_eq!(weight.len(), width, "weight has the wrong length for the shape (M)");
    let mut dr = Vec::with_capacity(r.len());
    for (t, rstd) in rstd.iter().enumerate() {
        let row = t * width..(t + 1) * width;
        let g: Vec<X> = dy[row.clone()].iter().zip(weight).map(|(dy, weight)| weight.mul(dy)).collect();
        let r = &r[row.clone()];
        let pull = mean(g.iter().zip(r).map(|(g, r)| g.mul(r)), width).mul(rstd).mul(rstd);
        for (m, at) in row.enumerate() {
            let turned = rstd.mul(&g[m].sub(&r[m].mul(&pull)));
            dr.push(incoming.map_or(turned.clone(), |incoming| incoming[at].add(&turned)));
        }
    }
    let of_weight =
        |m: usize| X::sum(rstd.iter().enumerate().map(|(t, rstd)| dy[t * width + m].mul(&r[t * width + m].mul(rstd))));
    Gradients { r: dr, weight: (0..width).map(of_weight).collect() }
}

/// The mean of `count` terms: their sum times `1 / count`.
fn mean<X: Number>(terms: impl Iterator<Item = X>, count: usize) -> X {
    X::sum(terms).mul(&X::constant(1.0 / count as f64))
}
