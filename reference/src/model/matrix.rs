//! The product with a transposed matrix, as every projection of the model is one: `y = x W^T`.
//!
//! ```text
//! y[t, o]  = sum_i x[t, i] * w[o, i]
//! dx[t, i] = sum_o dy[t, o] * w[o, i]
//! dw[o, i] = sum_t dy[t, o] * x[t, i]
//! ```

use std::ops::Range;

/// y, (T, O), of `inputs` = I: `x: (T, I)`, `w: (O, I)`.
pub(super) fn forward(inputs: usize, x: &[f64], w: &[f64]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len() / inputs * (w.len() / inputs));
    for x in x.chunks_exact(inputs) {
        for w in w.chunks_exact(inputs) {
            y.push(x.iter().zip(w).map(|(x, w)| x * w).sum());
        }
    }
    y
}

/// The gradients.
pub(super) struct Gradients {
    /// (T, I)
    pub x: Vec<f64>,
    /// (O, I)
    pub w: Vec<f64>,
}

/// The gradients, given `dy: (T, O)`.
pub(super) fn backward(inputs: usize, x: &[f64], w: &[f64], dy: &[f64]) -> Gradients {
    let (tokens, outputs) = (x.len() / inputs, w.len() / inputs);
    assert_eq!(dy.len(), tokens * outputs, "dy has the wrong length for the shape (T, O)");
    let mut gradients = Gradients { x: vec![0.0; x.len()], w: vec![0.0; w.len()] };
    for t in 0..tokens {
        for o in 0..outputs {
            for i in 0..inputs {
                gradients.x[t * inputs + i] += dy[t * outputs + o] * w[o * inputs + i];
                gradients.w[o * inputs + i] += dy[t * outputs + o] * x[t * inputs + i];
            }
        }
    }
    gradients
}

/// Some of the columns of `rows: (T, width)`.
pub(super) fn columns(rows: &[f64], width: usize, columns: Range<usize>) -> Vec<f64> {
    rows.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// Parts side by side, (T, sum of their widths). Each part is given with its width, `(T, width)`.
pub(super) fn beside(tokens: usize, parts: &[(&[f64], usize)]) -> Vec<f64> {
    (0..tokens)
        .flat_map(|t| parts.iter().flat_map(move |(part, width)| &part[t * width..][..*width]))
        .copied()
        .collect()
}
