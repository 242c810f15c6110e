//! From metrics and lengths to the plots of a page.

use super::Metrics;
use super::number::{self, counted, fixed, nearest_rank, percent, significant, thousands};
use super::plot::{Axis, Mark, Plot, Scale, Series, Tone};

/// The most points of a line: a run of a million steps draws as fast, and as small, as one of a thousand.
const BINS: usize = 360;

/// A step's number and a value of it.
type Point = (f64, f64);

/// Loss over steps.
pub(super) fn loss_plot(metrics: &[Metrics]) -> Plot {
    let losses = column(metrics, |m| m.loss);
    let smooth = smoothed(&losses);
    let held_out: Vec<Point> =
        column(metrics, |m| m.held_out_loss.unwrap_or(f64::NAN)).into_iter().filter(placed).collect();
    let skipped: Vec<Point> = metrics.iter().filter(|m| m.skipped).map(|m| (m.step as f64, 0.0)).collect();
    // The steep beginning may leave the top of the plot: what the rest does would else be a flat line at the bottom.
    let seen = within(&losses, 0.002, 0.98).into_iter().chain(ys(&held_out)).chain(ys(&smooth).last());
    let described = match (smooth.iter().find(|p| placed(p)), smooth.iter().rfind(|p| placed(p))) {
        (Some(first), Some(last)) => {
            format!("Smoothed, from {} to {} nats a token.", fixed(first.1, 3), fixed(last.1, 3))
        }
        _ => "No finite loss yet.".to_owned(),
    };
    let crosses = format!("skipped ({})", thousands(skipped.len() as u64));
    Plot {
        title: "Loss over steps".to_owned(),
        description: described,
        x: steps_axis(metrics),
        y: Axis::over("nats a token (logarithmic)", Scale::Log, seen).rounded(),
        notes: Vec::new(),
        readings: readings(&smooth, |step, loss| {
            let held_out = held_out.iter().rfind(|point| point.0 <= step);
            let held_out =
                held_out.map(|(at, loss)| format!(" · held out {} at {}", fixed(*loss, 3), thousands(*at as u64)));
            let held_out = held_out.unwrap_or_default();
            format!("loss {}{held_out}", fixed(loss, 3))
        }),
        series: vec![
            series("each step", Mark::Faint, Tone::First, envelope(&losses)),
            series("smoothed", Mark::Line, Tone::First, smooth),
            series("held out", Mark::Dots, Tone::Second, thinned(held_out)),
            series(&crosses, Mark::Crosses, Tone::Bad, thinned(skipped)),
        ],
    }
}

/// Tokens a second over steps.
pub(super) fn throughput_plot(metrics: &[Metrics]) -> Plot {
    let rates = column(metrics, |m| m.tokens_per_second);
    let smooth = smoothed(&rates);
    let seen = within(&rates, 0.0, 0.995).into_iter().chain(ys(&smooth)).chain([0.0]);
    Plot {
        title: "Throughput".to_owned(),
        description: format!("Median {} tokens a second.", fixed(median(ys(&rates)), 0)),
        x: steps_axis(metrics),
        y: Axis::over("tokens/s", Scale::Linear, seen).rounded(),
        notes: Vec::new(),
        readings: readings(&smooth, |_, rate| format!("{} tokens/s", fixed(rate, 0))),
        series: vec![
            series("each step", Mark::Faint, Tone::First, envelope(&rates)),
            series("smoothed", Mark::Line, Tone::First, smooth),
        ],
    }
}

/// The learning rate over steps, in a power of ten that leaves short ticks.
pub(super) fn learning_rate_plot(metrics: &[Metrics]) -> Plot {
    let rates = column(metrics, |m| m.learning_rate);
    let highest = ys(&rates).filter(|rate| rate.is_finite()).fold(0.0, f64::max);
    let power = if highest > 0.0 { highest.log10().floor() as i32 } else { 0 };
    let unit = 10f64.powi(power);
    let drawn: Vec<Point> = binned(&rates).into_iter().map(|bin| (bin.x, bin.mean / unit)).collect();
    let label = if power == 0 { "rate".to_owned() } else { format!("× 10{}", superscript(power)) };
    Plot {
        title: "Learning rate".to_owned(),
        description: format!("Highest {}.", significant(highest, 3)),
        x: steps_axis(metrics),
        y: Axis::over(&label, Scale::Linear, ys(&drawn).chain([0.0])).rounded(),
        notes: Vec::new(),
        readings: readings(&drawn, |_, rate| significant(rate * unit, 3)),
        series: vec![series("", Mark::Line, Tone::First, drawn)],
    }
}

/// The gradient's norm over steps.
pub(super) fn gradient_norm_plot(metrics: &[Metrics]) -> Plot {
    let norms = column(metrics, |m| m.gradient_norm);
    let smooth = smoothed(&norms);
    let seen = within(&norms, 0.002, 0.998).into_iter().chain(ys(&smooth));
    Plot {
        title: "Gradient norm".to_owned(),
        description: format!("Before clipping; median {}.", significant(median(ys(&norms)), 3)),
        x: steps_axis(metrics),
        y: Axis::over("norm (logarithmic)", Scale::Log, seen).rounded(),
        notes: Vec::new(),
        readings: readings(&smooth, |_, norm| significant(norm, 3)),
        series: vec![
            series("each step", Mark::Faint, Tone::First, envelope(&norms)),
            series("smoothed", Mark::Line, Tone::First, smooth),
        ],
    }
}

/// A histogram of documents by length, over a logarithmic axis, three columns an octave: the share of all documents that each
/// column holds, and the share of all tokens. Lengths come as `(tokens, documents)` in any order, and may repeat.
pub fn lengths_plot(lengths: &[(u64, u64)]) -> Plot {
    let (mut documents, mut tokens) = (0.0, 0.0);
    let longest = lengths.iter().filter(|(_, count)| *count > 0).map(|(length, _)| *length).max().unwrap_or(0);
    let shortest = lengths
        .iter()
        .filter(|(length, count)| *length > 0 && *count > 0)
        .map(|(length, _)| *length)
        .min()
        .unwrap_or(1);
    let edges = length_edges(shortest, longest);
    let mut columns = vec![(0.0, 0.0); edges.len()];
    for &(length, count) in lengths.iter().filter(|(length, count)| *length > 0 && *count > 0) {
        let count = count as f64;
        let column = &mut columns[edges.partition_point(|edge| *edge <= length) - 1];
        column.0 += count;
        column.1 += count * length as f64;
        documents += count;
        tokens += count * length as f64;
    }
    let xs = || edges.iter().map(|edge| *edge as f64);
    let shares = |of: fn(&(f64, f64)) -> f64, all: f64| -> Vec<Point> {
        if all > 0.0 { xs().zip(columns.iter().map(|column| 100.0 * of(column) / all)).collect() } else { Vec::new() }
    };
    let (by_documents, by_tokens) = (shares(|c| c.0, documents), shares(|c| c.1, tokens));
    let readings = edges.windows(2).zip(by_documents.iter().zip(&by_tokens)).map(|(range, (document, token))| {
        let [from, to] = [range[0], range[1] - 1].map(thousands);
        let lengths = if from == to { from } else { format!("{from} to {to}") };
        let middle = (range[0] as f64 * range[1] as f64).sqrt();
        (
            middle,
            format!("{lengths} tokens: {} % of documents, {} % of tokens", fixed(document.1, 1), fixed(token.1, 1)),
        )
    });
    Plot {
        title: "Lengths of documents".to_owned(),
        description: lengths_summary(lengths),
        x: Axis::over("tokens in a document (logarithmic)", Scale::Log, xs()),
        y: Axis::over("%", Scale::Linear, ys(&by_documents).chain(ys(&by_tokens)).chain([0.0])).rounded(),
        notes: Vec::new(),
        readings: readings.collect(),
        series: vec![
            series("of documents", Mark::Bars, Tone::First, by_documents),
            series("of tokens", Mark::Outline, Tone::Second, by_tokens),
        ],
    }
}

/// How many documents of which lengths, in a sentence.
pub(super) fn lengths_summary(lengths: &[(u64, u64)]) -> String {
    let mut sorted: Vec<(u64, u64)> =
        lengths.iter().copied().filter(|(length, count)| *length > 0 && *count > 0).collect();
    sorted.sort_unstable();
    let documents: u64 = sorted.iter().map(|(_, count)| count).sum();
    let empty: u64 = lengths.iter().filter(|(length, _)| *length == 0).map(|(_, count)| count).sum();
    let Some((longest, _)) = sorted.last() else { return "No documents.".to_owned() };
    let tokens: f64 = sorted.iter().map(|(length, count)| *length as f64 * *count as f64).sum();
    let (mut below, middle) = (0, nearest_rank(documents as usize, 50) as u64);
    let median = sorted.iter().find(|(_, count)| {
        below += count;
        below > middle
    });
    format!(
        "{}; median {}, mean {}, longest {}{}.",
        counted(documents, "document"),
        thousands(median.map_or(0, |(length, _)| *length)),
        fixed(tokens / documents as f64, 0),
        counted(*longest, "token"),
        if empty > 0 { format!("; {} empty, not shown", thousands(empty)) } else { String::new() }
    )
}

/// The left edges of the columns that hold lengths from the shortest to the longest, and the right edge of the last: whole
/// numbers, three an octave.
fn length_edges(shortest: u64, longest: u64) -> Vec<u64> {
    let mut edges = vec![1];
    for third in 1.. {
        let edge = 2f64.powf(f64::from(third) / 3.0).round() as u64;
        if edge <= shortest {
            edges[0] = edge;
        } else if edges.last() != Some(&edge) {
            edges.push(edge);
        }
        // No document is longer than that; a number that claims so counts in the last column.
        if edge > longest.min(1 << 48) {
            return edges;
        }
    }
    edges
}

/// The mean of the losses that the end of the smoothed line is made of, and of how many steps.
pub(super) fn last_loss(metrics: &[Metrics]) -> Option<(f64, usize)> {
    let losses = column(metrics, |m| m.loss);
    let tail = &losses[losses.len().saturating_sub(reach(losses.len()) + 1)..];
    let finite: Vec<f64> = ys(tail).filter(|y| y.is_finite()).collect();
    (!finite.is_empty()).then(|| (finite.iter().sum::<f64>() / finite.len() as f64, finite.len()))
}

/// The middle one of the finite values, the lower of two; NaN if there is none.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    finite.sort_unstable_by(f64::total_cmp);
    finite.get(nearest_rank(finite.len(), 50)).copied().unwrap_or(f64::NAN)
}

fn column(metrics: &[Metrics], value: impl Fn(&Metrics) -> f64) -> Vec<Point> {
    metrics.iter().map(|m| (m.step as f64, value(m))).collect()
}

fn ys(points: &[Point]) -> impl Iterator<Item = f64> {
    points.iter().map(|point| point.1)
}

fn placed(point: &Point) -> bool {
    point.1.is_finite()
}

fn series(name: &str, mark: Mark, tone: Tone, points: Vec<Point>) -> Series {
    Series { name: name.to_owned(), mark, tone, points }
}

fn steps_axis(metrics: &[Metrics]) -> Axis {
    Axis::over("step", Scale::Linear, metrics.iter().map(|m| m.step as f64)).whole()
}

/// A reading for each finite point.
fn readings(points: &[Point], text: impl Fn(f64, f64) -> String) -> Vec<(f64, String)> {
    let finite = points.iter().filter(|point| placed(point));
    finite.map(|&(x, y)| (x, format!("step {}: {}", thousands(x.round() as u64), text(x, y)))).collect()
}

/// Steps that are drawn as one.
struct Bin {
    x: f64,
    low: f64,
    high: f64,
    mean: f64,
}

/// At most [`BINS`] bins of equally many steps. What is not finite is passed over; a bin without anything else has NaN.
fn binned(points: &[Point]) -> Vec<Bin> {
    let bin = |points: &[Point]| {
        let finite = || ys(points).filter(|y| y.is_finite());
        Bin {
            x: points.iter().map(|point| point.0).sum::<f64>() / points.len() as f64,
            low: finite().fold(f64::NAN, f64::min),
            high: finite().fold(f64::NAN, f64::max),
            mean: finite().sum::<f64>() / finite().count() as f64,
        }
    };
    points.chunks(points.len().div_ceil(BINS).max(1)).map(bin).collect()
}

/// The lowest and the highest value of each bin, so that no spike is lost.
fn envelope(points: &[Point]) -> Vec<Point> {
    let corners =
        |bin: Bin| if bin.low == bin.high { vec![(bin.x, bin.low)] } else { vec![(bin.x, bin.low), (bin.x, bin.high)] };
    binned(points).into_iter().flat_map(corners).collect()
}

/// How many steps to either side a smoothed value looks.
fn reach(steps: usize) -> usize {
    (steps / 80).clamp(2, 500)
}

/// For one step of each bin, the mean of the steps around it; at the beginning, where values fall fast, of as many before it as after.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let mut sums = vec![(0.0, 0u32)];
    let mut sum = (0.0, 0);
    for y in ys(points) {
        sum = if y.is_finite() { (sum.0 + y, sum.1 + 1) } else { sum };
        sums.push(sum);
    }
    let reach = reach(points.len());
    let every = points.len().div_ceil(BINS).max(1);
    let last = points.len().saturating_sub(1);
    let drawn = (0..last).step_by(every);
    // The line ends at the last step, whatever the bins.
    let mean = |i: usize| {
        let (from, to) = (i - reach.min(i), (i + reach.min(i)).min(last) + 1);
        let (sum, count) = (sums[to].0 - sums[from].0, sums[to].1 - sums[from].1);
        (points[i].0, sum / f64::from(count))
    };
    drawn.chain((!points.is_empty()).then_some(last)).map(mean).collect()
}

/// The values without the lowest and the highest shares, so that one spike does not flatten all else.
fn within(points: &[Point], low: f64, high: f64) -> Vec<f64> {
    let mut finite: Vec<f64> = ys(points).filter(|y| y.is_finite()).collect();
    finite.sort_unstable_by(f64::total_cmp);
    let last = finite.len().saturating_sub(1) as f64;
    let (from, to) = ((last * low).floor() as usize, (last * high).ceil() as usize);
    finite.get(from..=to).map(<[f64]>::to_vec).unwrap_or_default()
}

/// At most [`BINS`] of the points, evenly, the last among them.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    let every = points.len().div_ceil(BINS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(every)).map(|(_, point)| point).collect()
}

fn superscript(power: i32) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        c => c.to_digit(10).and_then(|d| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(d as usize)).unwrap_or(c),
    };
    power.to_string().chars().map(raised).collect()
}

/// The padding of the whole run, in percent of the room of its packs.
pub(super) fn weighted_padding(metrics: &[Metrics]) -> String {
    let finite = || metrics.iter().filter(|m| m.padding.is_finite() && m.padding < 1.0);
    let room = |m: &Metrics| m.tokens as f64 / (1.0 - m.padding);
    let all: f64 = finite().map(room).sum();
    if all > 0.0 {
        percent(finite().map(|m| room(m) * m.padding).sum::<f64>() / all, 2)
    } else {
        number::NONE.to_owned()
    }
}
