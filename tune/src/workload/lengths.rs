//! Lengths of sequences as natural text has them.

use packscan_verify::Random;

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
