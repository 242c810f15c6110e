//! Predicted times against those that were measured: the order must come out.

use std::collections::HashMap;
use std::sync::Mutex;

use packscan::runtime::predict::Gpu;
use packscan_verify::cost::{Cost, natural};
use packscan_verify::operators;

/// Ids and measured milliseconds.
const MEASURED: &str = include_str!("data/h200.csv");
/// The least rank correlations of forward, of backward and of all, a little below those in docs/performance.md: a kernel that changed and
/// was not measured again shows here.
const LEAST: [(&str, f64); 3] = [("selective_scan_fwd", 0.5), ("selective_scan_bwd", 0.8), ("selective_scan", 0.9)];

fn measured() -> Vec<(&'static str, f64)> {
    let rows = MEASURED.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| line.split_once(',').expect("id,ms"))
        .map(|(id, ms)| (id, ms.parse().expect("milliseconds")))
        .collect()
}

/// The rank of each number, 0 for the least; equal numbers share the mean of their ranks.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let below = |x: f64| numbers.iter().filter(|&&y| y < x).count() as f64;
    let equal = |x: f64| numbers.iter().filter(|&&y| y == x).count() as f64;
    numbers.iter().map(|&x| below(x) + (equal(x) - 1.0) / 2.0).collect()
}

/// Spearman's: the correlation of the ranks.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| std::iter::zip(x, y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

#[test]
fn rank_correlation_is_spearmans() {
    assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 20.0, 21.0]), 1.0);
    assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, -1.0]), -1.0);
    assert_eq!(rank_correlation(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]), 0.8);
}

/// Sizes at which they were measured as well as ids: operators whose limit is memory.
const MEMORY_BOUND: &str = include_str!("data/h200_memory_bound.csv");

/// A time that is off by more has a wrong count of bytes or of blocks behind it.
#[test]
fn what_memory_limits_is_predicted_within_two_fifths() {
    let gpu = Gpu::named("h200").expect("it is known");
    for row in MEMORY_BOUND.lines().filter(|line| !line.starts_with('#')) {
        let [id, tokens, channels, measured] = row.split(',').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let size = |text: &str| text.parse().expect("a size");
        let job = operators::job(id).expect("an id of the table");
        let launches = Cost::of(&*job).and_then(|cost| cost.predict(gpu, &natural(size(tokens), size(channels))));
        let told = launches.unwrap_or_else(|error| panic!("{id}: {error}")).iter().map(|launch| launch.ms).sum::<f64>();
        let measured: f64 = measured.parse().expect("milliseconds");
        println!("| {id} | {told:.3} | {measured:.3} |");
        assert!((1.0 / 1.4..1.4).contains(&(told / measured)), "{id}: {told:.3} ms predicted, {measured:.3} measured");
    }
}

#[test]
fn the_order_of_measured_times_is_predicted() {
    let (gpu, problem) = (Gpu::named("h200").expect("it is known"), natural(65_536, 4096));
    let rows = measured();
    let left = Mutex::new(rows.iter().map(|row| row.0));
    let told = Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(id) = left.lock().expect("no thread panicked").next() else { return };
                    let job = operators::job(id).expect("an id of the table");
                    let launches = Cost::of(&*job).and_then(|cost| cost.predict(gpu, &problem));
                    let launches = launches.unwrap_or_else(|error| panic!("{id}: {error}"));
                    let ms = launches.iter().map(|launch| launch.ms).sum::<f64>();
                    told.lock().expect("no thread panicked").insert(id, ms);
                }
            });
        }
    });
    let told = told.into_inner().expect("no thread panicked");

    println!("| variant | predicted | measured |\n|---|---|---|");
    for (id, ms) in &rows {
        println!("| {id} | {:.2} | {ms:.2} |", told[id]);
    }
    let correlation = |kernel: &str| {
        let of_kernel: Vec<_> = rows.iter().filter(|row| row.0.starts_with(kernel)).collect();
        let predicted: Vec<f64> = of_kernel.iter().map(|row| told[row.0]).collect();
        let measured: Vec<f64> = of_kernel.iter().map(|row| row.1).collect();
        println!("{} variants of {kernel}: {:.3}", measured.len(), rank_correlation(&predicted, &measured));
        rank_correlation(&predicted, &measured)
    };
    for (kernel, least) in LEAST {
        let found = correlation(kernel);
        assert!(found >= least, "the rank correlation of {kernel} fell to {found:.3}, below {least}");
    }
}
