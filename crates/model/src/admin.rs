//! What a replica of the inference service reports to the daemon on its
//! administrative address: the documents only, so that the daemon can read them
//! without linking the service, and the service can write them without knowing
//! the daemon.
//!
//! All counts are totals since the replica started. A reader that wants a window
//! subtracts an earlier document from a later one; documents of several
//! replicas add up.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::reference::{Sketch, SketchError};

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaPhase {
    Ready,
    /// Was told to stop and finishes its last requests: counts may still grow.
    Draining,
    /// All requests are finished: the counts are final.
    Drained,
}

/// Answers to prediction requests by what became of them. Probes are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCounts {
    pub ok: u64,
    /// Answered with 4xx: the caller's fault.
    pub client_errors: u64,
    /// Answered with 5xx: the service's fault.
    pub server_errors: u64,
}

impl RequestCounts {
    pub fn total(&self) -> u64 {
        self.ok + self.client_errors + self.server_errors
    }

    pub fn merge(&mut self, other: &Self) {
        self.ok += other.ok;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
    }

    /// Subtracts an earlier state of the same counters.
    pub fn subtract(&mut self, earlier: &Self) {
        self.ok = self.ok.saturating_sub(earlier.ok);
        self.client_errors = self.client_errors.saturating_sub(earlier.client_errors);
        self.server_errors = self.server_errors.saturating_sub(earlier.server_errors);
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyHistogram {
    /// Ascending upper bounds in seconds; a duration on a bound belongs to it.
    pub bounds_secs: Vec<f64>,
    /// Durations per bucket (not cumulative), the last for what is over all bounds.
    pub counts: Vec<u64>,
    pub sum_secs: f64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self { bounds_secs: Self::BOUNDS_SECS.to_vec(), counts: vec![0; Self::BOUNDS_SECS.len() + 1], sum_secs: 0.0 }
    }
}

impl LatencyHistogram {
    /// The service's buckets: fine below a millisecond, where its requests are.
    pub const BOUNDS_SECS: [f64; 19] = [
        0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05,
        0.1, 0.25, 0.5, 1.0, 2.5,
    ];

    pub fn observe(&mut self, secs: f64) {
        let bucket = self.bounds_secs.partition_point(|bound| *bound < secs);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
            self.sum_secs += secs;
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration in seconds below which the share `q` (0 to 1) lies, linear
    /// within the bucket as Prometheus' `histogram_quantile`; `None` where
    /// nothing was counted. What is over all bounds counts as the last bound.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in self.bounds_secs.iter().zip(&self.counts) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            lower = *bound;
        }
        Some(lower)
    }

    /// Adds another histogram of the same buckets.
    pub fn merge(&mut self, other: &Self) -> Result<(), BucketsDiffer> {
        self.combine(other, u64::saturating_add)?;
        self.sum_secs += other.sum_secs;
        Ok(())
    }

    /// Subtracts an earlier state of the same histogram.
    pub fn subtract(&mut self, earlier: &Self) -> Result<(), BucketsDiffer> {
        self.combine(earlier, u64::saturating_sub)?;
        self.sum_secs = (self.sum_secs - earlier.sum_secs).max(0.0);
        Ok(())
    }

    fn combine(&mut self, other: &Self, apply: fn(u64, u64) -> u64) -> Result<(), BucketsDiffer> {
        if self.bounds_secs != other.bounds_secs || self.counts.len() != other.counts.len() {
            return Err(BucketsDiffer { found: other.bounds_secs.clone(), expected: self.bounds_secs.clone() });
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count = apply(*count, *other));
        Ok(())
    }
}

/// Two histograms whose buckets are not the same.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("latency histogram has the bounds {found:?}, not {expected:?}; the replicas are of different builds")]
pub struct BucketsDiffer {
    pub found: Vec<f64>,
    pub expected: Vec<f64>,
}

/// Two reports that do not add up.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ReportError {
    #[error("reports of different models do not add up")]
    Sketch(#[from] SketchError),
    #[error("reports of different builds do not add up")]
    Latency(#[from] BucketsDiffer),
}

/// `GET /admin/v1/sketch`: everything one replica has counted since it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaReport {
    pub replica: String,
    pub model_version: String,
    pub bundle: String,
    pub feature_hash: String,
    /// Where it is in its life.
    pub phase: ReplicaPhase,
    /// When it started; another value under the same name is another process,
    /// whose counts began at zero.
    pub started_at: DateTime<Utc>,
    pub reported_at: DateTime<Utc>,
    pub requests: RequestCounts,
    /// Requests being answered now on the public address.
    pub in_flight: u64,
    /// Time from a prediction request's head to its answer.
    pub latency: LatencyHistogram,
    /// Rows in the bins of the bundle's drift reference.
    pub sketch: Sketch,
    /// Rows whose value of a category the model has not seen, by category name.
    pub unknown_categories: BTreeMap<String, u64>,
    /// Sequence number of the last prediction recorded; 0 where there is none.
    pub last_sequence: u64,
    /// Resident memory in bytes, where known.
    pub memory_bytes: Option<u64>,
}

impl ReplicaReport {
    /// Subtracts an earlier report of the same process: what came in between.
    /// When the two are not of the same model or build; `self` is unchanged then.
    pub fn subtract(&mut self, earlier: &Self) -> Result<(), ReportError> {
        let mut latency = self.latency.clone();
        latency.subtract(&earlier.latency)?;
        self.sketch.subtract(&earlier.sketch)?;
        self.latency = latency;
        self.requests.subtract(&earlier.requests);
        for (name, count) in &mut self.unknown_categories {
            *count = count.saturating_sub(earlier.unknown_categories.get(name).copied().unwrap_or(0));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedPrediction {
    /// Ascending from 1, without gaps, per replica process.
    pub seq: u64,
    pub received_at: DateTime<Utc>,
    pub carrier: String,
    pub flight_number: u32,
    pub origin: String,
    pub dest: String,
    pub scheduled_departure: DateTime<Utc>,
    pub score: f32,
    pub model_version: String,
}

/// `GET /admin/v1/predictions?after=SEQ&limit=N`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionPage {
    pub replica: String,
    /// As in [`ReplicaReport::started_at`]: sequence numbers restart with it.
    pub started_at: DateTime<Utc>,
    /// Where it is in its life.
    pub phase: ReplicaPhase,
    /// Predictions after `after`, oldest first.
    pub predictions: Vec<ServedPrediction>,
    /// What to ask for next as `after`.
    pub next_after: u64,
    /// Predictions after `after` that were overwritten before they were fetched.
    pub lost: u64,
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_the_bucket_that_holds_it() {
        let mut latency = LatencyHistogram::default();
        assert_eq!(latency.quantile(0.5), None);
        (0..99).for_each(|_| latency.observe(0.000_4));
        latency.observe(0.2);
        let (p50, p99, p100) = (latency.quantile(0.5), latency.quantile(0.99), latency.quantile(1.0));
        assert!(p50.is_some_and(|p| p > 0.000_3 && p < 0.000_5), "{p50:?}");
        assert!(p99.is_some_and(|p| p <= 0.000_5), "{p99:?}");
        assert_eq!(p100, Some(0.25));
    }

    #[test]
    fn a_duration_over_all_bounds_is_counted_and_reported_as_the_last_bound() {
        let mut latency = LatencyHistogram::default();
        latency.observe(60.0);
        assert_eq!((latency.count(), latency.quantile(0.5)), (1, Some(2.5)));
    }

    #[test]
    fn histograms_add_up_and_an_earlier_state_can_be_taken_away() {
        let (mut a, mut b) = (LatencyHistogram::default(), LatencyHistogram::default());
        a.observe(0.001);
        b.observe(0.002);
        b.observe(0.004);
        let before = a.clone();
        a.merge(&b).unwrap();
        assert_eq!(a.count(), 3);
        a.subtract(&b).unwrap();
        assert_eq!(a.counts, before.counts);
        assert!((a.sum_secs - before.sum_secs).abs() < 1e-12);
    }

    #[test]
    fn histograms_of_different_buckets_are_not_mixed() {
        let mut other = LatencyHistogram::default();
        other.bounds_secs[0] = 0.000_06;
        assert!(LatencyHistogram::default().merge(&other).is_err());
    }

    #[test]
    fn request_counts_of_a_window_are_the_difference_of_two_totals() {
        let mut now = RequestCounts { ok: 10, client_errors: 4, server_errors: 1 };
        now.subtract(&RequestCounts { ok: 7, client_errors: 1, server_errors: 1 });
        assert_eq!(now, RequestCounts { ok: 3, client_errors: 3, server_errors: 0 });
        assert_eq!(now.total(), 6);
    }
}
