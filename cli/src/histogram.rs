//! How long documents are, as a picture.

use crate::output::thousands;

/// Bars between the shortest and the longest, where lengths are not so short that fewer are all there can be.
const BARS: i32 = 48;

/// The picture and the plot in it, in pixels.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 776.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 376.0;

/// Documents by length; a bar is as wide as its lengths are on a logarithmic axis.
#[derive(Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Bar `i` counts lengths from `edges[i]` up to but not including `edges[i + 1]`.
    edges: Vec<u32>,
    counts: Vec<usize>,
    tokens: u64,
    median: u32,
}

impl Histogram {
    /// Of documents of these lengths, at least one, none of them 0.
    pub fn of(lengths: &[u32]) -> Histogram {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let (shortest, longest) = (f64::from(sorted[0]), f64::from(sorted[sorted.len() - 1]) + 1.0);
        let edge = |i| (shortest * (longest / shortest).powf(f64::from(i) / f64::from(BARS))).round() as u32;
        let mut edges: Vec<u32> = (0..=BARS).map(edge).collect();
        edges.dedup();
        let below = |edge: u32| sorted.partition_point(|length| *length < edge);
        let counts = edges.windows(2).map(|pair| below(pair[1]) - below(pair[0])).collect();
        let tokens = lengths.iter().map(|length| u64::from(*length)).sum();
        Histogram { edges, counts, tokens, median: sorted[(sorted.len() - 1) / 2] }
    }

    /// Where a length lies from left to right. The half is so that a bar of one length has it in its middle.
    fn x(&self, length: f64) -> f64 {
        let (first, last) = (f64::from(self.edges[0]), f64::from(self.edges[self.edges.len() - 1]));
        let (first, last) = ((first - 0.5).ln(), (last - 0.5).ln());
        LEFT + (RIGHT - LEFT) * ((length - 0.5).ln() - first) / (last - first)
    }

    /// A self-contained picture, with the capacity of a pack in it where that is among the lengths.
    pub fn svg(&self, capacity: usize) -> String {
        let documents = thousands(self.counts.iter().sum());
        let subtitle = format!("{documents} documents, {} tokens", thousands(self.tokens as usize));
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let step = round_step(most);
        let top = most.div_ceil(step) * step;
        let y = |count: usize| BOTTOM - (BOTTOM - TOP) * count as f64 / top as f64;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#333\">\n\
             <title>Lengths of documents: {subtitle}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"16\" font-weight=\"600\">Lengths of documents</text>\n\
             <text x=\"{LEFT}\" y=\"42\" fill=\"#666\">{subtitle}</text>\n"
        );
        for count in (0..=top).step_by(step) {
            let y = y(count);
            out += &format!("<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#e4e4e4\"/>\n");
            out += &text(LEFT - 8.0, y + 4.0, "end", &thousands(count));
        }
        for (pair, count) in self.edges.windows(2).zip(&self.counts).filter(|(_, count)| **count > 0) {
            let (from, to, y) = (self.x(f64::from(pair[0])), self.x(f64::from(pair[1])), y(*count));
            let (gap, height) = (((to - from) * 0.1).min(1.0), BOTTOM - y);
            let range = match (thousands(pair[0] as usize), thousands(pair[1] as usize - 1)) {
                (first, last) if first == last => first,
                (first, last) => format!("{first} to {last}"),
            };
            out += &format!(
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#3b76b5\">\
                 <title>{range} tokens: {} documents</title></rect>\n",
                to - from - gap,
                thousands(*count)
            );
        }
        out += &format!("<path d=\"M{LEFT} {BOTTOM}H{RIGHT}\" stroke=\"#333\"/>\n");
        out += &self.ticks();
        out += &self.mark(self.median as usize, "median", "#b5433b", TOP - 6.0);
        out += &self.mark(capacity, "pack", "#4a7d2c", TOP - 22.0);
        let middle = (LEFT + RIGHT) / 2.0;
        out += &text(middle, BOTTOM + 44.0, "middle", "tokens of a document (logarithmic)");
        out += &format!(
            "<text transform=\"translate(20 {}) rotate(-90)\" text-anchor=\"middle\">documents</text>\n</svg>\n",
            (TOP + BOTTOM) / 2.0
        );
        out
    }

    fn holds(&self, length: usize) -> bool {
        (self.edges[0] as usize..self.edges[self.edges.len() - 1] as usize).contains(&length)
    }

    /// Powers of two, and where that gives too many to be read, of a power of two.
    fn ticks(&self) -> String {
        let powers: Vec<u32> = (0..32).filter(|power| self.holds(1 << power)).collect();
        let every = powers.len().div_ceil(12).max(1);
        let mut lengths: Vec<usize> = powers.into_iter().step_by(every).map(|power| 1 << power).collect();
        if lengths.len() < 2 {
            let last = self.edges[self.edges.len() - 1] as usize - 1;
            lengths = if self.edges[0] as usize == last { vec![last] } else { vec![self.edges[0] as usize, last] };
        }
        let tick = |length: usize| {
            let x = self.x(length as f64);
            format!("<path d=\"M{x:.1} {BOTTOM}v5\" stroke=\"#333\"/>\n")
                + &text(x, BOTTOM + 20.0, "middle", &thousands(length))
        };
        lengths.into_iter().map(tick).collect()
    }

    /// A line at a length, named above the plot at a height of its own, if it is in the picture.
    fn mark(&self, length: usize, name: &str, colour: &str, y: f64) -> String {
        if !self.holds(length) {
            return String::new();
        }
        let x = self.x(length as f64);
        format!(
            "<path d=\"M{x:.1} {}V{BOTTOM}\" stroke=\"{colour}\" stroke-dasharray=\"4 3\"/>\n\
             <text x=\"{:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{colour}\">{name} {}</text>\n",
            y + 4.0,
            x.min(RIGHT - 40.0),
            thousands(length)
        )
    }
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

/// 1, 2 or 5 times a power of ten, so that at most 6 steps reach the highest bar.
fn round_step(most: usize) -> usize {
    let powers = (0..19).map(|power| 10usize.pow(power));
    powers.flat_map(|power| [power, 2 * power, 5 * power]).find(|step| most.div_ceil(*step) <= 6).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_in_one_bar() {
        for lengths in [vec![5], vec![2, 3, 3, 4], (1..5000).collect(), vec![1, u32::MAX - 1]] {
            let histogram = Histogram::of(&lengths);
            assert_eq!(histogram.counts.iter().sum::<usize>(), lengths.len());
            assert!(histogram.edges.windows(2).all(|pair| pair[0] < pair[1]));
            let svg = histogram.svg(4096);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let short = Histogram::of(&[2, 3, 3, 4]);
        assert_eq!((short.edges, short.counts), (vec![2, 3, 4, 5], vec![1, 2, 1]));
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([1, 6, 7, 12, 31, 60, 61, 1234].map(round_step), [1, 1, 2, 2, 10, 10, 20, 500]);
    }

    #[test]
    fn what_lies_outside_is_not_marked() {
        let histogram = Histogram::of(&[100, 200, 4000]);
        assert!(histogram.svg(2048).contains("pack 2,048"));
        assert!(!histogram.svg(8192).contains("pack"));
        assert!(histogram.svg(8192).contains("median 200"));
    }
}
