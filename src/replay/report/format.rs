//! How numbers and times read, on the page and in the terminal alike.

use chrono::{DateTime, NaiveDate, Utc};

/// `336776` as `336,776`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three decimals, an en dash where there is nothing.
pub(super) fn metric(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// Three decimals with their sign, the minus a true one.
pub(super) fn signed(value: f64) -> String {
    let rounded = format!("{:.3}", value.abs());
    match (rounded == "0.000", value < 0.0) {
        (true, _) => rounded,
        (false, true) => format!("\u{2212}{rounded}"),
        (false, false) => format!("+{rounded}"),
    }
}

/// A share as percent, one decimal.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1}\u{a0}%", share * 100.0))
}

/// Seconds in the two units that matter: `48 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn duration(secs: f64) -> String {
    if secs < 10.0 {
        return format!("{:.1} s", secs.max(0.0));
    }
    let whole = secs.round() as u64;
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {small_unit}"),
    };
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// `3 Mar 2013`.
pub(super) fn day(date: NaiveDate) -> String {
    date.format("%-d %b %Y").to_string()
}

/// `2013-03-03 14:00`, UTC.
pub(super) fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M").to_string()
}

/// An outcome as people say it, here as on the page and in `delayd cycles`: `kept_live` as `kept live model`.
pub(in crate::replay) fn words(name: &str) -> String {
    match name {
        "kept_live" => "kept live model".to_owned(),
        other => other.replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 336_776, 1_000_000].map(count), ["0", "999", "1,000", "336,776", "1,000,000"]);
        assert_eq!([0.0312, -0.0049, 0.0001].map(signed), ["+0.031", "\u{2212}0.005", "0.000"]);
        assert_eq!([metric(Some(0.75)), metric(None), metric(Some(f64::NAN))], ["0.750", "–", "–"]);
        assert_eq!(percent(Some(0.2345)), "23.4\u{a0}%");
    }

    #[test]
    fn durations_show_the_two_units_that_matter() {
        let shown = [0.04, 9.96, 48.2, 59.7, 200.0, 3600.0, 7500.0, 273_600.0].map(duration);
        assert_eq!(shown, ["0.0 s", "10.0 s", "48 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min", "3 d 4 h"]);
    }
}
