//! Sums of rows.
//!
//! ```text
//! out[b, c] = old[b, c] + sum over r of parts[b, r, c]        the first term is optional
//! ```

use crate::Number;

/// What is summed.
pub struct Inputs<'a, X> {
    /// Groups of rows, B.
    pub groups: usize,
    /// Rows of a group, R.
    pub rows: usize,
    /// Columns, C.
    pub columns: usize,
    /// The rows, (B, R, C).
    pub parts: &'a [X],
    /// What the sums are added to, (B, C).
    pub old: Option<&'a [X]>,
}

/// The sums, (B, C).
///
/// # Panics
///
/// Where the length of a slice is not that of its shape.
pub fn forward<X: Number>(inputs: &Inputs<'_, X>) -> Vec<X> {
    let Inputs { groups, rows, columns, parts, old } = *inputs;
    assert_eq!(parts.len(), groups * rows * columns, "parts has the wrong length for the shape (B, R, C)");
    old.iter().for_each(|old| assert_eq!(old.len(), groups * columns, "old has the wrong length for the shape (B, C)"));
    let mut out = Vec::with_capacity(groups * columns);
    for b in 0..groups {
        for c in 0..columns {
            let sum = X::sum((0..rows).map(|r| parts[(b * rows + r) * columns + c].clone()));
            out.push(old.map_or(sum.clone(), |old| old[b * columns + c].add(&sum)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_columns_are_summed_by_themselves() {
        let parts: Vec<f64> = (0..12).map(f64::from).collect();
        let inputs = Inputs { groups: 2, rows: 3, columns: 2, parts: &parts, old: None };
        assert_eq!(forward(&inputs), [6.0, 9.0, 24.0, 27.0]);
        let old = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(forward(&Inputs { old: Some(&old), ..inputs }), [7.0, 11.0, 27.0, 31.0]);
    }
}
