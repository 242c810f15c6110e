//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).
//!
//! For every parameter, with g its gradient:
//!
//! ```text
//! m' = beta1*m + (1 - beta1)*g                  v' = beta2*v + (1 - beta2)*g*g
//! p' = p - lr*decay*p - lr * (m'*c1) / (sqrt(v'*c2) + eps)
//! ```
//!
//! where `c1 = 1 / (1 - beta1^t)` and `c2 = 1 / (1 - beta2^t)` correct the bias of step t, counted from 1. Decay is multiplied with the
//! learning rate, as every framework does: it is the paper's lambda with `lr` for its schedule.

use crate::Number;

/// The numbers of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<X> {
    /// Learning rate, lr.
    pub learning_rate: X,
    /// Decay rate of the first moment.
    pub beta1: X,
    /// Decay rate of the second moment.
    pub beta2: X,
    /// Keeps the quotient finite.
    pub eps: X,
    /// Weight decay.
    pub decay: X,
    /// `c1 = 1 / (1 - beta1^t)`
    pub correction1: X,
    /// `c2 = 1 / (1 - beta2^t)`
    pub correction2: X,
    /// What gradients are multiplied with first.
    pub grad_scale: X,
}

/// Parameters and their moments, each (n).
#[derive(Clone, Debug, PartialEq)]
pub struct State<X> {
    /// Parameters.
    pub p: Vec<X>,
    /// First moments.
    pub m: Vec<X>,
    /// Second moments, not negative.
    pub v: Vec<X>,
}

/// `(c1, c2)` of step `t`, counted from 1.
pub fn corrections(beta1: f64, beta2: f64, t: i32) -> (f64, f64) {
    (1.0 / (1.0 - beta1.powi(t)), 1.0 / (1.0 - beta2.powi(t)))
}

/// The state after one step with gradients `g: (n)`.
///
/// # Panics
///
/// Where the lengths differ.
pub fn forward<X: Number>(state: &State<X>, g: &[X], step: &Step<X>) -> State<X> {
    let n = state.p.len();
    assert!(state.m.len() == n && state.v.len() == n && g.len() == n, "p, m, v and g have one length");
    let one = X::constant(1.0);
    let (rest1, rest2) = (one.sub(&step.beta1), one.sub(&step.beta2));
    let mut next = State { p: Vec::with_capacity(n), m: Vec::with_capacity(n), v: Vec::with_capacity(n) };
    for i in 0..n {
        let g = g[i].mul(&step.grad_scale);
        let m = step.beta1.mul(&state.m[i]).add(&rest1.mul(&g));
        let v = step.beta2.mul(&state.v[i]).add(&rest2.mul(&g).mul(&g));
        let move_by = m.mul(&step.correction1).div(&v.mul(&step.correction2).sqrt().add(&step.eps));
        let kept = state.p[i].sub(&step.learning_rate.mul(&step.decay).mul(&state.p[i]));
        next.p.push(kept.sub(&step.learning_rate.mul(&move_by)));
        next.m.push(m);
        next.v.push(v);
    }
    next
}
