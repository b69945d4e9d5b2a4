//! Latency quantiles from histogram buckets, by replica and of all together.
//! Buckets add up, so the overall quantiles are exact to a bucket however many
//! replicas there are; quantiles of quantiles never are.

use delayd_model::admin::{BucketsDiffer, LatencyHistogram};
use serde::{Deserialize, Serialize};

/// A quantile read off a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyQuantile {
    /// Milliseconds.
    pub ms: f64,
    /// It lies beyond the last bound: at least this much.
    pub at_least: bool,
}

/// Quantiles of one histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    /// Requests.
    pub requests: u64,
    /// Median.
    pub p50: LatencyQuantile,
    /// 95th percentile.
    pub p95: LatencyQuantile,
    /// 99th percentile.
    pub p99: LatencyQuantile,
}

/// Latency of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyReport {
    /// All replicas together; `None` without requests.
    pub overall: Option<LatencySummary>,
    /// Replica by replica.
    pub replicas: Vec<(String, Option<LatencySummary>)>,
    /// Replicas whose p95 is more than `slow_replica_ratio` times the overall one.
    pub slow_replicas: Vec<String>,
    /// Whether the overall p95 is above its bound.
    pub too_slow: bool,
    /// One sentence.
    pub reason: String,
}

/// What counts as slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyPolicy {
    /// Bound of the overall p95 in milliseconds.
    pub p95_limit_ms: f64,
    /// A replica is slow when its p95 is this many times the overall one.
    pub slow_replica_ratio: f64,
    /// Fewer requests are not judged.
    pub minimum_requests: u64,
}

impl Default for LatencyPolicy {
    fn default() -> Self {
        Self { p95_limit_ms: 50.0, slow_replica_ratio: 3.0, minimum_requests: 100 }
    }
}

impl LatencyPolicy {
    /// Everything that is wrong with the policy; empty when it can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            (positive(self.p95_limit_ms), "p95_limit_ms must be a number above 0"),
            (self.slow_replica_ratio > 1.0, "slow_replica_ratio must be above 1"),
        ];
        checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| format!("latency: {text}")).collect()
    }
}

/// A quantile in milliseconds, linear within its bucket; `None` without requests.
#[must_use]
pub fn quantile_ms(histogram: &LatencyHistogram, p: f64) -> Option<LatencyQuantile> {
    let ms = histogram.quantile(p)? * 1_000.0;
    let beyond = histogram.counts.last().copied().unwrap_or(0) as f64;
    let total = histogram.count() as f64;
    Some(LatencyQuantile { ms, at_least: beyond > 0.0 && p * total > total - beyond })
}

/// p50, p95 and p99; `None` without requests.
#[must_use]
pub fn summarise(histogram: &LatencyHistogram) -> Option<LatencySummary> {
    Some(LatencySummary {
        requests: histogram.count(),
        p50: quantile_ms(histogram, 0.5)?,
        p95: quantile_ms(histogram, 0.95)?,
        p99: quantile_ms(histogram, 0.99)?,
    })
}

/// Judges the latency of a release from its replicas' histograms.
///
/// # Errors
/// When the replicas do not have the same buckets.
pub fn evaluate(
    replicas: &[(String, LatencyHistogram)],
    policy: &LatencyPolicy,
) -> Result<LatencyReport, BucketsDiffer> {
    let mut sum: Option<LatencyHistogram> = None;
    for (_, histogram) in replicas {
        match &mut sum {
            Some(sum) => sum.merge(histogram)?,
            None => sum = Some(histogram.clone()),
        }
    }
    let overall = sum.as_ref().and_then(summarise);
    let summaries: Vec<(String, Option<LatencySummary>)> =
        replicas.iter().map(|(name, histogram)| (name.clone(), summarise(histogram))).collect();
    let judged = |summary: &LatencySummary| summary.requests >= policy.minimum_requests;
    let slow_replicas = match &overall {
        Some(all) => {
            let slow = |own: &LatencySummary| judged(own) && own.p95.ms > policy.slow_replica_ratio * all.p95.ms;
            let names = summaries.iter().filter(|(_, own)| own.as_ref().is_some_and(slow));
            names.map(|(name, _)| name.clone()).collect()
        }
        None => Vec::new(),
    };
    let too_slow = overall.as_ref().is_some_and(|all| judged(all) && all.p95.ms > policy.p95_limit_ms);
    let reason = match &overall {
        None => "no requests".to_owned(),
        Some(all) if !judged(all) => {
            format!("{} requests are too few to judge; {} are needed", all.requests, policy.minimum_requests)
        }
        Some(all) => {
            let relation = if too_slow { "above" } else { "within" };
            format!("p95 {:.2} ms is {relation} {} ms over {} requests", all.p95.ms, policy.p95_limit_ms, all.requests)
        }
    };
    Ok(LatencyReport { overall, replicas: summaries, slow_replicas, too_slow, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: [u64; 4]) -> LatencyHistogram {
        LatencyHistogram { bounds_secs: vec![0.001, 0.002, 0.004], counts: counts.to_vec(), sum_secs: 0.0 }
    }

    #[test]
    fn quantiles_interpolate_and_say_when_they_lie_beyond_the_last_bound() {
        let found = summarise(&histogram([50, 40, 9, 1])).unwrap();
        assert!((found.p50.ms - 1.0).abs() < 1e-9 && !found.p95.at_least);
        assert!((found.p95.ms - (2.0 + 2.0 * 5.0 / 9.0)).abs() < 1e-9);
        assert_eq!(quantile_ms(&histogram([0, 0, 0, 10]), 0.5), Some(LatencyQuantile { ms: 4.0, at_least: true }));
        assert_eq!(summarise(&histogram([0; 4])), None);
    }

    #[test]
    fn one_slow_replica_of_many_is_named() {
        let mut replicas: Vec<(String, LatencyHistogram)> =
            (0..30).map(|n| (format!("replica-{n}"), histogram([200, 0, 0, 0]))).collect();
        replicas.push(("slow".into(), histogram([0, 0, 200, 0])));
        let report = evaluate(&replicas, &LatencyPolicy { p95_limit_ms: 10.0, ..LatencyPolicy::default() }).unwrap();
        assert_eq!(report.slow_replicas, ["slow"]);
        assert!(!report.too_slow, "{}", report.reason);
    }

    #[test]
    fn the_overall_p95_is_judged_against_its_bound_only_with_enough_requests() {
        let policy = LatencyPolicy { p95_limit_ms: 1.5, ..LatencyPolicy::default() };
        let judge = |counts| evaluate(&[("a".into(), histogram(counts))], &policy).unwrap();
        assert!(judge([0, 0, 200, 0]).too_slow);
        assert!(!judge([0, 0, 20, 0]).too_slow);
        assert!(judge([0, 0, 20, 0]).reason.contains("too few"));
    }

    #[test]
    fn replicas_of_different_builds_are_refused() {
        let other = LatencyHistogram { bounds_secs: vec![5.0], counts: vec![1, 1], sum_secs: 0.0 };
        let replicas = [("a".into(), histogram([1, 0, 0, 0])), ("b".into(), other)];
        assert!(evaluate(&replicas, &LatencyPolicy::default()).is_err());
    }
}
