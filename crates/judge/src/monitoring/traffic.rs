//! Traffic that is not as usual for this hour of the week: drops and surges.
//! The profile keeps the last weeks of each of the 168 hours; its median and
//! median absolute deviation do not mind a strike day or a holiday. Hours are in
//! UTC: on the two changes of the clocks in a year the profile is one hour off,
//! which the tolerance covers or an operator sees as one notice.

use std::collections::VecDeque;

use chrono::{DateTime, Datelike, Timelike, Utc};
use delayd_core::fault::{broken_rules, is_positive};
use serde::{Deserialize, Serialize};

use crate::stats::{median, robust_deviation};

/// Hours of a week.
const HOURS: usize = 168;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Weeks kept per hour of the week.
    pub weeks: u32,
    /// Fewer earlier weeks of an hour are not judged against.
    pub minimum_weeks: u32,
    /// Deviations from the median, in robust standard deviations.
    pub limit_deviations: f64,
    /// The standard deviation is taken as at least this share of the median.
    pub minimum_relative_deviation: f64,
    /// Hours in a row that must be unusual before it counts.
    pub persistent_hours: u32,
}

impl Default for TrafficPolicy {
    fn default() -> Self {
        Self { weeks: 8, minimum_weeks: 3, limit_deviations: 5.0, minimum_relative_deviation: 0.1, persistent_hours: 2 }
    }
}

impl TrafficPolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "traffic",
            &[
                (self.minimum_weeks > 0, "minimum_weeks must be above 0"),
                (self.weeks >= self.minimum_weeks, "weeks must not be under minimum_weeks"),
                (is_positive(self.limit_deviations), "limit_deviations must be a number above 0"),
                (self.persistent_hours > 0, "persistent_hours must be above 0"),
            ],
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrafficKind {
    /// Too few earlier weeks to say.
    Unknown,
    Usual,
    Drop,
    Surge,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficReport {
    pub hour: DateTime<Utc>,
    pub requests: u64,
    pub expected: Option<f64>,
    /// Distance in robust standard deviations, negative for less.
    pub deviations: Option<f64>,
    pub kind: TrafficKind,
    /// Hours in a row of this kind, this one included.
    pub hours_in_a_row: u32,
    pub anomalous: bool,
    pub reason: String,
}

/// What is usual, hour by hour of the week. Serialisable: it lives in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficProfile {
    hours: Vec<VecDeque<u64>>,
    last: Option<(DateTime<Utc>, TrafficKind, u32)>,
}

impl Default for TrafficProfile {
    fn default() -> Self {
        Self { hours: vec![VecDeque::new(); HOURS], last: None }
    }
}

impl TrafficProfile {
    /// Judges a finished hour against the earlier weeks, then adds it to the profile. Hours
    /// must come in order; one that was judged already is not added twice.
    pub fn observe(&mut self, hour: DateTime<Utc>, requests: u64, policy: &TrafficPolicy) -> TrafficReport {
        let slot = hour.weekday().num_days_from_monday() as usize * 24 + hour.hour() as usize;
        let known: Vec<f64> =
            self.hours.get(slot).map(|weeks| weeks.iter().map(|n| *n as f64).collect()).unwrap_or_default();
        let (expected, deviations) = match median(&known) {
            Some(centre) if known.len() >= policy.minimum_weeks as usize => {
                // Counts scatter by at least their square root; never judge finer than that.
                let spread = robust_deviation(&known)
                    .unwrap_or(0.0)
                    .max(centre.sqrt())
                    .max(centre * policy.minimum_relative_deviation)
                    .max(1.0);
                (Some(centre), Some((requests as f64 - centre) / spread))
            }
            _ => (None, None),
        };
        let kind = match deviations {
            None => TrafficKind::Unknown,
            Some(far) if far <= -policy.limit_deviations => TrafficKind::Drop,
            // An hour that is usually busy and now dead is a drop, however much it scatters.
            Some(far) if requests == 0 && expected.is_some_and(|usual| usual >= 20.0) && far < -1.0 => {
                TrafficKind::Drop
            }
            Some(far) if far >= policy.limit_deviations => TrafficKind::Surge,
            Some(_) => TrafficKind::Usual,
        };
        let hours_in_a_row = self.continue_run(hour, kind);
        let new = self.last.is_none_or(|(last, ..)| hour > last);
        if new {
            self.learn(slot, requests, policy);
            self.last = Some((hour, kind, hours_in_a_row));
        }
        let unusual = matches!(kind, TrafficKind::Drop | TrafficKind::Surge);
        let anomalous = unusual && hours_in_a_row >= policy.persistent_hours;
        let reason = match (expected, deviations) {
            (Some(usual), Some(far)) => {
                format!("{requests} requests where {usual:.0} are usual ({far:+.1} deviations, {hours_in_a_row} hours)")
            }
            _ => format!("{} earlier weeks are too few to judge; {} are needed", known.len(), policy.minimum_weeks),
        };
        TrafficReport { hour, requests, expected, deviations, kind, hours_in_a_row, anomalous, reason }
    }

    fn continue_run(&self, hour: DateTime<Utc>, kind: TrafficKind) -> u32 {
        match self.last {
            Some((last, last_kind, run)) if last_kind == kind && hour - last == chrono::Duration::hours(1) => run + 1,
            Some((last, last_kind, run)) if last_kind == kind && hour == last => run,
            _ => 1,
        }
    }

    fn learn(&mut self, slot: usize, requests: u64, policy: &TrafficPolicy) {
        if let Some(weeks) = self.hours.get_mut(slot) {
            weeks.push_back(requests);
            while weeks.len() > policy.weeks.max(1) as usize {
                weeks.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(n: i64) -> DateTime<Utc> {
        "2013-03-04T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + chrono::Duration::hours(n)
    }

    /// Busy by day, nobody at night, less at weekends, with a little scatter.
    fn usual(n: i64) -> u64 {
        let (day, hour) = ((n / 24) % 7, n % 24);
        let base = if (6..22).contains(&hour) { 100 } else { 0 };
        (if day >= 5 { base / 2 } else { base }) + if base > 0 { (n * 7 % 11) as u64 } else { 0 }
    }

    fn trained() -> TrafficProfile {
        let mut profile = TrafficProfile::default();
        for n in 0..4 * 168 {
            let report = profile.observe(hour(n), usual(n), &TrafficPolicy::default());
            assert!(!report.anomalous, "{report:?}");
        }
        profile
    }

    #[test]
    fn nights_and_weekends_are_usual_and_the_first_weeks_are_unknown() {
        let policy = TrafficPolicy::default();
        assert_eq!(TrafficProfile::default().observe(hour(0), 5, &policy).kind, TrafficKind::Unknown);
        let mut profile = trained();
        for n in 4 * 168..5 * 168 {
            assert_eq!(profile.observe(hour(n), usual(n), &policy).kind, TrafficKind::Usual);
        }
    }

    #[test]
    fn a_drop_or_surge_counts_from_the_second_hour() {
        for (requests, kind) in [(0, TrafficKind::Drop), (400, TrafficKind::Surge)] {
            let mut profile = trained();
            let start = 4 * 168 + 10;
            let first = profile.observe(hour(start), requests, &TrafficPolicy::default());
            let second = profile.observe(hour(start + 1), requests, &TrafficPolicy::default());
            assert_eq!((first.kind, first.anomalous, second.kind, second.anomalous), (kind, false, kind, true));
        }
    }

    #[test]
    fn judging_the_same_hour_again_changes_nothing_and_the_profile_survives_json() {
        let mut profile = trained();
        let policy = TrafficPolicy::default();
        let first = profile.observe(hour(4 * 168), 3, &policy);
        let stored = serde_json::to_string(&profile).unwrap();
        let mut restored: TrafficProfile = serde_json::from_str(&stored).unwrap();
        let again = restored.observe(hour(4 * 168), 3, &policy);
        assert_eq!((first.hours_in_a_row, restored), (again.hours_in_a_row, profile));
    }
}
