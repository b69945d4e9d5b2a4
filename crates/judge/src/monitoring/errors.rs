//! Error spikes: is the share of failed requests higher than it lately was?
//! Three things together make a spike: a share that matters, several times the
//! baseline's, and more errors than chance explains (Poisson). Bad input (4xx) is
//! the caller's fault and no failure.

use delayd_model::admin::RequestCounts;
use serde::{Deserialize, Serialize};

use super::stats::{Interval, poisson_upper_tail, wilson};

/// What counts as a spike.
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
    /// Everything that is wrong with the policy; empty when it can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let checks = [
            ((0.0..1.0).contains(&self.minimum_share), "minimum_share must be 0 or more and under 1"),
            (self.minimum_ratio >= 1.0, "minimum_ratio must be 1 or more"),
            (positive(self.significance), "significance must be above 0"),
            (self.confidence > 0.5 && self.confidence < 1.0, "confidence must be between 0.5 and 1"),
        ];
        checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| format!("errors: {text}")).collect()
    }
}

/// One judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReport {
    /// What was judged.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub current: RequestCounts,
    /// Against what.
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub baseline: RequestCounts,
    /// Share of errors now; 0 without requests.
    pub share: f64,
    /// Its Wilson interval.
    pub interval: Interval,
    /// The baseline's share.
    pub baseline_share: f64,
    /// Probability of so many errors at the baseline's rate.
    pub p_value: f64,
    /// The verdict.
    pub spike: bool,
    /// One sentence.
    pub reason: String,
}

/// Judges `current` against the recent `baseline` (for instance the last 24
/// hours before it).
#[must_use]
pub fn evaluate(current: RequestCounts, baseline: RequestCounts, policy: &ErrorPolicy) -> ErrorReport {
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
        interval: wilson(current.server_errors, current.total(), policy.confidence),
        baseline_share,
        p_value,
        spike: current.total() > 0 && failed.is_none(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let report = evaluate(current, baseline, &ErrorPolicy::default());
            assert_eq!(report.spike, spike, "{current:?} {}", report.reason);
            assert!(report.reason.contains(why), "{}", report.reason);
        }
    }
}
