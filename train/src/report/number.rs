//! Numbers for people.

use packscan_data::number::grouped;
pub use packscan_data::number::{counted, thousands};

/// What stands for a number that is none.
pub const NONE: &str = "–";

/// `a, b, c and 2 more`: the first three of a list, and how many there are besides.
pub fn few(names: &[String]) -> String {
    let (shown, rest) = names.split_at(names.len().min(3));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

/// Which of so many values in ascending order, from 0, is the percentile by nearest rank: the least that `percent` in 100 of them do not exceed.
/// The median is the 50th.
pub fn nearest_rank(values: usize, percent: usize) -> usize {
    (values * percent).div_ceil(100).saturating_sub(1)
}

/// `1,234.50`: so many digits after the point, whole thousands apart. A minus sign, not a hyphen.
pub fn fixed(number: f64, decimals: usize) -> String {
    if !number.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{:.decimals$}", number.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    format!("{}{}{rest}", if number < 0.0 && !zero { "−" } else { "" }, grouped(whole))
}

/// So many significant digits: `0.00123`, `12.3`, `1.23e−7`.
pub fn significant(number: f64, digits: usize) -> String {
    if !number.is_finite() {
        return NONE.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let exponent = number.abs().log10().floor() as i32;
    if !(-3..15).contains(&exponent) {
        return format!("{number:.*e}", digits.saturating_sub(1)).replace('-', "−");
    }
    fixed(number, (digits as i32 - 1 - exponent).max(0) as usize)
}

/// `41.2 %`
pub fn percent(share: f64, decimals: usize) -> String {
    if share.is_finite() { format!("{} %", fixed(100.0 * share, decimals)) } else { NONE.to_owned() }
}

/// `13.6 GB`
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{} {name}", fixed(bytes as f64 / unit as f64, usize::from(bytes < 100 * unit))),
        None => format!("{bytes} bytes"),
    }
}

/// `2 d 03 h`, `1 h 02 min`, `4 min 05 s`, `6.5 s`
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return NONE.to_owned();
    }
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([fixed(-1234.5, 2), fixed(-0.001, 2), fixed(f64::NAN, 2)], ["−1,234.50", "0.00", NONE]);
        assert_eq!(
            [3.412_34, 0.001_234, 0.000_012_34, 153_012.4, 0.0].map(|number| significant(number, 3)),
            ["3.41", "0.00123", "1.23e−5", "153,012", "0"]
        );
        assert_eq!([percent(0.4123, 1), percent(f64::INFINITY, 1)], ["41.2 %", NONE]);
        assert_eq!([500, 13_600_000_000, 141_000_000_000].map(bytes), ["500 bytes", "13.6 GB", "141 GB"]);
        assert_eq!(
            [6.52, 59.7, 245.0, 3725.0, 183_600.0].map(duration),
            ["6.5 s", "1 min 00 s", "4 min 05 s", "1 h 02 min", "2 d 03 h"]
        );
    }

    #[test]
    fn a_percentile_is_a_value_that_is_there() {
        for (values, percent, index) in
            [(1, 95, 0), (2, 50, 0), (2, 95, 1), (3, 50, 1), (19, 95, 18), (20, 95, 18), (21, 95, 19), (100, 95, 94)]
        {
            assert_eq!(nearest_rank(values, percent), index, "{percent} % of {values}");
        }
        assert_eq!([nearest_rank(7, 0), nearest_rank(7, 100), nearest_rank(0, 50)], [0, 6, 0]);
    }
}
