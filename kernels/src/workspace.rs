//! Partial sums that a caller keeps between calls: the part of them that one call needs.

use packscan_runtime::{Buffer, Error, Result, View};

/// `(rows, cols)` f32 at the start of a workspace's buffer, which is made for the largest call.
///
/// # Errors
/// [`Error::Argument`] for a workspace that was made for less.
pub(crate) fn part(buffer: &Buffer, rows: usize, cols: usize) -> Result<View<'_>> {
    buffer.part(0, rows, cols).map_err(|_| Error::Argument {
        argument: "workspace",
        got: format!("made for {} partial sums, but this call has {}", buffer.len(), rows * cols),
        rule: "make it for this variant, as many channels and at least as many tokens".to_owned(),
    })
}
