//! How full packs are on lengths as documents have them.

#[path = "common/lengths.rs"]
mod lengths;

use packscan_data::{PackOptions, Plans, Scheme, Strategy};

/// The share of 4096-token packs that is empty.
fn padding(strategy: Strategy, lengths: &[u32]) -> f64 {
    let options = PackOptions { epochs: Some(1), ..PackOptions::new(4096, Scheme::Packed(strategy)) };
    let plans = Plans::new(lengths, options.clone()).unwrap();
    let (real, cost) = plans.fold((0, 0), |sum, plan| (sum.0 + plan.real(), sum.1 + plan.cost(&options)));
    assert_eq!(real, lengths.iter().map(|length| *length as usize).sum::<usize>());
    1.0 - real as f64 / cost as f64
}

#[test]
fn best_fit_leaves_less_than_a_thousandth_empty() {
    let lengths = lengths::log_normal(100_000);
    let best = padding(Strategy::default(), &lengths);
    assert!(best < 0.001, "{best}");
    let first = padding(Strategy::FirstFit, &lengths);
    let sequential = padding(Strategy::Sequential, &lengths);
    assert!(best < first && first < sequential, "{best} {first} {sequential}");
    assert!(padding(Strategy::Split, &lengths) < 1e-4, "only the last pack is not full");
}
