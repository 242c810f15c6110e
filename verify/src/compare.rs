//! Comparisons that assert positively, so that NaN fails, and say where.

use std::fmt;

use packscan_reference::Bounded;
use packscan_runtime::Packed;

use crate::{Rows, Tensor};

/// The first element that is not what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The output.
    pub tensor: &'static str,
    /// The sequence that the element belongs to.
    pub sequence: Option<usize>,
    /// What the row is, `token 17`.
    pub row: String,
    /// The element of the row; the channel, for outputs of shape `(T, D)`.
    pub column: usize,
    /// What was computed.
    pub got: f32,
    /// What it should be.
    pub want: f64,
    /// How far off it may be; 0 where every bit counts.
    pub bound: f64,
    /// How many elements of the output are wrong.
    pub count: usize,
    /// Of so many that were compared.
    pub of: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { tensor, row, column, got, want, bound, count, of, .. } = self;
        write!(f, "{tensor}")?;
        if let Some(s) = self.sequence {
            write!(f, ", sequence {s}")?;
        }
        write!(f, ", {row}, element {column}: got {got:e}, want {want:e}, ")?;
        if *bound == 0.0 {
            write!(f, "every bit")?;
        } else {
            write!(f, "within {bound:.3e} (off by {:.3e})", (f64::from(*got) - want).abs())?;
        }
        write!(f, "; {count} of {of} elements are wrong")
    }
}

/// Compares those outputs that are given with the book's; returns the largest error as a share of its bound.
///
/// # Errors
/// As [`agrees`].
pub(crate) fn all_agree(
    packed: &Packed,
    outputs: &[Option<Tensor>],
    book: &[Vec<Bounded>],
) -> Result<f64, Box<Mismatch>> {
    let compared = std::iter::zip(outputs, book).filter_map(|(got, want)| Some((got.as_ref()?, want)));
    compared.map(|(got, want)| agrees(got, want, packed)).try_fold(0.0, |worst: f64, error| Ok(worst.max(error?)))
}

/// Compares with the book; returns the largest error as a share of its bound.
///
/// # Errors
/// The first element outside its bound, or whose bound is not finite (the data were chosen too large to tell).
pub(crate) fn agrees(got: &Tensor, want: &[Bounded], packed: &Packed) -> Result<f64, Box<Mismatch>> {
    assert_eq!(got.values.len(), want.len(), "{} has another shape in the book", got.name);
    let mut worst = 0.0f64;
    let wrong = std::iter::zip(&got.values, want).enumerate().filter(|(_, (got, want))| {
        let error = (f64::from(**got) - want.value).abs();
        worst = worst.max(if error == 0.0 { 0.0 } else { error / want.error });
        !(want.error.is_finite() && want.allows(f64::from(**got)))
    });
    match found(got, wrong.map(|(i, (_, want))| (i, want.value, want.error)), packed, want.len()) {
        Some(mismatch) => Err(mismatch),
        None => Ok(worst),
    }
}

/// Compares rows of two runs bit by bit; `pairs` are rows of `got` and of `want`.
///
/// # Errors
/// The first element that differs.
pub(crate) fn same_bits(
    got: &Tensor,
    want: &Tensor,
    pairs: impl Iterator<Item = (usize, usize)> + Clone,
    packed: &Packed,
) -> Result<(), Box<Mismatch>> {
    let of = pairs.clone().count() * got.cols;
    let wrong = pairs.flat_map(|(g, w)| {
        let row = std::iter::zip(got.row(g), want.row(w)).enumerate();
        row.filter(|(_, (a, b))| a.to_bits() != b.to_bits())
            .map(move |(column, (_, want))| (g * got.cols + column, f64::from(*want), 0.0))
    });
    found(got, wrong, packed, of).map_or(Ok(()), Err)
}

/// The first of the wrong elements, given as index, wanted value and bound.
fn found(
    got: &Tensor,
    mut wrong: impl Iterator<Item = (usize, f64, f64)>,
    packed: &Packed,
    of: usize,
) -> Option<Box<Mismatch>> {
    let (i, want, bound) = wrong.next()?;
    let (row, column) = (i / got.cols, i % got.cols);
    let sequence = (0..packed.sequences()).find(|&s| got.rows.of_sequence(packed, s).contains(&row));
    let row = match got.rows {
        Rows::Tokens => format!("token {row}"),
        Rows::Sequences => "its state".to_owned(),
        Rows::Chunks(n) => format!("token {}", row * n),
        Rows::Shared(_) => format!("row {row}"),
    };
    let (got_value, count) = (got.values[i], 1 + wrong.count());
    Some(Box::new(Mismatch { tensor: got.name, sequence, row, column, got: got_value, want, bound, count, of }))
}
