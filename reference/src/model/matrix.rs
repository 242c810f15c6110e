//! The product with a transposed matrix, as every projection of the model is one: `y = x W^T`.
//!
//! ```text
//! y[t, o]  = sum_i x[t, i] * w[o, i]
//! dx[t, i] = sum_o dy[t, o] * w[o, i]
//! dw[o, i] = sum_t dy[t, o] * x[t, i]
//! ```

use std::ops::Range;

use crate::Number;

/// y, (T, O), of `inputs` = I: `x: (T, I)`, `w: (O, I)`.
pub(super) fn forward<X: Number>(inputs: usize, x: &[X], w: &[X]) -> Vec<X> {
    let mut y = Vec::with_capacity(x.len() / inputs * (w.len() / inputs));
    for x in x.chunks_exact(inputs) {
        for w in w.chunks_exact(inputs) {
            y.push(X::sum(x.iter().zip(w).map(|(x, w)| x.mul(w))));
        }
    }
    y
}

/// The gradients.
pub(super) struct Gradients<X> {
    /// (T, I)
    pub x: Vec<X>,
    /// (O, I)
    pub w: Vec<X>,
}

/// The gradients, given `dy: (T, O)`.
pub(super) fn backward<X: Number>(inputs: usize, x: &[X], w: &[X], dy: &[X]) -> Gradients<X> {
    let (tokens, outputs) = (x.len() / inputs, w.len() / inputs);
    assert_eq!(dy.len(), tokens * outputs, "dy has the wrong length for the shape (T, O)");
    let of_x = |t: usize, i: usize| X::sum((0..outputs).map(|o| dy[t * outputs + o].mul(&w[o * inputs + i])));
    let of_w = |o: usize, i: usize| X::sum((0..tokens).map(|t| dy[t * outputs + o].mul(&x[t * inputs + i])));
    Gradients {
        x: (0..tokens).flat_map(|t| (0..inputs).map(move |i| (t, i))).map(|(t, i)| of_x(t, i)).collect(),
        w: (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))).map(|(o, i)| of_w(o, i)).collect(),
    }
}

/// Some of the columns of `rows: (T, width)`.
pub(super) fn columns<X: Number>(rows: &[X], width: usize, columns: Range<usize>) -> Vec<X> {
    rows.chunks_exact(width).flat_map(|row| &row[columns.clone()]).cloned().collect()
}

/// Parts side by side, (T, sum of their widths). Each part is given with its width, `(T, width)`.
pub(super) fn beside<X: Number>(tokens: usize, parts: &[(&[X], usize)]) -> Vec<X> {
    (0..tokens)
        .flat_map(|t| parts.iter().flat_map(move |(part, width)| &part[t * width..][..*width]))
        .cloned()
        .collect()
}
