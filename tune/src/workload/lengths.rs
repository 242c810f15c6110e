//! Lengths of sequences from a file.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// The numbers in a file, with spaces or line ends between them.
///
/// # Errors
/// [`Error::File`] and [`Error::Length`].
pub fn read_lengths(path: &Path) -> Result<Vec<usize>> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let words = text.lines().enumerate().flat_map(|(i, line)| line.split_whitespace().map(move |word| (i + 1, word)));
    let length = |(line, word): (usize, &str)| {
        word.parse().map_err(|_| Error::Length { path: path.to_owned(), line, got: word.to_owned() })
    };
    words.map(length).collect()
}
