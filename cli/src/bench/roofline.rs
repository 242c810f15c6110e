//! A picture of what was measured: operations for each byte against operations a second, under the roofs of the GPU.

use packscan_train::report::number::percent;
use packscan_train::report::plot::{Axis, Mark, Note, Plot, Scale, Series, Size, Tone};
use packscan_tune::report::{Report, Row};
use packscan_tune::workload::{Limit, Machine};

/// Width and height of the picture.
const PICTURE: Size = Size { width: 960, height: 600 };
/// Operations a second of the vertical axis's unit.
const TERA: f64 = 1e12;

/// The picture, an SVG file that needs nothing beside it. What computes nothing has no place in it.
pub fn svg(report: &Report) -> String {
    plot(report).standalone(PICTURE)
}

fn plot(report: &Report) -> Plot {
    let machine = &report.machine;
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.floor.operations > 0.0).collect();
    let dots: Vec<Dot<'_>> = rows.iter().map(|row| Dot::of(row)).collect();
    let ridge = machine.operations_s / machine.bytes_s;
    let left = dots.iter().map(|dot| dot.x).fold(ridge / 4.0, f64::min) / 2.0;
    let right = dots.iter().map(|dot| dot.x).fold(ridge, f64::max) * 2.5;
    let lowest = dots.iter().map(|dot| dot.y).fold(left * machine.bytes_s / TERA, f64::min) / 1.5;

    let roof = vec![(left, left * machine.bytes_s), (ridge, machine.operations_s), (right, machine.operations_s)];
    let roof = roof.into_iter().map(|(x, y)| (x, y / TERA)).collect();
    let series = |name: &str, mark, tone, points| Series { name: name.to_owned(), mark, tone, points };
    let mut all = vec![series("memory, then issue of f32 operations", Mark::Line, Tone::First, roof)];
    let mut notes = Vec::new();
    for dot in &dots {
        let ceiling = dot.row.floor.operations / dot.row.floor_ms * 1e3 / TERA;
        all.push(series("", Mark::Faint, Tone::Second, vec![(dot.x, dot.y), (dot.x, ceiling)]));
        if dot.row.limit == Limit::Special && dot.is_best(&dots) {
            let name = if notes.is_empty() { "special functions, for an operator's share of them" } else { "" };
            all.push(series(name, Mark::Faint, Tone::First, special_roof(dot.row, machine, right)));
            // Just above its line.
            notes.push(Note { at: (right, ceiling * 1.1), text: format!("special functions of {}", dot.name()) });
        }
    }
    let measured = dots.iter().map(|dot| (dot.x, dot.y)).collect();
    all.push(series("measured, below its own floor", Mark::Dots, Tone::Second, measured));
    for dot in dots.iter().filter(|dot| dot.is_best(&dots)) {
        let text = format!("{} {}", dot.name(), percent(dot.row.share(), 0));
        notes.push(Note { at: (dot.x, dot.y), text });
    }
    Plot {
        title: format!("Kernels on one {}", machine.name),
        description: description(&rows),
        x: Axis::over("f32 operations for each byte that must move", Scale::Log, [left, right]),
        y: Axis::over("10¹² operations/s", Scale::Log, [lowest, machine.operations_s / TERA * 1.5]),
        series: all,
        notes,
        readings: Vec::new(),
    }
}

/// A kernel in the picture.
struct Dot<'a> {
    row: &'a Row,
    x: f64,
    y: f64,
}

impl Dot<'_> {
    fn of(row: &Row) -> Dot<'_> {
        let operations = row.floor.operations;
        Dot { row, x: operations / row.floor.bytes, y: operations / row.times.median_ms * 1e3 / TERA }
    }

    /// Whether it is the fastest variant of its pass: only that is named.
    fn is_best(&self, all: &[Dot<'_>]) -> bool {
        let same = all.iter().filter(|dot| dot.name() == self.name() && !std::ptr::eq(dot.row, self.row));
        same.into_iter().all(|other| other.row.times.median_ms >= self.row.times.median_ms)
    }

    fn name(&self) -> String {
        format!("{} {}", self.row.operator, self.row.pass)
    }
}

/// The rate at which the special functions of an operator would be all that takes time, from where memory would take as long.
fn special_roof(row: &Row, machine: &Machine, right: f64) -> Vec<(f64, f64)> {
    let rate = machine.special_s * row.floor.operations / row.floor.special_results;
    vec![(rate / machine.bytes_s, rate / TERA), (right, rate / TERA)]
}

fn description(rows: &[&Row]) -> String {
    let told = rows.iter().map(|row| {
        format!("{} {}: {} of its floor, limited by {}", row.operator, row.pass, percent(row.share(), 0), row.limit)
    });
    told.collect::<Vec<_>>().join("; ")
}
