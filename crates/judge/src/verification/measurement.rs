//! What was measured of a deployment: the new one's numbers, and later the next
//! one's baseline. Measurements of different kinds are not compared: a client
//! sees more latency than the service does.

use delayd_model::DriftReference;
use delayd_model::admin::{LatencyHistogram, ReplicaReport, RequestCounts};
use serde::{Deserialize, Serialize};

use crate::stats::{Interval, normal_quantile, sorted_quantile};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeAnswer {
    pub label: String,
    /// From sending the head to having read the body, in milliseconds.
    pub latency_ms: f64,
    pub status: Option<u16>,
    /// The score; `None` without one.
    pub score: Option<f32>,
    pub expected_score: Option<f32>,
    pub model_version: Option<String>,
    pub bundle: Option<String>,
    /// What went wrong, where something did.
    pub error: Option<String>,
    /// Part of the warm-up: latency does not count.
    pub warm_up: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeResult {
    pub answers: Vec<ProbeAnswer>,
    /// Rows that were not sent before the deadline.
    pub not_sent: usize,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasurementSource {
    /// Rows replayed over HTTP, measured by the client.
    Probe,
    /// Live traffic, counted by the replicas.
    LiveTraffic,
}

/// Latency, errors and scores of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    pub source: MeasurementSource,
    pub requests: u64,
    /// Those that the service failed: 5xx, no answer, no readable answer; of a
    /// probe also 4xx, as its rows are known to be good.
    pub errors: u64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Interval of the 95th percentile, where single latencies are known.
    pub p95_interval_ms: Option<Interval>,
    /// Scores in the reference's bins.
    pub score_counts: Vec<u64>,
    pub invalid_scores: u64,
}

impl Measurement {
    /// From a replay. `confidence` is that of the interval.
    pub fn of_probe(probe: &ProbeResult, confidence: f64) -> Self {
        let answered = probe.answers.iter().filter(|answer| answer.error.is_none());
        let mut latencies: Vec<f64> =
            answered.filter(|answer| !answer.warm_up).map(|answer| answer.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let mut score_counts = vec![0; DriftReference::SCORE_BINS];
        let mut invalid_scores = 0;
        for score in probe.answers.iter().filter_map(|answer| answer.score) {
            if (0.0..=1.0).contains(&score) {
                let bin = (score * DriftReference::SCORE_BINS as f32) as usize;
                score_counts[bin.min(DriftReference::SCORE_BINS - 1)] += 1;
            } else {
                invalid_scores += 1;
            }
        }
        Self {
            source: MeasurementSource::Probe,
            requests: probe.answers.len() as u64,
            errors: probe.answers.iter().filter(|answer| answer.error.is_some()).count() as u64,
            p50_ms: sorted_quantile(&latencies, 0.5),
            p95_ms: sorted_quantile(&latencies, 0.95),
            p99_ms: sorted_quantile(&latencies, 0.99),
            p95_interval_ms: quantile_interval(&latencies, 0.95, confidence),
            score_counts,
            invalid_scores,
        }
    }

    /// From what replicas counted. Replicas of other builds, whose buckets do not
    /// add up, are left out of the latency.
    pub fn of_reports(reports: &[&ReplicaReport]) -> Self {
        let mut requests = RequestCounts::default();
        let mut latency: Option<LatencyHistogram> = None;
        let mut score_counts = vec![0; DriftReference::SCORE_BINS];
        for report in reports {
            requests.merge(&report.requests);
            score_counts.iter_mut().zip(&report.sketch.scores).for_each(|(sum, count)| *sum += count);
            latency = match latency {
                None => Some(report.latency.clone()),
                Some(mut sum) => {
                    if let Err(error) = sum.merge(&report.latency) {
                        tracing::warn!(replica.name = %report.replica, %error, "latency left out of the verification");
                    }
                    Some(sum)
                }
            };
        }
        let quantile = |p| latency.as_ref().and_then(|sum| sum.quantile(p)).map(|secs| secs * 1_000.0);
        Self {
            source: MeasurementSource::LiveTraffic,
            requests: requests.total(),
            errors: requests.server_errors,
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            p95_interval_ms: None,
            score_counts,
            invalid_scores: 0,
        }
    }
}

/// Distribution-free interval of a quantile: the order statistics whose ranks
/// bracket it (normal approximation of the binomial).
fn quantile_interval(sorted: &[f64], p: f64, confidence: f64) -> Option<Interval> {
    let n = sorted.len() as f64;
    let half = normal_quantile(confidence) * (n * p * (1.0 - p)).sqrt();
    let at = |rank: f64| sorted.get((rank.max(1.0) as usize).min(sorted.len()).checked_sub(1)?).copied();
    Some(Interval { low: at((n * p - half).floor())?, high: at((n * p + half).ceil() + 1.0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_quantile_brackets_it_and_narrows_with_more_requests() {
        let sorted = |n: u32| (1..=n).map(|i| f64::from(i) / f64::from(n)).collect::<Vec<f64>>();
        let (few, many) = (quantile_interval(&sorted(100), 0.95, 0.95), quantile_interval(&sorted(10_000), 0.95, 0.95));
        let (few, many) = (few.unwrap(), many.unwrap());
        assert!(few.low < 0.95 && 0.95 < few.high && many.low < 0.95 && 0.95 < many.high);
        assert!(many.high - many.low < (few.high - few.low) / 5.0);
        assert_eq!(quantile_interval(&[], 0.95, 0.95), None);
    }
}
