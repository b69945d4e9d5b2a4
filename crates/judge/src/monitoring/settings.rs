//! `[monitoring]`.

use serde::{Deserialize, Serialize};

use super::drift_policy::DriftPolicy;
use super::errors::ErrorPolicy;
use super::latency::LatencyPolicy;
use super::performance::PerformancePolicy;
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
    /// Everything that is wrong with the policy; empty when it can be used.
    pub fn faults(&self) -> Vec<String> {
        let checks = [
            (self.timeout_ms > 0, "timeout_ms must be above 0"),
            (self.concurrency > 0, "concurrency must be above 0"),
            (self.maximum_bytes > 0, "maximum_bytes must be above 0"),
            (self.page_size > 0, "page_size must be above 0"),
        ];
        checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| format!("scrape: {text}")).collect()
    }
}
