//! Which rows a challenger may learn from, and which judge it.
//!
//! Two kinds of rows are held out: the newest days before the retrain, which
//! neither challenger nor live model has seen, and a frozen share of all flights,
//! chosen by a hash of the flight, from which no model ever learns: the seasons
//! of all history, so that a challenger that forgot winter is noticed in July.

use chrono::{DateTime, Duration, Utc};
use sha2::{Digest, Sha256};

use serde::{Deserialize, Serialize};

use delayd_data::Example;

/// `[holdout]`: rows that no model ever learns from, so that challenger and live
/// model can be compared on them fairly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldoutSettings {
    /// Percent of all flights, chosen by a hash of the flight, that stay out of
    /// training for ever: the frozen seasonal set.
    pub seasonal_percent: u32,
    /// The newest days before a retrain: the gate's recent window, which neither
    /// model has seen.
    pub recent_days: u32,
}

impl Default for HoldoutSettings {
    fn default() -> Self {
        Self { seasonal_percent: 4, recent_days: 3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Learnt from (the trainer keeps its own validation tail of these).
    Training,
    /// Judges: one of the newest days.
    Recent,
    /// Judges: one of the frozen seasonal set.
    Seasonal,
    /// Neither: its outcome was not known at the retrain.
    Unknown,
}

/// Whether a flight belongs to the frozen seasonal set.
pub fn is_seasonal(example: &Example, percent: u32) -> bool {
    let row = &example.row;
    let mut hash = Sha256::new();
    hash.update(row.carrier.as_bytes());
    hash.update(row.flight_number.to_le_bytes());
    hash.update(row.origin.as_bytes());
    hash.update(row.dest.as_bytes());
    hash.update(row.scheduled_departure.timestamp().to_le_bytes());
    let digest = hash.finalize();
    u32::from(u16::from_le_bytes([digest[0], digest[1]])) % 100 < percent
}

/// What a row is used for in a cycle that began at `as_of`.
pub fn part_of(example: &Example, as_of: DateTime<Utc>, holdout: &HoldoutSettings) -> Part {
    let Some(outcome) = example.outcome else { return Part::Unknown };
    if outcome.known_at > as_of {
        return Part::Unknown;
    }
    let recent_from = as_of - Duration::days(i64::from(holdout.recent_days));
    match (is_seasonal(example, holdout.seasonal_percent), example.prediction_time >= recent_from) {
        (true, _) => Part::Seasonal,
        (false, true) => Part::Recent,
        // A flight predicted before the newest days whose outcome came within
        // them would tell the challenger of those days.
        (false, false) if outcome.known_at > recent_from => Part::Unknown,
        (false, false) => Part::Training,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_data::Outcome;
    use delayd_features::FlightRow;

    fn example(number: u32, prediction: &str, known: &str) -> Example {
        let prediction_time: DateTime<Utc> = prediction.parse().unwrap();
        let row = FlightRow::scheduled("B6", number, "JFK", "LAX", prediction_time + Duration::hours(2));
        let outcome = Outcome { delayed: false, arrival_delay_minutes: 0, known_at: known.parse().unwrap() };
        Example { row, prediction_time, outcome: Some(outcome) }
    }

    #[test]
    fn about_the_configured_share_of_flights_is_seasonal_and_always_the_same_ones() {
        let count = |percent| {
            (1..5000)
                .filter(|n| is_seasonal(&example(*n, "2013-03-01T10:00:00Z", "2013-03-01T18:00:00Z"), percent))
                .count()
        };
        assert!((150..250).contains(&count(4)), "{}", count(4));
        assert_eq!(count(4), count(4));
    }

    #[test]
    fn what_is_not_known_at_the_retrain_is_neither_learnt_from_nor_judges() {
        let holdout = HoldoutSettings { seasonal_percent: 1, recent_days: 3 };
        let as_of: DateTime<Utc> = "2013-03-10T00:00:00Z".parse().unwrap();
        let part = |prediction, known| {
            // A number outside the seasonal set.
            let number = (1..100).find(|n| !is_seasonal(&example(*n, prediction, known), 1)).unwrap();
            part_of(&example(number, prediction, known), as_of, &holdout)
        };
        assert_eq!(part("2013-03-01T10:00:00Z", "2013-03-01T18:00:00Z"), Part::Training);
        assert_eq!(part("2013-03-08T10:00:00Z", "2013-03-08T18:00:00Z"), Part::Recent);
        assert_eq!(part("2013-03-09T22:00:00Z", "2013-03-10T06:00:00Z"), Part::Unknown);
        assert_eq!(part("2013-03-06T23:00:00Z", "2013-03-07T06:00:00Z"), Part::Unknown);
    }
}
