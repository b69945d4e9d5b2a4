//! How the service itself does: latency, errors, traffic and the distribution of its scores. Pure: from the book of
//! windows to one document and the alerts to send.
//!
//! Latency quantiles come from histogram buckets. Buckets add up, so the overall quantiles are exact to a bucket however
//! many replicas there are; quantiles of quantiles never are.
//!
//! Three things together make an error spike: a share that matters, several times the baseline's, and more errors than
//! chance explains (Poisson). Bad input (4xx) is the caller's fault and not a failure.

use chrono::{DateTime, Duration, DurationRound, Utc};
use delayd_core::fault::{broken_rules, is_positive};
use delayd_model::DriftReference;
use delayd_model::admin::{BucketsDiffer, LatencyHistogram, RequestCounts};
use serde::{Deserialize, Serialize};

use crate::monitoring::drift::DriftWindow;
use crate::monitoring::settings::MonitoringSettings;
use crate::monitoring::skew::{PredictionSkewReport, prediction_skew};
use crate::monitoring::traffic::{TrafficProfile, TrafficReport};
use crate::monitoring::window::WindowBook;
use crate::stats::{Interval, failure_interval, poisson_upper_tail};

/// Errors of the last hour are held against those of this many hours before.
const ERROR_BASELINE_HOURS: i64 = 24;
/// Hours that were not watched are not judged one by one when the watch resumes.
const MOST_HOURS_AT_ONCE: i64 = 3;

/// What each check says where it finds something: in alerts and in the status.
pub const ERROR_RATE_TITLE: &str = "The error rate is above its baseline";
pub const LATENCY_TITLE: &str = "The service is slow";
pub const TRAFFIC_TITLE: &str = "Traffic is unusual for this hour of the week";
pub const SCORES_TITLE: &str = "The score distribution has shifted from the reference";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceReport {
    /// By replica and overall, over the day under way and the one before.
    pub latency: LatencyReport,
    /// The last hour against the day before it.
    pub errors: ErrorReport,
    /// The hours that ended since the last check, where they were all watched.
    pub traffic: Vec<TrafficReport>,
    /// Scores of the drift window against the reference; `None` without whole days.
    pub skew: Option<PredictionSkewReport>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort, for the alert's key.
    pub kind: &'static str,
    /// One line.
    pub title: String,
    pub reason: String,
}

impl ServiceReport {
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |wrong: bool, kind, title: &str, reason: &str| {
            if wrong {
                findings.push(Finding { kind, title: title.to_owned(), reason: reason.to_owned() });
            }
        };
        add(self.errors.spike, "errors", ERROR_RATE_TITLE, &self.errors.reason);
        add(self.latency.is_slow(), "latency", LATENCY_TITLE, &self.latency.reason);
        for hour in &self.traffic {
            add(hour.anomalous, "traffic", TRAFFIC_TITLE, &hour.reason);
        }
        if let Some(skew) = &self.skew {
            add(skew.skewed, "skew", SCORES_TITLE, &skew.reason);
        }
        findings
    }
}

#[derive(Debug, Clone, Copy)]
pub struct ServiceInputs<'a> {
    pub model: &'a str,
    pub reference: &'a DriftReference,
    /// Whole days of traffic, where there are any.
    pub window: Option<&'a DriftWindow>,
    pub looked_at: Option<DateTime<Utc>>,
}

/// Judges the service at the moment `now`; learns the finished hours' traffic.
pub fn evaluate(
    book: &WindowBook,
    profile: &mut TrafficProfile,
    inputs: ServiceInputs<'_>,
    settings: &MonitoringSettings,
    now: DateTime<Utc>,
) -> Result<ServiceReport, BucketsDiffer> {
    let hour = now.duration_trunc(Duration::hours(1)).unwrap_or(now);
    let current = book.requests(inputs.model, hour - Duration::hours(1), now);
    let before = hour - Duration::hours(1);
    let baseline = book.requests(inputs.model, before - Duration::hours(ERROR_BASELINE_HOURS), before);
    Ok(ServiceReport {
        latency: judge_latency(&book.latency_by_replica(inputs.model, now, 2)?, &settings.latency)?,
        errors: judge_errors(current, baseline, &settings.errors),
        traffic: finished_hours(inputs.looked_at, now)
            .into_iter()
            .map(|hour| profile.observe(hour, book.traffic(hour), &settings.traffic))
            .collect(),
        skew: inputs.window.map(|window| prediction_skew(inputs.reference, window, &settings.skew)),
    })
}

/// The hours that ended between two checks. After a longer gap (the daemon was
/// down, or a replay checks once a day) counts cannot be assigned to hours, and
/// nothing is judged or added to the profile.
fn finished_hours(looked_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let hour = Duration::hours(1);
    let (Some(from), Ok(until)) = (looked_at.and_then(|at| at.duration_trunc(hour).ok()), now.duration_trunc(hour))
    else {
        return Vec::new();
    };
    let ended = (until - from).num_hours();
    if ended > MOST_HOURS_AT_ONCE {
        return Vec::new();
    }
    (0..ended).map(|n| from + hour * n as i32).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyQuantile {
    pub ms: f64,
    /// It lies beyond the last bound: at least this much.
    pub at_least: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencySummary {
    pub requests: u64,
    pub p50: LatencyQuantile,
    pub p95: LatencyQuantile,
    pub p99: LatencyQuantile,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyReport {
    /// All replicas together; `None` without requests.
    pub overall: Option<LatencySummary>,
    pub replicas: Vec<(String, Option<LatencySummary>)>,
    /// Replicas whose p95 is more than `slow_replica_ratio` times the overall one.
    pub slow_replicas: Vec<String>,
    /// Whether the overall p95 is above its bound.
    pub too_slow: bool,
    pub reason: String,
}

impl LatencyReport {
    pub fn is_slow(&self) -> bool {
        self.too_slow || !self.slow_replicas.is_empty()
    }
}

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
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "latency",
            &[
                (is_positive(self.p95_limit_ms), "p95_limit_ms must be a number above 0"),
                (self.slow_replica_ratio > 1.0, "slow_replica_ratio must be above 1"),
            ],
        )
    }
}

/// A quantile in milliseconds, linear within its bucket; `None` without requests.
fn quantile_ms(histogram: &LatencyHistogram, p: f64) -> Option<LatencyQuantile> {
    let ms = histogram.quantile(p)? * 1_000.0;
    let beyond = histogram.counts.last().copied().unwrap_or(0) as f64;
    let total = histogram.count() as f64;
    Some(LatencyQuantile { ms, at_least: beyond > 0.0 && p * total > total - beyond })
}

/// p50, p95 and p99; `None` without requests.
fn summarise(histogram: &LatencyHistogram) -> Option<LatencySummary> {
    Some(LatencySummary {
        requests: histogram.count(),
        p50: quantile_ms(histogram, 0.5)?,
        p95: quantile_ms(histogram, 0.95)?,
        p99: quantile_ms(histogram, 0.99)?,
    })
}

/// Judges the latency of a release from its replicas' histograms.
fn judge_latency(
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
    let mut reason = match &overall {
        None => "no requests".to_owned(),
        Some(all) if !judged(all) => {
            format!("{} requests are too few to judge; {} are needed", all.requests, policy.minimum_requests)
        }
        Some(all) => {
            let relation = if too_slow { "above" } else { "within" };
            format!("p95 {:.2} ms is {relation} {} ms over {} requests", all.p95.ms, policy.p95_limit_ms, all.requests)
        }
    };
    if !slow_replicas.is_empty() {
        reason.push_str(&format!("; much slower than the others: {}", slow_replicas.join(", ")));
    }
    Ok(LatencyReport { overall, replicas: summaries, slow_replicas, too_slow, reason })
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorPolicy {
    /// Shares of errors under this are never a spike.
    pub minimum_share: f64,
    /// A spike is at least this many times the baseline's share.
    pub minimum_ratio: f64,
    /// Fewer errors are never a spike.
    pub minimum_errors: u64,
    /// So many errors must be this improbable at the baseline's rate.
    pub significance: f64,
    /// Two-sided confidence of the intervals.
    pub confidence: f64,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self { minimum_share: 0.01, minimum_ratio: 3.0, minimum_errors: 5, significance: 1e-4, confidence: 0.95 }
    }
}

impl ErrorPolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "errors",
            &[
                ((0.0..1.0).contains(&self.minimum_share), "minimum_share must be 0 or more and under 1"),
                (self.minimum_ratio >= 1.0, "minimum_ratio must be 1 or more"),
                (is_positive(self.significance), "significance must be above 0"),
                (self.confidence > 0.5 && self.confidence < 1.0, "confidence must be between 0.5 and 1"),
            ],
        )
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReport {
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub current: RequestCounts,
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub baseline: RequestCounts,
    /// Share of errors now; 0 without requests.
    pub share: f64,
    pub interval: Interval,
    pub baseline_share: f64,
    /// Probability of so many errors at the baseline's rate.
    pub p_value: f64,
    pub spike: bool,
    pub reason: String,
}

/// Judges `current` against the recent `baseline` (for instance the last 24
/// hours before it).
fn judge_errors(current: RequestCounts, baseline: RequestCounts, policy: &ErrorPolicy) -> ErrorReport {
    let share_of = |counts: RequestCounts| counts.server_errors as f64 / counts.total().max(1) as f64;
    let share = share_of(current);
    // Half an error more: a baseline without any must not make the first one a
    // spike. Without a baseline, what may be tolerated stands in.
    let rate = match baseline.total() {
        0 => policy.minimum_share,
        requests => (baseline.server_errors as f64 + 0.5) / (requests as f64 + 1.0),
    };
    let baseline_share = share_of(baseline);
    let p_value = poisson_upper_tail(current.server_errors, rate * current.total() as f64);
    let tests = [
        (current.server_errors >= policy.minimum_errors, format!("fewer than {} errors", policy.minimum_errors)),
        (share >= policy.minimum_share, format!("a share of {share:.4} is under {}", policy.minimum_share)),
        (
            share >= policy.minimum_ratio * baseline_share,
            format!("less than {} times the baseline's {baseline_share:.4}", policy.minimum_ratio),
        ),
        (p_value < policy.significance, format!("may be chance (p {p_value:.4})")),
    ];
    let failed = tests.iter().find(|(holds, _)| !holds);
    let counted = format!("{} errors in {} requests", current.server_errors, current.total());
    let reason = match failed {
        _ if current.total() == 0 => "no requests".to_owned(),
        Some((_, why)) => format!("{counted}: {why}"),
        None => format!("{counted} ({share:.4}) against {baseline_share:.4} before (p {p_value:.1e})"),
    };
    ErrorReport {
        current,
        baseline,
        share,
        interval: failure_interval(current.server_errors, current.total(), policy.confidence),
        baseline_share,
        p_value,
        spike: current.total() > 0 && failed.is_none(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn an_hour_is_judged_once_it_is_over_and_not_after_a_long_absence() {
        let hours = |from, now| finished_hours(Some(at(from)), at(now)).len();
        assert_eq!(hours("2013-03-01T10:20:00Z", "2013-03-01T10:59:00Z"), 0);
        assert_eq!(
            finished_hours(Some(at("2013-03-01T10:59:00Z")), at("2013-03-01T11:00:00Z")),
            [at("2013-03-01T10:00:00Z")]
        );
        assert_eq!(hours("2013-03-01T10:20:00Z", "2013-03-01T13:20:00Z"), 3);
        assert_eq!(hours("2013-03-01T06:00:00Z", "2013-03-02T06:00:00Z"), 0);
        assert!(finished_hours(None, at("2013-03-02T06:00:00Z")).is_empty());
    }

    #[test]
    fn every_kind_of_trouble_becomes_a_finding_of_its_own() {
        let settings = MonitoringSettings::default();
        let book = WindowBook::new(0);
        let reference = DriftReference::default();
        let mut profile = TrafficProfile::default();
        let inputs = ServiceInputs { model: "model_v1", reference: &reference, window: None, looked_at: None };
        let quiet = evaluate(&book, &mut profile, inputs, &settings, at("2013-03-01T10:20:00Z")).unwrap();
        assert!(quiet.findings().is_empty(), "{:?}", quiet.findings());

        let mut loud = quiet.clone();
        loud.errors.spike = true;
        loud.latency.too_slow = true;
        let mut usual = TrafficProfile::default();
        let mut hour = usual.observe(at("2013-03-01T10:00:00Z"), 0, &settings.traffic);
        hour.anomalous = true;
        loud.traffic.push(hour);
        let kinds: Vec<&str> = loud.findings().iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, ["errors", "latency", "traffic"]);
    }

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
        let report =
            judge_latency(&replicas, &LatencyPolicy { p95_limit_ms: 10.0, ..LatencyPolicy::default() }).unwrap();
        assert_eq!(report.slow_replicas, ["slow"]);
        assert!(!report.too_slow, "{}", report.reason);
    }

    #[test]
    fn the_overall_p95_is_judged_against_its_bound_only_with_enough_requests() {
        let policy = LatencyPolicy { p95_limit_ms: 1.5, ..LatencyPolicy::default() };
        let judge = |counts| judge_latency(&[("a".into(), histogram(counts))], &policy).unwrap();
        assert!(judge([0, 0, 200, 0]).too_slow);
        assert!(!judge([0, 0, 20, 0]).too_slow);
        assert!(judge([0, 0, 20, 0]).reason.contains("too few"));
    }

    #[test]
    fn replicas_of_different_builds_are_refused() {
        let other = LatencyHistogram { bounds_secs: vec![5.0], counts: vec![1, 1], sum_secs: 0.0 };
        let replicas = [("a".into(), histogram([1, 0, 0, 0])), ("b".into(), other)];
        assert!(judge_latency(&replicas, &LatencyPolicy::default()).is_err());
    }

    #[test]
    fn a_spike_is_large_relative_and_improbable() {
        let counts = |total: u64, server_errors: u64| RequestCounts {
            ok: total - server_errors,
            client_errors: 0,
            server_errors,
        };
        let table = [
            (counts(1_000, 100), counts(10_000, 10), true, "against"),
            (counts(1_000, 4), counts(10_000, 0), false, "fewer than 5"),
            (counts(100_000, 50), counts(1_000_000, 10), false, "under 0.01"),
            (counts(1_000, 60), counts(10_000, 400), false, "times the baseline"),
            (counts(100, 6), counts(50, 1), false, "chance"),
            (counts(0, 0), counts(10_000, 10), false, "no requests"),
            (counts(100, 50), counts(0, 0), true, "against"),
        ];
        for (current, baseline, spike, why) in table {
            let report = judge_errors(current, baseline, &ErrorPolicy::default());
            assert_eq!(report.spike, spike, "{current:?} {}", report.reason);
            assert!(report.reason.contains(why), "{}", report.reason);
        }
    }
}
