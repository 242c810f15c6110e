//! How fast and how full: `cargo run --release -p packscan-data --example packing`.
//!
//! A million documents whose lengths are log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048 tokens, in packs of 4096.

use std::time::Instant;

use packscan_data::{PackOptions, Plans, Scheme, Strategy};

#[path = "../tests/common/lengths.rs"]
mod lengths;

fn main() -> packscan_data::Result<()> {
    let lengths = lengths::log_normal(1_000_000);
    println!("{:<48} {:>9} {:>9} {:>14}", "scheme", "padding", "packs", "sequences/s");
    for scheme in [
        Scheme::Packed(Strategy::Sequential),
        Scheme::Packed(Strategy::FirstFit),
        Scheme::Packed(Strategy::BestFitDecreasing { window: 1024 }),
        Scheme::Packed(Strategy::BestFitDecreasing { window: 4096 }),
        Scheme::Packed(Strategy::default()),
        Scheme::Packed(Strategy::Split),
        Scheme::Single,
        Scheme::Padded { batch: 8 },
    ] {
        let tokens = if let Scheme::Padded { batch } = scheme { 4096 * batch } else { 4096 };
        let options = PackOptions { epochs: Some(1), ..PackOptions::new(tokens, scheme) };
        let start = Instant::now();
        let (mut packs, mut real, mut cost) = (0, 0, 0);
        for plan in Plans::new(&lengths, options.clone())? {
            packs += 1;
            real += plan.real();
            cost += plan.cost(&options);
        }
        let rate = lengths.len() as f64 / start.elapsed().as_secs_f64();
        let padding = 100.0 * (cost - real) as f64 / cost as f64;
        println!("{:<48} {padding:>7.3} % {packs:>9} {rate:>14.0}", format!("{scheme:?}"));
    }
    Ok(())
}
