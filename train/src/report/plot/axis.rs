//! Axes: which values they span, where their ticks lie, what the ticks say.

use crate::report::number;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences, equal distances.
    Linear,
    /// Equal ratios, equal distances. Only values above zero have a place.
    Log,
}

/// One axis of a plot. `low < high` always, and on a logarithmic axis `0 < low`.
#[derive(Clone, Debug)]
pub struct Axis {
    pub(super) label: String,
    scale: Scale,
    low: f64,
    high: f64,
    /// Whether only whole numbers mean something.
    whole: bool,
}

/// A labelled place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where.
    pub value: f64,
    /// What it says.
    pub text: String,
}

impl Axis {
    /// An axis from the lowest to the highest of some values; those that have no place on it (NaN, or zero on a logarithmic axis) are
    /// passed over. The label names the quantity and its unit.
    pub fn over(label: &str, scale: Scale, values: impl IntoIterator<Item = f64>) -> Axis {
        let placed = values.into_iter().filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0));
        let (low, high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (v.min(l), v.max(h)));
        let (low, high) = match scale {
            _ if low < high => (low, high),
            // No value or one: an axis around it.
            Scale::Log if low.is_infinite() => (1.0, 10.0),
            Scale::Log => (low / 2.0, high * 2.0),
            Scale::Linear if low.is_infinite() => (0.0, 1.0),
            Scale::Linear if low == 0.0 => (0.0, 1.0),
            Scale::Linear => (low - 0.1 * low.abs(), high + 0.1 * high.abs()),
        };
        Axis { label: label.to_owned(), scale, low, high, whole: false }
    }

    /// The same axis, for counts: no tick lies between whole numbers.
    pub fn whole(self) -> Axis {
        Axis { whole: true, ..self }
    }

    /// The same axis, begun and ended at ticks.
    pub fn rounded(mut self) -> Axis {
        match self.scale {
            Scale::Linear => {
                let step = nice_step((self.high - self.low) / 5.0);
                self.low = (self.low / step + 1e-9).floor() * step;
                self.high = (self.high / step - 1e-9).ceil() * step;
            }
            Scale::Log => {
                let round = |value: f64, up: bool| {
                    let decade = 10f64.powf(value.log10().floor());
                    let mut stops =
                        [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0].map(|stop| stop * decade).into_iter();
                    let (low, high) = (value * (1.0 - 1e-9), value * (1.0 + 1e-9));
                    match up {
                        true => stops.find(|stop| *stop >= low).unwrap_or(value),
                        false => stops.rfind(|stop| *stop <= high).unwrap_or(value),
                    }
                };
                (self.low, self.high) = (round(self.low, false), round(self.high, true));
            }
        }
        self
    }

    /// Where a value lies, 0 at the beginning and 1 at the end; none for one without a place.
    pub fn place(&self, value: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log if value > 0.0 => (value / self.low).ln() / (self.high / self.low).ln(),
            Scale::Log => return None,
        };
        share.is_finite().then_some(share)
    }

    /// The place of a value, or the nearest end for one that lies outside.
    pub(super) fn clamped(&self, value: f64) -> Option<f64> {
        self.place(value).map(|share| share.clamp(0.0, 1.0))
    }

    /// About so many ticks, at round numbers, ascending.
    pub fn ticks(&self, about: usize) -> Vec<Tick> {
        let about = about.max(2);
        if self.scale == Scale::Log && self.high / self.low >= 10.0 * (1.0 - 1e-9) {
            self.log_ticks(about)
        } else {
            self.linear_ticks(about)
        }
    }

    /// The most characters that a tick of the axis is likely to have.
    pub(super) fn characters(&self) -> usize {
        self.ticks(3).iter().map(|tick| tick.text.chars().count()).max().unwrap_or(0)
    }

    fn linear_ticks(&self, about: usize) -> Vec<Tick> {
        let mut step = nice_step((self.high - self.low) / about as f64);
        if self.whole {
            step = step.max(1.0);
        }
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let first = (self.low / step - 1e-9).ceil();
        let last = (self.high / step + 1e-9).floor();
        // Counted, not added up: neither a sum's rounding nor a step too small for the numbers can lead astray.
        let count = (last - first).clamp(0.0, 4.0 * about as f64) as usize;
        let widest = self.low.abs().max(self.high.abs());
        let text = |value: f64| match (1e-4..1e9).contains(&widest) {
            true => number::fixed(value, decimals),
            false => number::significant(value, 3),
        };
        (0..=count).map(|i| (first + i as f64) * step).map(|value| Tick { value, text: text(value) }).collect()
    }

    /// Powers of ten, with 2 and 5 times them where there are few, without some where there are many.
    fn log_ticks(&self, about: usize) -> Vec<Tick> {
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let decades = (self.high / self.low).log10();
        let within = |value: &f64| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(value);
        let every = (decades / about as f64).ceil().max(1.0) as usize;
        let stops: &[f64] = match about as f64 / decades {
            ratio if ratio >= 2.4 => &[1.0, 2.0, 5.0],
            ratio if ratio >= 1.6 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let values = (first..=last).step_by(every).flat_map(|e| stops.iter().map(move |stop| stop * 10f64.powi(e)));
        let text = |value: f64| match value {
            1e-4..1.0 => number::fixed(value, (-value.log10() - 1e-9).ceil() as usize),
            1.0..1e9 => number::fixed(value, 0),
            _ => format!("{value:e}").replace('-', "−"),
        };
        values.filter(within).map(|value| Tick { value, text: text(value) }).collect()
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is no less than a step.
fn nice_step(step: f64) -> f64 {
    if !(step.is_finite() && step > f64::MIN_POSITIVE) {
        return 1.0;
    }
    let decade = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|stop| stop * decade).into_iter().find(|nice| nice * (1.0 + 1e-9) >= step).unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, about: usize) -> Vec<String> {
        axis.ticks(about).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn linear_ticks_lie_at_round_numbers() {
        assert_eq!(
            texts(&Axis::over("", Scale::Linear, [0.0, 5000.0]), 5),
            ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]
        );
        assert_eq!(texts(&Axis::over("", Scale::Linear, [1.93, 3.27]), 5), ["2.0", "2.5", "3.0"]);
        assert_eq!(texts(&Axis::over("", Scale::Linear, [-0.25, 0.25]), 5), ["−0.2", "−0.1", "0.0", "0.1", "0.2"]);
        assert_eq!(texts(&Axis::over("", Scale::Linear, [1.0, 3.0]).whole(), 5), ["1", "2", "3"]);
        assert_eq!(texts(&Axis::over("", Scale::Linear, [0.0, 3e-6]), 3), ["0", "1.00e−6", "2.00e−6", "3.00e−6"]);
    }

    #[test]
    fn logarithmic_ticks_lie_at_round_numbers() {
        assert_eq!(texts(&Axis::over("", Scale::Log, [1.0, 8192.0]), 5), ["1", "10", "100", "1,000"]);
        assert_eq!(texts(&Axis::over("", Scale::Log, [0.2, 6.0]), 6), ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!(texts(&Axis::over("", Scale::Log, [1e-12, 1.0]), 4), ["1e−12", "1e−9", "1e−6", "0.001", "1"]);
        // Less than a decade has no two powers of ten; it is ticked like a linear one.
        assert_eq!(texts(&Axis::over("", Scale::Log, [1.2, 1.8]), 3), ["1.2", "1.4", "1.6", "1.8"]);
    }

    #[test]
    fn an_axis_spans_what_it_is_given_and_never_nothing() {
        for scale in [Scale::Linear, Scale::Log] {
            for values in
                [vec![], vec![0.0], vec![7.0], vec![f64::NAN; 3], vec![-1.0, -1.0], vec![1e300, -1e300, 1e-300]]
            {
                for axis in [Axis::over("", scale, values.clone()), Axis::over("", scale, values.clone()).rounded()] {
                    assert!(axis.low < axis.high, "{axis:?} of {values:?}");
                    let ticks = axis.ticks(5);
                    assert!((1..=25).contains(&ticks.len()), "{axis:?}: {ticks:?}");
                    assert!(ticks.is_sorted_by(|a, b| a.value < b.value), "{axis:?}: {ticks:?}");
                }
            }
        }
        // Neighbouring floats: no step is small enough, and the loop still ends.
        let axis = Axis::over("", Scale::Linear, [1e15, 1e15 + 0.125]);
        assert!(axis.ticks(5).len() <= 21);
    }

    #[test]
    fn rounding_takes_an_axis_outward_to_ticks() {
        let axis = Axis::over("", Scale::Linear, [1.93, 3.27]).rounded();
        assert_eq!((axis.low, axis.high), (1.5, 3.5));
        let axis = Axis::over("", Scale::Log, [0.25, 17.0]).rounded();
        assert_eq!((axis.low, axis.high), (0.2, 20.0));
        assert_eq!((axis.place(0.2), axis.place(0.0), axis.place(f64::NAN)), (Some(0.0), None, None));
        assert!((axis.place(2.0).unwrap() - 0.5).abs() < 1e-12);
    }
}
