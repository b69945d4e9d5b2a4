//! How much of the weather that was asked for is there: counted in airport-hours,
//! over the whole window and over its freshest days, which a model feels first.

use std::collections::BTreeSet;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::Stored;
use delayd_core::error::chain;
use delayd_core::ports::WeatherAnswer;

/// A window of time, and where it is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoverageWindow {
    /// Begin.
    pub from: DateTime<Utc>,
    /// Where the fresh days begin.
    pub fresh_from: DateTime<Utc>,
    /// End, exclusive; no hour is expected after the present.
    pub until: DateTime<Utc>,
}

/// How much is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeatherCoverage {
    /// Hours that were asked for, over all airports.
    pub airport_hours: u64,
    /// Those with an observation.
    pub found: u64,
    /// Hours of the fresh window.
    pub fresh_airport_hours: u64,
    /// Those with an observation.
    pub fresh_found: u64,
    /// Airports without a single observation.
    pub without_any: Vec<String>,
    /// Why observations could not be had; empty where the source told all it knows.
    pub failures: Vec<String>,
}

impl Stored for WeatherCoverage {
    const NAME: &'static str = "weather coverage";
}

impl WeatherCoverage {
    /// Counts an answer. `airports` has no airport twice.
    #[must_use]
    pub fn of(airports: &[String], window: CoverageWindow, answer: &WeatherAnswer) -> Self {
        let CoverageWindow { from, fresh_from, until } = window;
        let hour = TimeDelta::hours(1);
        let hour_of = |at: DateTime<Utc>| at.duration_trunc(hour).unwrap_or(at);
        let known: BTreeSet<(&str, DateTime<Utc>)> = answer
            .observations
            .iter()
            .filter(|observation| observation.observed_at >= from && observation.observed_at < until)
            .map(|observation| (observation.airport.as_str(), hour_of(observation.observed_at)))
            .collect();
        let asked = |from| airports.len() as u64 * full_hours(from, until);
        let found = |from: DateTime<Utc>| known.iter().filter(|(_, at)| *at >= from).count() as u64;
        let seen: BTreeSet<&str> = known.iter().map(|(airport, _)| *airport).collect();
        let (airport_hours, fresh_airport_hours) = (asked(from), asked(fresh_from.max(from)));
        Self {
            airport_hours,
            // An hour that began before the window was not asked for.
            found: found(from),
            fresh_airport_hours,
            fresh_found: found(fresh_from.max(from)),
            without_any: airports.iter().filter(|code| !seen.contains(code.as_str())).cloned().collect(),
            failures: answer.failures.iter().map(|failure| chain(failure)).collect(),
        }
    }

    /// Share that is known, from 0 to 1: the lower one of the whole and the fresh window.
    #[must_use]
    pub fn share(&self) -> f64 {
        let share = |found: u64, of: u64| if of == 0 { 1.0 } else { found as f64 / of as f64 };
        share(self.found, self.airport_hours).min(share(self.fresh_found, self.fresh_airport_hours))
    }

    /// Hours that are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.airport_hours.saturating_sub(self.found)
    }

    /// Whether observations could not be had that may exist.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        !self.failures.is_empty()
    }

    /// In words, for alerts and errors.
    #[must_use]
    pub fn told(&self) -> String {
        let Self { airport_hours, found, fresh_airport_hours, fresh_found, .. } = self;
        format!(
            "weather is there for {found} of {airport_hours} airport-hours \
             ({fresh_found} of {fresh_airport_hours} in the fresh window)"
        )
    }
}

/// How many moments at the full hour lie in `[from, until)`.
fn full_hours(from: DateTime<Utc>, until: DateTime<Utc>) -> u64 {
    let before = |at: DateTime<Utc>| (at.timestamp() + 3599).div_euclid(3600);
    u64::try_from(before(until) - before(from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::error::{ErrorKind, PortError};
    use delayd_core::ports::WeatherObservation;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn answer(hours: &[(&str, &str)]) -> WeatherAnswer {
        let observations = hours.iter().map(|(code, at)| WeatherObservation::missing(*code, utc(at))).collect();
        WeatherAnswer { observations, failures: Vec::new() }
    }

    fn window(from: &str, fresh_from: &str, until: &str) -> CoverageWindow {
        CoverageWindow { from: utc(from), fresh_from: utc(fresh_from), until: utc(until) }
    }

    #[test]
    fn hours_are_counted_by_airport_and_the_worse_window_decides() {
        let airports = ["EWR".to_owned(), "JFK".to_owned()];
        let window = window("2013-07-01T00:00:00Z", "2013-07-01T03:00:00Z", "2013-07-01T04:00:00Z");
        let told = [
            ("EWR", "2013-07-01T00:00:00Z"),
            ("EWR", "2013-07-01T00:51:00Z"),
            ("EWR", "2013-07-01T01:00:00Z"),
            ("EWR", "2013-07-01T03:59:00Z"),
            ("EWR", "2013-07-01T04:00:00Z"),
        ];
        let coverage = WeatherCoverage::of(&airports, window, &answer(&told));
        assert_eq!((coverage.airport_hours, coverage.found, coverage.missing()), (8, 3, 5));
        assert_eq!((coverage.fresh_airport_hours, coverage.fresh_found), (2, 1));
        assert_eq!(coverage.without_any, ["JFK"]);
        assert!((coverage.share() - 0.375).abs() < 1e-9 && !coverage.is_degraded());
        let all_old =
            [("EWR", "2013-07-01T00:00:00Z"), ("EWR", "2013-07-01T01:00:00Z"), ("EWR", "2013-07-01T02:00:00Z")];
        assert_eq!(WeatherCoverage::of(&airports[..1], window, &answer(&all_old)).share(), 0.0);
    }

    #[test]
    fn a_window_that_begins_within_an_hour_expects_the_next_full_one() {
        let airports = ["EWR".to_owned()];
        let window = window("2013-07-01T00:30:00Z", "2013-07-01T00:30:00Z", "2013-07-01T02:30:00Z");
        let told = [("EWR", "2013-07-01T01:00:00Z"), ("EWR", "2013-07-01T02:00:00Z")];
        let coverage = WeatherCoverage::of(&airports, window, &answer(&told));
        assert_eq!((coverage.airport_hours, coverage.found), (2, 2));
        assert!((coverage.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_failure_makes_it_degraded_and_an_empty_window_is_whole() {
        let mut told = answer(&[]);
        told.failures.push(PortError::new(ErrorKind::Unavailable, "asking", "refused"));
        let empty = window("2013-07-01T00:00:00Z", "2013-07-01T00:00:00Z", "2013-07-01T00:00:00Z");
        let coverage = WeatherCoverage::of(&["EWR".to_owned()], empty, &told);
        assert!(coverage.is_degraded() && (coverage.share() - 1.0).abs() < 1e-9);
        assert_eq!(coverage.failures, ["asking: refused"]);
    }
}
