//! Cross entropy of the softmax of logits, against one target a token.
//!
//! For a token with logits x and target k, and m their maximum, which no result depends on but which keeps the exponentials in range:
//!
//! ```text
//! loss    = ln(sum_j exp(x[j] - m)) + (m - x[k])
//! dlogits = (exp(x[j] - m) / sum_j exp(x[j] - m) - [j = k]) * scale
//! ```
//!
//! A token without a target has loss 0 and gradient 0. `scale` is the gradient of the whole with respect to each token's loss: one over
//! the number of targets, for their mean.

use crate::Number;

/// Logits and targets of T tokens.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, X> {
    /// Vocabulary, V. At least 1.
    pub vocabulary: usize,
    /// (T, V)
    pub logits: &'a [X],
    /// Below V, or none, (T).
    pub targets: &'a [Option<usize>],
}

/// The softmax of a row, before its division.
struct Row<X> {
    max: X,
    /// exp(x - max), (V)
    exps: Vec<X>,
    sum: X,
}

impl<X: Number> Row<X> {
    fn new(logits: &[X]) -> Self {
        let max = logits[1..].iter().fold(logits[0].clone(), |max, x| max.max(x));
        let exps: Vec<X> = logits.iter().map(|x| x.sub(&max).exp()).collect();
        let sum = X::sum(exps.iter().cloned());
        Self { max, exps, sum }
    }
}

impl<X: Number> Inputs<'_, X> {
    fn rows(&self) -> impl Iterator<Item = (&[X], Option<usize>)> {
        assert_eq!(self.logits.len(), self.targets.len() * self.vocabulary, "logits have the shape (T, V)");
        self.logits.chunks(self.vocabulary).zip(self.targets.iter().copied())
    }
}

/// The loss of each token, (T).
///
/// # Panics
///
/// Where the lengths do not fit, or a target is not below V.
pub fn forward<X: Number>(inputs: &Inputs<'_, X>) -> Vec<X> {
    let loss = |(logits, target): (&[X], Option<usize>)| match target {
        None => X::constant(0.0),
        Some(k) => {
            let row = Row::new(logits);
            row.sum.ln().add(&row.max.sub(&logits[k]))
        }
    };
    inputs.rows().map(loss).collect()
}

/// The gradient of `scale` times the sum of the losses with respect to the logits, (T, V).
///
/// # Panics
///
/// As [`forward`].
pub fn backward<X: Number>(inputs: &Inputs<'_, X>, scale: &X) -> Vec<X> {
    let mut dlogits = Vec::with_capacity(inputs.logits.len());
    for (logits, target) in inputs.rows() {
        let Some(k) = target else {
            dlogits.extend(logits.iter().map(|_| X::constant(0.0)));
            continue;
        };
        assert!(k < inputs.vocabulary, "target {k} is outside the vocabulary");
        let row = Row::new(logits);
        for (j, exp) in row.exps.iter().enumerate() {
            let p = exp.div(&row.sum);
            let d = if j == k { p.sub(&X::constant(1.0)) } else { p };
            dlogits.push(d.mul(scale));
        }
    }
    dlogits
}
