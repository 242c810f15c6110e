//! Names beside points, each where it covers neither a point nor another name.

use std::fmt::Write;

use super::{Layout, Mark, Plot, escaped};

/// Height of a line of text, in units of the drawing.
const LINE: f64 = 14.0;
/// Width of a character of a name, whose text is a little smaller than that of labels.
const CHARACTER: f64 = 6.4;
/// From the middle of a point to its name.
const APART: f64 = 8.0;

/// A rectangle, from its left and upper edge to its right and lower one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Place {
    fn around((x, y): (f64, f64), half: f64) -> Place {
        Place { left: x - half, top: y - half, right: x + half, bottom: y + half }
    }

    /// Beginning at the right of a point or ending at its left, so many lines below it.
    fn beside((x, y): (f64, f64), width: f64, right: bool, lines: f64) -> Place {
        let left = if right { x + APART } else { x - APART - width };
        let top = y - LINE / 2.0 + lines * LINE;
        Place { left, top, right: left + width, bottom: top + LINE }
    }

    fn meets(&self, other: &Place) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

impl Plot {
    /// The names, and a thin line from each that is not right beside its point.
    pub(super) fn notes(&self, svg: &mut String, layout: &Layout) {
        let place = |(x, y)| Some((self.x.place(x)? * layout.width, (1.0 - self.y.place(y)?) * layout.height));
        let placed: Vec<_> = self.notes.iter().filter_map(|note| Some((place(note.at)?, &note.text))).collect();
        let mut taken: Vec<Place> = placed.iter().map(|(at, _)| Place::around(*at, 5.0)).collect();
        let lines = self.series.iter().filter(|series| series.mark == Mark::Line);
        for series in lines {
            let points: Vec<_> = series.points.iter().filter_map(|&at| place(at)).collect();
            taken.extend(points.windows(2).flat_map(|pair| along(pair[0], pair[1])));
        }
        for (at, text) in placed {
            let (place, lines) = free(at, text.chars().count() as f64 * CHARACTER, layout, &taken);
            taken.push(place);
            let y = place.top + LINE - 3.5;
            let right = place.left > at.0;
            if lines != 0.0 {
                let end = if right { place.left - 2.0 } else { place.right + 2.0 };
                let _ = write!(
                    svg,
                    "<path class=\"leader\" d=\"M{:.1} {:.1}L{end:.1} {:.1}\"/>",
                    at.0,
                    at.1,
                    place.top + LINE / 2.0
                );
            }
            let (x, anchor) = if right { (place.left, "start") } else { (place.right, "end") };
            let text = escaped(text);
            let _ =
                writeln!(svg, "<text class=\"note\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
        }
    }
}

/// Places along a line.
fn along(from: (f64, f64), to: (f64, f64)) -> impl Iterator<Item = Place> {
    const STEP: f64 = 4.0;
    let steps = ((to.0 - from.0).hypot(to.1 - from.1) / STEP).ceil().clamp(1.0, 1000.0);
    let at = move |i: u32| f64::from(i) / steps;
    let between = move |share: f64| (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
    (0..=steps as u32).map(move |i| Place::around(between(at(i)), 1.0))
}

/// The nearest place that nothing else takes and that lies inside; the one at the right where there is none.
fn free(at: (f64, f64), width: f64, layout: &Layout, taken: &[Place]) -> (Place, f64) {
    let lines = [0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0, -4.0, 4.0, -5.0, 5.0];
    let places = lines.into_iter().flat_map(|lines| [true, false].map(|right| (right, lines)));
    let inside = |place: &Place| {
        place.left >= 0.0 && place.right <= layout.width && place.top >= 0.0 && place.bottom <= layout.height
    };
    let mut all = places.map(|(right, lines)| (Place::beside(at, width, right, lines), lines));
    let found = all.find(|(place, _)| inside(place) && !taken.iter().any(|other| other.meets(place)));
    found.unwrap_or((Place::beside(at, width, true, 0.0), 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_near_points_lie_apart_and_inside() {
        let layout = Layout { left: 0.0, top: 0.0, width: 400.0, height: 200.0, legend: Vec::new() };
        let points = [(100.0, 100.0), (103.0, 102.0), (101.0, 97.0), (390.0, 190.0)];
        let mut taken: Vec<Place> = points.iter().map(|at| Place::around(*at, 5.0)).collect();
        for at in points {
            let (place, _) = free(at, 90.0, &layout, &taken);
            assert!(!taken.iter().any(|other| other.meets(&place)), "{at:?} {place:?}");
            assert!(place.right <= layout.width && place.bottom <= layout.height, "{place:?}");
            taken.push(place);
        }
    }

    #[test]
    fn a_name_keeps_off_a_line() {
        let layout = Layout { left: 0.0, top: 0.0, width: 400.0, height: 200.0, legend: Vec::new() };
        let line: Vec<Place> = along((0.0, 100.0), (400.0, 100.0)).collect();
        let (place, lines) = free((200.0, 100.0), 90.0, &layout, &line);
        assert!(lines != 0.0 && !line.iter().any(|other| other.meets(&place)), "{place:?}");
    }
}
