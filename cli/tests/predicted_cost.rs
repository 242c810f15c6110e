//! Predicted times against those that were measured: the order must come out.
//!
//! `cargo test -p packscan --test predicted_cost -- --ignored fit --nocapture` fits the constants of the model to `data/h200.csv` and prints
//! them, with what they order when each variant is left out of the fit. A measured variant is a line `id,ms` more of that file.

use std::sync::Mutex;

use packscan::runtime::predict::{Constants, Gpu, Machine, Placed, Problem, Samples};
use packscan_verify::cost::{Cost, natural};
use packscan_verify::operators;

/// Ids and measured milliseconds.
const MEASURED: &str = include_str!("data/h200.csv");
/// The least rank correlations of forward, of backward and of all, a little below those in docs/performance.md: a kernel that changed and
/// was not measured again shows here.
const LEAST: [(&str, f64); 3] = [("selective_scan_fwd", 0.88), ("selective_scan_bwd", 0.93), ("selective_scan", 0.97)];

/// The GPU on which all were measured.
fn h200() -> &'static Gpu {
    Gpu::named("h200").expect("it is known")
}

fn problem(tokens: usize, channels: usize) -> Problem {
    natural(tokens, channels).expect("a pack")
}

/// A measured variant, and all that a prediction needs but the constants.
struct Row {
    id: &'static str,
    measured: f64,
    problem: Problem,
    launches: Vec<(Samples, Machine, Placed)>,
}

impl Row {
    fn new(id: &'static str, problem: Problem, measured: f64) -> Row {
        let job = operators::job(id).expect("an id of the table");
        let launches = Cost::of(&*job).and_then(|cost| {
            let whole = |launch: Samples| {
                let machine = launch.machine(h200())?;
                let placed = launch.place(h200(), &problem, &machine);
                Ok((launch, machine, placed))
            };
            cost.launches.into_iter().map(whole).collect()
        });
        let launches = launches.unwrap_or_else(|error| panic!("{id}: {error}"));
        Row { id, measured, problem, launches }
    }

    fn predicted(&self, constants: &Constants) -> f64 {
        let ms = |(launch, machine, placed): &(Samples, Machine, Placed)| {
            launch.predict_with(h200(), &self.problem, machine, placed, constants).ms
        };
        self.launches.iter().map(ms).sum()
    }
}

/// The rows of the table, in its order; as many at a time as there are cores.
fn measured() -> Vec<Row> {
    let lines: Vec<_> = MEASURED.lines().filter(|line| !line.starts_with('#')).enumerate().collect();
    let left = Mutex::new(lines.into_iter());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((at, line)) = left.lock().expect("no thread panicked").next() else { return };
                    let (id, ms) = line.split_once(',').expect("id,ms");
                    let row = Row::new(id, problem(65_536, 4096), ms.parse().expect("milliseconds"));
                    rows.lock().expect("no thread panicked").push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no thread panicked");
    rows.sort_by_key(|&(at, _)| at);
    rows.into_iter().map(|(_, row)| row).collect()
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

/// Prints how well the variants of `kernel` are ordered, and how far off they are (root mean square of the logarithms); returns the first.
fn ordered(what: &str, kernel: &str, rows: &[Row], predicted: &[f64]) -> f64 {
    let of_kernel = std::iter::zip(rows, predicted).filter(|(row, _)| row.id.starts_with(kernel));
    let (measured, told): (Vec<f64>, Vec<f64>) = of_kernel.map(|(row, &told)| (row.measured, told)).unzip();
    let found = rank_correlation(&told, &measured);
    let squares = std::iter::zip(&told, &measured).map(|(told, measured)| (told / measured).ln().powi(2));
    let off = (squares.sum::<f64>() / told.len() as f64).sqrt();
    println!("{what}{} variants of {kernel}: {found:.3}, off by {:.1} %", told.len(), 100.0 * off);
    found
}

/// Sizes at which they were measured as well as ids: operators whose limit is memory.
const MEMORY_BOUND: &str = include_str!("data/h200_memory_bound.csv");
/// By which factor a prediction of theirs may be off: the worst of the table, and a twentieth more. What the H200 reads without
/// writing comes faster than a copy, by which the model knows its memory; that is the worst.
const MEMORY_OFF: f64 = 1.15;
/// The same for a lookup. The rows of its table are a size of the operator's own that the small runs do not have, so reading them is not told.
const LOOKUP_OFF: f64 = 1.43;

/// A time that is off by more has a wrong count of bytes or of blocks behind it.
#[test]
fn what_memory_limits_is_predicted() {
    for row in MEMORY_BOUND.lines().filter(|line| !line.starts_with('#')) {
        let [id, tokens, channels, measured] = row.split(',').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let size = |text: &str| text.parse().expect("a size");
        let row = Row::new(id, problem(size(tokens), size(channels)), measured.parse().expect("milliseconds"));
        let told = row.predicted(&Constants::FITTED);
        println!("| {id} | {told:.3} | {measured} |");
        let most = if id.starts_with("embedding") { LOOKUP_OFF } else { MEMORY_OFF };
        let off = told / row.measured;
        assert!((1.0 / most..most).contains(&off), "{id}: {told:.3} ms predicted, {measured} measured");
    }
}

#[test]
fn the_order_of_measured_times_is_predicted() {
    let rows = measured();
    let told: Vec<f64> = rows.iter().map(|row| row.predicted(&Constants::FITTED)).collect();
    println!("| variant | predicted | measured |\n|---|---|---|");
    for (row, told) in std::iter::zip(&rows, &told) {
        println!("| {} | {told:.3} | {:.3} |", row.id, row.measured);
    }
    for (kernel, least) in LEAST {
        let found = ordered("", kernel, &rows, &told);
        assert!(found >= least, "the rank correlation of {kernel} fell to {found:.3}, below {least}");
    }
}

/// What a fit makes small: the sum of how far off predictions are, twice as far counting twice; so a variant that the model does not
/// understand does not bend the constants.
fn badness(rows: &[&Row], constants: &Constants) -> f64 {
    rows.iter().map(|row| (row.predicted(constants) / row.measured).ln().hypot(0.05)).sum()
}

/// The best constants of a grid, which is finer than they can be told.
fn fitted(rows: &[&Row]) -> Constants {
    let grid = (10..=60).flat_map(|h| (14..=25).map(move |w| (0.05 * f64::from(h), 0.05 * f64::from(w))));
    let constants = grid.map(|(half_busy_warps, wavefronts_kept)| Constants { half_busy_warps, wavefronts_kept });
    let told = constants.map(|constants| (badness(rows, &constants), constants));
    told.min_by(|a, b| a.0.total_cmp(&b.0)).expect("a grid").1
}

#[test]
#[ignore = "prints the constants that fit the measured times"]
fn fit() {
    let rows = measured();
    let all: Vec<&Row> = rows.iter().collect();
    let constants = fitted(&all);
    println!("fitted to all: {constants:.2?}");
    let tell = |what: &str, predicted: &dyn Fn(&Row) -> f64| {
        let told: Vec<f64> = rows.iter().map(predicted).collect();
        LEAST.map(|(kernel, _)| ordered(what, kernel, &rows, &told))
    };
    tell("in sample, ", &|row| row.predicted(&constants));
    tell("each left out of the fit, ", &|row| {
        let others: Vec<&Row> = rows.iter().filter(|other| other.id != row.id).collect();
        row.predicted(&fitted(&others))
    });
    for kernel in ["selective_scan_fwd", "selective_scan_bwd"] {
        let own: Vec<&Row> = rows.iter().filter(|row| row.id.starts_with(kernel)).collect();
        let constants = fitted(&own);
        println!("fitted to {kernel} alone: {constants:.2?}");
        tell("  ", &|row| row.predicted(&constants));
    }
}
