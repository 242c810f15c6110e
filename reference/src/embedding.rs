//! The embedding, forward and backward.
//!
//! ```text
//! out[t]    = table[ids[t]]
//! dtable[v] = sum over the t with ids[t] = v of dout[t]
//! ```

use crate::Number;

/// The row of each token, (T, M). `table: (V, M)`, `ids: (T)`.
///
/// # Panics
///
/// Where an id is not below V.
pub fn forward<X: Number>(width: usize, table: &[X], ids: &[usize]) -> Vec<X> {
    ids.iter().flat_map(|id| &table[id * width..][..width]).cloned().collect()
}

/// The gradient of the table, (V, M). `dout: (T, M)`, `ids: (T)`.
///
/// # Panics
///
/// Where the length of `dout` is not that of its shape.
pub fn backward<X: Number>(width: usize, vocabulary: usize, dout: &[X], ids: &[usize]) -> Vec<X> {
    assert_eq!(dout.len(), ids.len() * width, "dout has the wrong length for the shape (T, M)");
    let mut dtable = Vec::with_capacity(vocabulary * width);
    for v in 0..vocabulary {
        let tokens: Vec<usize> = (0..ids.len()).filter(|&t| ids[t] == v).collect();
        dtable.extend((0..width).map(|m| X::sum(tokens.iter().map(|t| dout[t * width + m].clone()))));
    }
    dtable
}
