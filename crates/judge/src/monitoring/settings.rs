//! `[monitoring]`: what is watched and how often, and what counts as drift, with the reason for each default. What counts
//! as skew, a slow service or degraded performance stands beside those checks.

use delayd_core::fault::{broken_rules, is_positive};
use serde::{Deserialize, Serialize};

use crate::monitoring::performance::PerformancePolicy;
use crate::monitoring::service::{ErrorPolicy, LatencyPolicy};
use crate::monitoring::skew::SkewPolicy;
use crate::monitoring::traffic::TrafficPolicy;

/// `[monitoring]`: what is watched, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitoringSettings {
    /// Seconds between checks of the replicas.
    pub interval_secs: u64,
    /// Where a day begins, in minutes after midnight UTC: with 300, days of New
    /// York's winter, so that a night's departures stay with their day.
    pub day_starts_minutes_utc: u32,
    /// How replicas are asked.
    pub scrape: ScrapePolicy,
    /// Drift of inputs and scores.
    pub drift: DriftPolicy,
    /// Realised performance.
    pub performance: PerformancePolicy,
    /// Error spikes.
    pub errors: ErrorPolicy,
    /// Latency.
    pub latency: LatencyPolicy,
    /// Drops and surges of traffic.
    pub traffic: TrafficPolicy,
    /// Score distribution against the reference.
    pub skew: SkewPolicy,
}

impl Default for MonitoringSettings {
    fn default() -> Self {
        Self {
            interval_secs: 60,
            day_starts_minutes_utc: 300,
            scrape: ScrapePolicy::default(),
            drift: DriftPolicy::default(),
            performance: PerformancePolicy::default(),
            errors: ErrorPolicy::default(),
            latency: LatencyPolicy::default(),
            traffic: TrafficPolicy::default(),
            skew: SkewPolicy::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrapePolicy {
    /// Deadline of one request in milliseconds, connection included.
    pub timeout_ms: u64,
    /// Replicas asked at the same time.
    pub concurrency: usize,
    /// Larger answers are refused.
    pub maximum_bytes: usize,
    /// Predictions asked for at once.
    pub page_size: u32,
}

impl Default for ScrapePolicy {
    fn default() -> Self {
        Self { timeout_ms: 5_000, concurrency: 16, maximum_bytes: 32 * 1024 * 1024, page_size: 10_000 }
    }
}

impl ScrapePolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "scrape",
            &[
                (self.timeout_ms > 0, "timeout_ms must be above 0"),
                (self.concurrency > 0, "concurrency must be above 0"),
                (self.maximum_bytes > 0, "maximum_bytes must be above 0"),
                (self.page_size > 0, "page_size must be above 0"),
            ],
        )
    }
}

/// Inputs that follow from the date alone. Their mix is the calendar's, not the
/// world's: they are measured and shown, and never raise an alarm.
const CALENDAR_INPUTS: [&str; 8] = [
    "is_holiday",
    "is_day_before_holiday",
    "is_day_after_holiday",
    "days_to_nearest_holiday",
    "weekday_sin",
    "weekday_cos",
    "is_weekend",
    "weekday",
];

/// The book of windows keeps three windows, each day with all bins: it is read and written at each check.
const LONGEST_WINDOW_DAYS: u32 = 91;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DriftPolicy {
    /// Days of traffic that one test covers, drift and score skew alike: whole
    /// weeks, so that the mix of hours and weekdays is that of the reference.
    pub window_days: u32,
    /// Fewer rows than this in a window are not judged.
    pub minimum_rows: u64,
    /// Fewer days with traffic than this in a window are not judged.
    pub minimum_days: u32,
    /// PSI above what chance explains, from which one input has drifted. The
    /// usual reading: under 0.1 nothing, above 0.2 a shift. A mean shifted by half
    /// a standard deviation gives about 0.23.
    pub feature_psi: f64,
    /// The same for the distribution of scores; higher, because scores follow
    /// the weather and the season without the model being any worse.
    pub score_psi: f64,
    /// Importance-weighted PSI from which the data as a whole has drifted.
    pub dataset_psi: f64,
    /// PSI of one input counts for at most this much in the weighted sum: gone
    /// is gone.
    pub psi_cap: f64,
    /// An effect must be this improbable by chance (chi-square p-value).
    pub significance: f64,
    /// Share of the model's importance from which one input's drift alarms alone.
    pub important_share: f64,
    /// A signal alarms when it exceeded in this many …
    pub persistent_windows: u32,
    /// … of this many last windows, the present one included.
    pub of_last_windows: u32,
    /// Rows per independent observation, at least; the check estimates it from
    /// the differences between days and takes the larger.
    pub minimum_design_effect: f64,
    /// Inputs that are shown and never alarm.
    pub ignored_inputs: Vec<String>,
}

impl Default for DriftPolicy {
    fn default() -> Self {
        Self {
            window_days: 14,
            minimum_rows: 1_000,
            minimum_days: 7,
            feature_psi: 0.2,
            score_psi: 0.25,
            dataset_psi: 0.15,
            psi_cap: 1.0,
            significance: 0.001,
            important_share: 0.05,
            persistent_windows: 3,
            of_last_windows: 5,
            minimum_design_effect: 1.0,
            ignored_inputs: CALENDAR_INPUTS.map(str::to_owned).to_vec(),
        }
    }
}

impl DriftPolicy {
    /// Everything that is wrong with the policy, key by key; empty when it can be used.
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "drift",
            &[
                (
                    (7..=LONGEST_WINDOW_DAYS).contains(&self.window_days) && self.window_days.is_multiple_of(7),
                    "window_days must be whole weeks (7, 14, … 91), or the mix of weekdays looks like drift",
                ),
                (self.minimum_rows > 0, "minimum_rows must be above 0"),
                (self.minimum_days <= self.window_days, "minimum_days must not exceed window_days"),
                (is_positive(self.feature_psi), "feature_psi must be a number above 0"),
                (is_positive(self.score_psi), "score_psi must be a number above 0"),
                (is_positive(self.dataset_psi), "dataset_psi must be a number above 0"),
                (is_positive(self.psi_cap), "psi_cap must be a number above 0"),
                (self.significance > 0.0 && self.significance < 1.0, "significance must be between 0 and 1"),
                ((0.0..=1.0).contains(&self.important_share), "important_share must be 0 to 1"),
                (
                    (1..=self.of_last_windows).contains(&self.persistent_windows),
                    "persistent_windows must be 1 to of_last_windows",
                ),
                (
                    self.minimum_design_effect.is_finite() && self.minimum_design_effect >= 1.0,
                    "minimum_design_effect must be 1 or more",
                ),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_faults_and_every_fault_is_told_at_once() {
        assert_eq!(DriftPolicy::default().faults(), Vec::<String>::new());
        let wrong = DriftPolicy {
            window_days: 10,
            significance: 0.0,
            feature_psi: f64::NAN,
            persistent_windows: 6,
            ..DriftPolicy::default()
        };
        assert_eq!(wrong.faults().len(), 4, "{:?}", wrong.faults());
    }

    #[test]
    fn an_unknown_key_is_refused_and_a_missing_one_has_its_default() {
        let parsed: DriftPolicy = serde_json::from_str(r#"{"feature_psi": 0.3}"#).unwrap();
        assert_eq!(parsed, DriftPolicy { feature_psi: 0.3, ..DriftPolicy::default() });
        assert!(serde_json::from_str::<DriftPolicy>(r#"{"feature_psy": 0.3}"#).is_err());
    }
}
