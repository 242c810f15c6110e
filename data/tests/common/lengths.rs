//! The lengths of documents as they are.

/// Log-normal with mu 6.2 and sigma 0.8, clipped to 57..=2048; the same on every machine but for the last bit of a logarithm.
pub fn log_normal(count: usize) -> Vec<u32> {
    let mut state = 0u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut normal = move || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| (6.2 + 0.8 * normal()).exp().round().clamp(57.0, 2048.0) as u32).collect()
}
