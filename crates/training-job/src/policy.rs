//! What a retrain may learn from: which rows are held out to judge it, and how much each of the others weighs.
//!
//! Two kinds of rows are held out: the newest days before the retrain, which
//! neither challenger nor live model has seen, and a frozen share of all flights,
//! chosen by a hash of the flight, from which no model ever learns: the seasons
//! of all history, so that a challenger that forgot winter is noticed in July.
//!
//! Measured on New York's 2013: learning from the last 7 days alone ranks worse
//! than never retraining, and all history ranks best. So the default is all
//! history, equally weighed; the fresh window, a half-life and the same season
//! of earlier years can be given more.

use chrono::{DateTime, Datelike, Duration, Utc};
use delayd_core::fault::broken_rules;
use delayd_data::Example;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `[holdout]`: rows that no model ever learns from, so that challenger and live
/// model can be compared on them fairly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldoutSettings {
    /// Percent of all flights, chosen by a hash of the flight, that stay out of
    /// training permanently: the frozen seasonal set.
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

/// Days of a year, for the distance between seasons.
const YEAR_DAYS: i64 = 365;
/// No flight is made heavier than this times its history weight: a handful of
/// fresh flights must not drown years.
const LARGEST_BOOST: f64 = 20.0;

/// What to learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingPolicy {
    /// Length of the fresh window in days: fetched anew for each cycle.
    pub fresh_window_days: u32,
    /// The fresh window's share of the total weight, at least; `None` leaves it
    /// its natural share.
    pub fresh_share: Option<f64>,
    /// History older than this many days is left out; `None` for all.
    pub history_days: Option<u32>,
    /// A flight this much older weighs half; `None` for no decay.
    pub half_life_days: Option<f64>,
    /// Share of the history's weight that the same season (of any year) has, at
    /// least, where there is such data; `None` leaves it its natural share.
    pub same_season_share: Option<f64>,
    /// Days to either side of today's date that are the same season.
    pub season_days: u32,
}

impl Default for TrainingPolicy {
    fn default() -> Self {
        Self {
            fresh_window_days: 7,
            fresh_share: None,
            history_days: None,
            half_life_days: None,
            same_season_share: None,
            season_days: 45,
        }
    }
}

impl TrainingPolicy {
    pub fn faults(&self) -> Vec<String> {
        let share = |share: Option<f64>| share.is_none_or(|share| (0.0..1.0).contains(&share));
        broken_rules(
            "training",
            &[
                (self.fresh_window_days > 0, "fresh_window_days must be above 0"),
                (share(self.fresh_share), "fresh_share must be 0 or more and under 1"),
                (share(self.same_season_share), "same_season_share must be 0 or more and under 1"),
                (
                    self.history_days.is_none_or(|days| days >= self.fresh_window_days),
                    "history_days must not be under fresh_window_days",
                ),
                (
                    self.half_life_days.is_none_or(|days| days.is_finite() && days > 0.0),
                    "half_life_days must be a number above 0, or left out for no decay",
                ),
                ((1..=182).contains(&self.season_days), "season_days must be 1 to 182"),
            ],
        )
    }
}

/// One weight per flight, mean 1 over the flights that count. A flight predicted
/// after `now` weighs 0: it cannot have been known.
pub fn sample_weights(prediction_times: &[DateTime<Utc>], now: DateTime<Utc>, policy: &TrainingPolicy) -> Vec<f32> {
    let ages: Vec<f64> = prediction_times.iter().map(|at| (now - *at).num_seconds() as f64 / 86_400.0).collect();
    let mut weights: Vec<f64> = ages.iter().map(|age| history_weight(*age, policy)).collect();
    let fresh: Vec<bool> = ages.iter().map(|age| *age < f64::from(policy.fresh_window_days)).collect();
    if let Some(share) = policy.same_season_share {
        let history: Vec<usize> = (0..weights.len()).filter(|index| !fresh[*index]).collect();
        let in_season = |index: &usize| same_season(prediction_times[*index], now, policy.season_days);
        let (season, rest): (Vec<usize>, Vec<usize>) = history.into_iter().partition(in_season);
        raise(&mut weights, &season, &rest, share);
    }
    if let Some(share) = policy.fresh_share {
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|index| fresh[*index]);
        raise(&mut weights, &inside, &outside, share);
    }
    let counted = weights.iter().filter(|weight| **weight > 0.0).count() as f64;
    let total: f64 = weights.iter().sum();
    let scale = if total > 0.0 { counted / total } else { 0.0 };
    weights.into_iter().map(|weight| (weight * scale) as f32).collect()
}

fn history_weight(age_days: f64, policy: &TrainingPolicy) -> f64 {
    if age_days < 0.0 || policy.history_days.is_some_and(|days| age_days > f64::from(days)) {
        return 0.0;
    }
    policy.half_life_days.map_or(1.0, |half_life| 0.5_f64.powf(age_days / half_life))
}

/// Whether a date lies within `days` of today's date, in any year.
fn same_season(at: DateTime<Utc>, now: DateTime<Utc>, days: u32) -> bool {
    let apart = (i64::from(at.ordinal()) - i64::from(now.ordinal())).abs();
    apart.min(YEAR_DAYS - apart) <= i64::from(days)
}

/// Makes `group` heavier until it has `share` of the weight of both; never lighter.
fn raise(weights: &mut [f64], group: &[usize], rest: &[usize], share: f64) {
    let sum = |indexes: &[usize]| indexes.iter().map(|index| weights[*index]).sum::<f64>();
    let (inside, outside) = (sum(group), sum(rest));
    if inside <= 0.0 || outside <= 0.0 {
        return;
    }
    let factor = (share * outside / ((1.0 - share) * inside)).clamp(1.0, LARGEST_BOOST);
    group.iter().for_each(|index| weights[*index] *= factor);
}

#[cfg(test)]
mod tests {
    use delayd_data::Outcome;
    use delayd_features::FlightRow;

    use super::*;

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

    fn now() -> DateTime<Utc> {
        "2013-07-01T00:00:00Z".parse().unwrap()
    }

    fn ages(days: &[i64]) -> Vec<DateTime<Utc>> {
        days.iter().map(|days| now() - Duration::days(*days)).collect()
    }

    #[test]
    fn by_default_all_history_weighs_the_same_and_the_future_nothing() {
        let weights = sample_weights(&ages(&[1, 30, 900, -1]), now(), &TrainingPolicy::default());
        assert_eq!(weights, [1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn with_a_half_life_a_flight_that_much_older_weighs_half() {
        let policy = TrainingPolicy { half_life_days: Some(30.0), ..TrainingPolicy::default() };
        let weights = sample_weights(&ages(&[0, 30, 60]), now(), &policy);
        assert!((weights[0] / weights[1] - 2.0).abs() < 1e-5 && (weights[1] / weights[2] - 2.0).abs() < 1e-5);
        assert!((weights.iter().sum::<f32>() - 3.0).abs() < 1e-5, "mean 1");
    }

    #[test]
    fn the_fresh_window_and_the_same_season_get_their_shares() {
        let policy =
            TrainingPolicy { fresh_share: Some(0.5), same_season_share: Some(0.6), ..TrainingPolicy::default() };
        // One fresh flight, one of this season a year ago, three of the winter.
        let weights = sample_weights(&ages(&[2, 365, 170, 180, 190]), now(), &policy);
        let total: f32 = weights.iter().sum();
        assert!((weights[0] / total - 0.5).abs() < 1e-5, "{weights:?}");
        assert!((weights[1] / (total - weights[0]) - 0.6).abs() < 1e-5, "{weights:?}");
    }

    #[test]
    fn history_beyond_its_limit_weighs_nothing_and_one_flight_cannot_drown_the_rest() {
        let policy = TrainingPolicy { history_days: Some(100), fresh_share: Some(0.9), ..TrainingPolicy::default() };
        let mut days = vec![1, 200];
        days.extend(std::iter::repeat_n(50, 1_000));
        let weights = sample_weights(&ages(&days), now(), &policy);
        assert_eq!(weights[1], 0.0);
        assert!((weights[0] / weights[2] - 20.0).abs() < 1e-3);
    }

    #[test]
    fn seasons_meet_across_the_new_year() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert!(same_season(at("2012-12-20T00:00:00Z"), at("2014-01-10T00:00:00Z"), 45));
        assert!(!same_season(at("2012-07-20T00:00:00Z"), at("2014-01-10T00:00:00Z"), 45));
    }
}
