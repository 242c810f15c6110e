//! Lengths of sequences: as natural text has them, or from a file.

use std::fs;
use std::path::Path;

use packscan_verify::Random;

use crate::{Error, Result};

/// Lengths that fill `tokens`: log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048, the last cut.
pub fn natural_lengths(tokens: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed, "lengths");
    let mut left = tokens;
    let mut lengths = Vec::new();
    while left > 0 {
        // Box-Muller: a normal number from two uniform ones.
        let (radius, angle) = (random.between(1e-6, 1.0), random.between(0.0, std::f32::consts::TAU));
        let normal = (-2.0 * radius.ln()).sqrt() * angle.cos();
        let length = ((6.2 + 0.8 * normal).exp() as usize).clamp(57, 2048).min(left);
        lengths.push(length);
        left -= length;
    }
    lengths
}

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
