//! Small plots as SVG: lines, dots and histograms over a linear or logarithmic axis.
//!
//! A drawing takes its colours from [`STYLE`], by classes, so that it follows the reader's choice of light or dark. It is
//! drawn for a width, with text of one size whatever the width: a page for phones and desks holds it twice.

mod axis;
mod notes;

use std::fmt::Write;

pub use axis::{Axis, Scale, Tick};

/// The style sheet of all plots.
pub const STYLE: &str = include_str!("plot.css");

/// Width of a character of the labels, in units of the drawing; a little more than the widest system fonts have.
const CHARACTER: f64 = 7.0;

/// What marks at the very edge may reach beyond the axes.
const RIM: f64 = 5.0;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line from point to point; broken where a value has no place.
    Line,
    /// A thin, pale line.
    Faint,
    /// A dot for each point.
    Dots,
    /// A cross on the horizontal axis for each point.
    Crosses,
    /// Filled columns: each point is the left edge and the height of one; the last point ends the last column.
    Bars,
    /// The outline of such columns.
    Outline,
}

/// Which of the palette's colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The main one.
    First,
    /// One that stands apart from it.
    Second,
    /// For what went wrong.
    Bad,
}

/// Points drawn alike.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// How.
    pub mark: Mark,
    /// In which colour.
    pub tone: Tone,
    /// `(x, y)`, x ascending.
    pub points: Vec<(f64, f64)>,
}

/// Width and height of a drawing, in CSS pixels.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// From edge to edge, labels included.
    pub width: u32,
    /// From edge to edge, labels included.
    pub height: u32,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows, for those who see it and those who do not.
    pub title: String,
    /// What there is to see in it, for those who do not.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, the first at the back.
    pub series: Vec<Series>,
    /// Names of points, written beside them where there is room.
    pub notes: Vec<Note>,
    /// What a pointer at an x reads, x ascending.
    pub readings: Vec<(f64, String)>,
}

/// The name of a point.
#[derive(Clone, Debug)]
pub struct Note {
    /// The point.
    pub at: (f64, f64),
    /// Its name.
    pub text: String,
}

/// Where things lie in a drawing.
struct Layout {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    /// Where each entry of the legend begins, and its baseline.
    legend: Vec<(f64, f64)>,
}

impl Plot {
    /// The `<svg>` element. `id` tells it from others in the same page.
    pub fn svg(&self, id: &str, size: Size) -> String {
        self.draw(id, size, "")
    }

    /// An SVG file that needs nothing beside it.
    pub fn standalone(&self, size: Size) -> String {
        self.draw(
            "plot",
            size,
            &format!("<style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"var(--paper)\"/>"),
        )
    }

    fn draw(&self, id: &str, size: Size, head: &str) -> String {
        let (id, Size { width, height }) = (escaped(id), size);
        let y_ticks = self.y.ticks((height as usize / 48).max(2));
        let layout = self.layout(size, &y_ticks);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" viewBox=\"0 0 {width} {height}\" \
             aria-labelledby=\"{id}-title {id}-desc\"><title id=\"{id}-title\">{}</title><desc id=\"{id}-desc\">{}</desc>{head}\n",
            escaped(&self.title),
            escaped(&self.description)
        );
        self.axes(&mut svg, &layout, &y_ticks, size);
        self.legend(&mut svg, &layout);
        // An inner svg cuts off what lies well outside the axes.
        let &Layout { left, top, width, height, .. } = &layout;
        let _ = writeln!(
            svg,
            "<svg class=\"area\" x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" viewBox=\"-{RIM} -{RIM} {w:.1} {h:.1}\">\
             <rect width=\"{width:.1}\" height=\"{height:.1}\" fill=\"none\" pointer-events=\"all\"/>",
            left - RIM,
            top - RIM,
            w = width + 2.0 * RIM,
            h = height + 2.0 * RIM
        );
        for series in &self.series {
            self.series(&mut svg, &layout, series);
        }
        self.notes(&mut svg, &layout);
        svg.push_str("</svg></svg>\n");
        svg
    }

    fn layout(&self, size: Size, y_ticks: &[Tick]) -> Layout {
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        let longest = y_ticks.iter().map(|tick| tick.text.chars().count()).max().unwrap_or(0);
        let left = longest as f64 * CHARACTER + 10.0;
        let legend = self.legend_places(width);
        // The vertical axis's label shares the legend's line, or comes below all of its lines.
        let lowest = legend.iter().map(|place| place.1).fold(13.0, f64::max);
        let beside = legend.first().is_none_or(|place| place.0 > 0.0);
        let top = if beside { 26.0 } else { lowest + 29.0 };
        let right = 18.0;
        Layout { left, top, width: (width - left - right).max(1.0), height: (height - top - 40.0).max(1.0), legend }
    }

    /// At the right of the vertical axis's label if there is room for all of it, else from the left in as many lines as it takes.
    fn legend_places(&self, width: f64) -> Vec<(f64, f64)> {
        let widths: Vec<f64> = self.named().map(|series| text_width(&series.name) + 36.0).collect();
        let start = width - 4.0 - widths.iter().sum::<f64>();
        let (mut x, mut y) = (if start > text_width(&self.y.label) { start } else { 0.0 }, 13.0);
        let place = |&needed: &f64| {
            if x > 0.0 && x + needed - 14.0 > width {
                (x, y) = (0.0, y + 17.0);
            }
            let place = (x, y);
            x += needed;
            place
        };
        widths.iter().map(place).collect()
    }

    /// Grid, ticks and labels.
    fn axes(&self, svg: &mut String, layout: &Layout, y_ticks: &[Tick], size: Size) {
        let &Layout { left, top, width, height, .. } = layout;
        let (right, bottom) = (left + width, top + height);
        for tick in y_ticks {
            let y = bottom - self.y.clamped(tick.value).unwrap_or(0.0) * height;
            let _ = write!(svg, "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                tick.text
            );
        }
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>");
        let room = self.x.characters() as f64 * CHARACTER + 24.0;
        for tick in self.x.ticks((width / room) as usize) {
            let x = left + self.x.clamped(tick.value).unwrap_or(0.0) * width;
            let half = text_width(&tick.text) / 2.0;
            // A label at the very end stays inside the drawing.
            let anchor = x.min(f64::from(size.width) - half);
            let _ = write!(svg, "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v4\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{anchor:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 17.0,
                tick.text
            );
        }
        let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", top - 13.0, escaped(&self.y.label));
        let middle = left + width / 2.0;
        let (y, label) = (bottom + 35.0, escaped(&self.x.label));
        let _ = writeln!(svg, "<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>");
    }

    fn named(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(|series| !series.name.is_empty() && !series.points.is_empty())
    }

    /// Samples and names.
    fn legend(&self, svg: &mut String, layout: &Layout) {
        for (series, (x, y)) in self.named().zip(&layout.legend) {
            let _ = write!(svg, "<g class=\"{}\">{}</g>", series.tone.class(), series.mark.sample(*x, y - 4.0));
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", x + 22.0, escaped(&series.name));
        }
    }

    fn series(&self, svg: &mut String, layout: &Layout, series: &Series) {
        let place =
            |&(x, y): &(f64, f64)| Some((self.x.place(x)? * layout.width, (1.0 - self.y.place(y)?) * layout.height));
        let mut d = String::new();
        match series.mark {
            Mark::Line | Mark::Faint => line(&mut d, series.points.iter().map(place)),
            Mark::Bars | Mark::Outline => steps(&mut d, layout.height, series.points.iter().filter_map(place)),
            Mark::Dots => {
                for (x, y) in series.points.iter().filter_map(place) {
                    let _ = write!(d, "M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", x - 4.0);
                }
            }
            Mark::Crosses => {
                for share in series.points.iter().filter_map(|point| self.x.place(point.0)) {
                    let _ = write!(d, "M{:.1} {:.1}l7 7m0 -7l-7 7", share * layout.width - 3.5, layout.height - 9.0);
                }
            }
        }
        if !d.is_empty() {
            let _ = writeln!(svg, "<path class=\"{} {}\" d=\"{d}\"/>", series.mark.class(), series.tone.class());
        }
    }

    /// The readings as JSON, `[[place from 0 to 1, text], ...]`.
    pub fn readings_json(&self) -> String {
        let places = self.readings.iter().filter_map(|(x, text)| self.x.place(*x).map(|share| (share, text)));
        let readings: Vec<_> = places.map(|(share, text)| ((share * 1e4).round() / 1e4, text)).collect();
        // A list of numbers and texts has no value that JSON lacks: places are finite.
        serde_json::to_string(&readings).unwrap_or_default()
    }
}

/// A dash centred on where the pen is.
const ALONE: &str = "m-3 0h6";

/// A path from point to point, begun anew after each that has no place. A point alone becomes a dash.
fn line(d: &mut String, points: impl Iterator<Item = Option<(f64, f64)>>) {
    let mut pen_down = false;
    let mut alone = false;
    for point in points {
        match point {
            Some((x, y)) if pen_down => {
                let _ = write!(d, "L{x:.1} {y:.1}");
                alone = false;
            }
            Some((x, y)) => {
                let _ = write!(d, "M{x:.1} {y:.1}");
                alone = true;
            }
            None if alone => d.push_str(ALONE),
            None => {}
        }
        pen_down = point.is_some();
        alone &= pen_down;
    }
    if alone {
        d.push_str(ALONE);
    }
}

/// The outline of columns that stand on the axis.
fn steps(d: &mut String, bottom: f64, points: impl Iterator<Item = (f64, f64)>) {
    for (i, (x, y)) in points.enumerate() {
        let _ = match i {
            0 => write!(d, "M{x:.1} {bottom:.1}V{y:.1}"),
            _ => write!(d, "H{x:.1}V{y:.1}"),
        };
    }
}

impl Mark {
    fn class(self) -> &'static str {
        match self {
            Mark::Line => "line",
            Mark::Faint => "faint",
            Mark::Dots => "dots",
            Mark::Crosses => "crosses",
            Mark::Bars => "bars",
            Mark::Outline => "outline",
        }
    }

    /// The mark in a legend, 16 units wide and centred on a height.
    fn sample(self, x: f64, y: f64) -> String {
        let d = match self {
            Mark::Line | Mark::Faint | Mark::Outline => format!("M{x:.1} {y:.1}h16"),
            Mark::Dots => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", x + 4.0),
            Mark::Crosses => format!("M{:.1} {:.1}l7 7m0 -7l-7 7", x + 4.5, y - 3.5),
            Mark::Bars => format!("M{x:.1} {:.1}h16v10h-16z", y - 5.0),
        };
        format!("<path class=\"{}\" d=\"{d}\"/>", self.class())
    }
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::First => "first",
            Tone::Second => "second",
            Tone::Bad => "bad",
        }
    }
}

fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// A text that HTML and XML show as it is, in an element or an attribute. Control characters, which XML does not allow, become spaces.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            '\u{fffe}' | '\u{ffff}' => out.push(' '),
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
    out
}
