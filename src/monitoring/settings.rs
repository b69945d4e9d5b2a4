//! `[monitoring]`.

use serde::{Deserialize, Serialize};

use super::drift_policy::DriftPolicy;
use super::errors::ErrorPolicy;
use super::latency::LatencyPolicy;
use super::performance::PerformancePolicy;
use super::scrape::ScrapePolicy;
use super::skew::SkewPolicy;
use super::traffic::TrafficPolicy;

/// `[monitoring]`: what is watched, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitoringSettings {
    /// Seconds between looks at the replicas.
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
