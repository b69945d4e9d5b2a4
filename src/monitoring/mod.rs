//! Watching the live model: what replicas counted is fetched (`scrape`), turned
//! into windows (`window`) and judged: drift of inputs and scores (`drift`,
//! `skew`), realised performance (`performance`), latency, errors and traffic.
//!
//! Everything except `scrape` is pure: documents in, documents out, all of them
//! serialisable so that a verdict can be explained later from what was stored.
//! Nothing here decides to retrain (see `crate::coordinator`) or sends an alert.

pub mod bins;
pub mod drift;
pub mod drift_policy;
pub mod errors;
pub mod latency;
pub mod performance;
pub mod realised;
pub mod scrape;
pub mod skew;
pub mod stats;
pub mod traffic;
pub mod window;

use serde::{Deserialize, Serialize};

/// All thresholds of monitoring together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorPolicy {
    /// Drift of inputs and scores.
    pub drift: drift_policy::DriftPolicy,
    /// Realised performance.
    pub performance: performance::PerformancePolicy,
    /// Latency.
    pub latency: latency::LatencyPolicy,
    /// Error spikes.
    pub errors: errors::ErrorPolicy,
    /// Traffic drops and surges.
    pub traffic: traffic::TrafficPolicy,
    /// Prediction and train/serve skew.
    pub skew: skew::SkewPolicy,
    /// How replicas are asked.
    pub scrape: scrape::ScrapePolicy,
}

impl MonitorPolicy {
    /// Everything that is wrong with the thresholds; empty when they can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            (positive(self.latency.p95_limit_ms), "latency: p95_limit_ms must be a number above 0"),
            (self.latency.slow_replica_ratio > 1.0, "latency: slow_replica_ratio must be above 1"),
            (self.errors.minimum_ratio >= 1.0, "errors: minimum_ratio must be 1 or more"),
            ((0.0..1.0).contains(&self.errors.minimum_share), "errors: minimum_share must be 0 or more and under 1"),
            (positive(self.errors.significance), "errors: significance must be above 0"),
            (self.traffic.weeks >= self.traffic.minimum_weeks, "traffic: weeks must not be under minimum_weeks"),
            (self.traffic.minimum_weeks > 0, "traffic: minimum_weeks must be above 0"),
            (positive(self.traffic.limit_deviations), "traffic: limit_deviations must be a number above 0"),
            (positive(self.skew.score_psi), "skew: score_psi must be a number above 0"),
            (self.scrape.timeout_ms > 0, "scrape: timeout_ms must be above 0"),
            (self.scrape.concurrency > 0, "scrape: concurrency must be above 0"),
        ];
        let own = checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| (*text).to_owned());
        self.drift.faults().into_iter().chain(self.performance.faults()).chain(own).collect()
    }
}
