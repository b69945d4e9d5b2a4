//! Is a fresh deployment what it should be? The verdict, check by check, on what came of rows replayed at it and on what
//! the cluster and the replicas report. Pure: the same measurements give the same report. It knows its sample size: where
//! there are too few requests to judge, it says how many held-out rows have to be replayed. Approving and rolling back is
//! the coordinator's.

pub mod measurement;

use delayd_core::Stored;
use delayd_core::fault::{broken_rules, is_positive};
use std::collections::BTreeSet;

use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Replica, ReplicaState};
use delayd_model::DriftReference;
use delayd_model::admin::ReplicaReport;
use serde::{Deserialize, Serialize};

use crate::monitoring::skew::{ScoredTwice, SkewPolicy, score_skew, train_serve_skew};
use crate::stats::{Interval, failure_interval, normal_quantile};

pub use measurement::{Measurement, MeasurementSource};
use measurement::{ProbeAnswer, ProbeResult};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerificationPolicy {
    /// Bound of the 95th percentile of latency in milliseconds.
    pub p95_limit_ms: f64,
    /// p95 may be this many times the baseline's …
    pub p95_baseline_ratio: f64,
    /// … plus so many milliseconds: a tenth of a millisecond more is no regression.
    pub p95_baseline_slack_ms: f64,
    /// Share of failed requests, at most.
    pub error_share_limit: f64,
    /// Fewer requests are not judged.
    pub minimum_requests: u64,
    /// Two-sided confidence of the intervals.
    pub confidence: f64,
    /// PSI of the scores above chance; loose, because a few days are not the
    /// reference: this looks for what is broken, drift is the monitor's.
    pub score_psi: f64,
    /// Two scores of one row are the same when they differ by at most this.
    pub score_tolerance: f32,
    /// Restarts of one replica, at most.
    pub maximum_restarts: u32,
    /// Resident memory of one replica in bytes, at most.
    pub maximum_memory_bytes: u64,
}

impl Default for VerificationPolicy {
    fn default() -> Self {
        Self {
            p95_limit_ms: 50.0,
            p95_baseline_ratio: 1.5,
            p95_baseline_slack_ms: 2.0,
            error_share_limit: 0.01,
            minimum_requests: 400,
            confidence: 0.95,
            score_psi: 0.5,
            score_tolerance: 1e-3,
            maximum_restarts: 0,
            maximum_memory_bytes: 512 * 1024 * 1024,
        }
    }
}

impl VerificationPolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "verification",
            &[
                (is_positive(self.p95_limit_ms), "p95_limit_ms must be a number above 0"),
                (self.p95_baseline_ratio >= 1.0, "p95_baseline_ratio must be 1 or more"),
                (self.p95_baseline_slack_ms >= 0.0, "p95_baseline_slack_ms must be 0 or more"),
                (
                    self.error_share_limit > 0.0 && self.error_share_limit < 1.0,
                    "error_share_limit must be between 0 and 1: no sample is large enough to prove 0",
                ),
                (self.minimum_requests > 0, "minimum_requests must be above 0"),
                (self.confidence > 0.5 && self.confidence < 1.0, "confidence must be between 0.5 and 1"),
                (is_positive(self.score_psi), "score_psi must be a number above 0"),
                (self.maximum_memory_bytes > 0, "maximum_memory_bytes must be above 0"),
            ],
        )
    }

    /// Requests without which nothing is judged: as many as it takes for the
    /// interval of an error-free sample to lie under the limit (Wilson: n ≥ z²·(1-b)/b).
    pub fn requests_needed(&self) -> u64 {
        let z = normal_quantile(self.confidence);
        let proof = z * z * (1.0 - self.error_share_limit) / self.error_share_limit;
        self.minimum_requests.max(proof.ceil() as u64)
    }
}

#[derive(Debug, Clone)]
pub struct VerificationInputs<'a> {
    pub deployment: DeploymentId,
    pub model: ModelVersion,
    pub bundle: &'a Digest,
    pub replicas_wanted: u32,
    /// The replicas, as the cluster reports them.
    pub replicas: &'a [Replica],
    /// What they say of themselves; counts since they started.
    pub reports: &'a [ReplicaReport],
    /// Held-out rows replayed at the release, if that was done.
    pub probe: Option<&'a ProbeResult>,
    /// The previous live deployment, measured the same way; `None` for a first one.
    pub baseline: Option<&'a Measurement>,
    pub reference: &'a DriftReference,
    /// Which rows were replayed, in words.
    pub rows: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    Passed,
    Failed,
    /// Too little was seen to say.
    Undecided,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub name: String,
    pub value: Option<f64>,
    pub bound: Option<f64>,
    pub interval: Option<Interval>,
    pub outcome: CheckOutcome,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    Passed,
    Failed,
    /// None failed, and some need more requests: replay so many held-out rows,
    /// then verify again.
    ReplayNeeded {
        rows: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationReport {
    pub deployment: DeploymentId,
    pub model: ModelVersion,
    pub checks: Vec<Check>,
    /// What was measured, to be the next deployment's baseline.
    pub measured: Measurement,
    pub baseline: Option<Measurement>,
    pub verdict: Verdict,
    pub reason: String,
    pub policy: VerificationPolicy,
    /// Which rows were replayed, in words; empty where an older delayd did not note it.
    #[serde(default)]
    pub rows: String,
}

impl Stored for VerificationReport {
    const NAME: &'static str = "verification report";
}

impl VerificationReport {
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

pub fn verify(inputs: &VerificationInputs<'_>, policy: &VerificationPolicy) -> VerificationReport {
    let own: Vec<&ReplicaReport> = inputs.reports.iter().filter(|report| is_of(inputs, report)).collect();
    // A replay is worth more than a handful of live requests, and can be repeated
    // at the next deployment in the same way.
    let measured = match inputs.probe {
        Some(probe) => Measurement::of_probe(probe, policy.confidence),
        None => Measurement::of_reports(&own),
    };
    let mut checks = vec![served_model(inputs), pod_health(inputs, policy)];
    checks.push(error_share(&measured, inputs.baseline, policy));
    checks.push(p95(&measured, policy));
    if let Some(baseline) = inputs.baseline.filter(|baseline| baseline.source == measured.source) {
        checks.push(p95_against(&measured, baseline, policy));
    }
    checks.push(score_distribution(&measured, inputs.reference, policy));
    if let Some(probe) = inputs.probe {
        checks.push(score_agreement(probe, policy));
    }
    let (verdict, reason) = conclude(&checks, policy, inputs.rows);
    VerificationReport {
        deployment: inputs.deployment,
        model: inputs.model,
        checks,
        measured,
        baseline: inputs.baseline.cloned(),
        verdict,
        reason,
        policy: policy.clone(),
        rows: inputs.rows.to_owned(),
    }
}

/// Whether a report is of a replica of this release.
fn is_of(inputs: &VerificationInputs<'_>, report: &ReplicaReport) -> bool {
    let replica = inputs.replicas.iter().find(|replica| replica.name == report.replica);
    replica.is_some_and(|replica| replica.deployment == inputs.deployment)
}

fn check(name: &str, outcome: CheckOutcome, reason: String) -> Check {
    Check { name: name.to_owned(), value: None, bound: None, interval: None, outcome, reason }
}

fn outcome(passed: bool) -> CheckOutcome {
    if passed { CheckOutcome::Passed } else { CheckOutcome::Failed }
}

/// Every replica and every answer is of the expected model and bundle.
fn served_model(inputs: &VerificationInputs<'_>) -> Check {
    let (model, bundle) = (inputs.model.to_string(), inputs.bundle.as_str());
    let said = inputs.reports.iter().filter(|report| is_of(inputs, report));
    let mut seen: Vec<(&str, &str, &str)> =
        said.map(|report| (report.replica.as_str(), report.model_version.as_str(), report.bundle.as_str())).collect();
    let answers = inputs.probe.map(|probe| probe.answers.as_slice()).unwrap_or_default();
    seen.extend(
        answers
            .iter()
            .filter_map(|answer| Some(("an answer", answer.model_version.as_deref()?, answer.bundle.as_deref()?))),
    );
    let wrong = seen.iter().find(|(_, version, digest)| *version != model || *digest != bundle);
    match wrong {
        Some((who, version, digest)) => {
            let reason = format!("{who} is of {version} ({digest}), expected {model} ({bundle})");
            check("served_model", CheckOutcome::Failed, reason)
        }
        None if seen.is_empty() => {
            let reason = "no replica of the release has reported what it serves".to_owned();
            check("served_model", CheckOutcome::Undecided, reason)
        }
        None => check("served_model", CheckOutcome::Passed, format!("{} sources say {model} ({bundle})", seen.len())),
    }
}

/// Readiness, restarts, memory.
fn pod_health(inputs: &VerificationInputs<'_>, policy: &VerificationPolicy) -> Check {
    let own: Vec<&Replica> = inputs.replicas.iter().filter(|replica| replica.deployment == inputs.deployment).collect();
    let ready = own.iter().filter(|replica| replica.state == ReplicaState::Ready).count() as u32;
    let mut faults: Vec<String> = Vec::new();
    if ready < inputs.replicas_wanted {
        faults.push(format!("{ready} of {} replicas are ready", inputs.replicas_wanted));
    }
    for replica in &own {
        let name = &replica.name;
        if replica.state == ReplicaState::Failed {
            faults.push(format!("{name} failed: {}", replica.reason.as_deref().unwrap_or("no reason given")));
        }
        if replica.restarts > policy.maximum_restarts {
            faults.push(format!("{name} restarted {} times", replica.restarts));
        }
        if let Some(memory) = replica.memory_bytes.filter(|memory| *memory > policy.maximum_memory_bytes) {
            faults.push(format!("{name} uses {memory} bytes, over {}", policy.maximum_memory_bytes));
        }
    }
    let reason = if faults.is_empty() { format!("{ready} replicas are ready and steady") } else { faults.join("; ") };
    Check {
        value: Some(f64::from(ready)),
        bound: Some(f64::from(inputs.replicas_wanted)),
        ..check("pod_health", outcome(faults.is_empty()), reason)
    }
}

fn too_few(name: &str, measured: &Measurement, policy: &VerificationPolicy) -> Option<Check> {
    let needed = policy.requests_needed();
    (measured.requests < needed).then(|| {
        let reason = format!("{} requests are too few to judge; {needed} are needed", measured.requests);
        check(name, CheckOutcome::Undecided, reason)
    })
}

/// The share of failed requests. Clearly over the limit fails however few
/// requests there were; anything else needs enough of them.
fn error_share(measured: &Measurement, baseline: Option<&Measurement>, policy: &VerificationPolicy) -> Check {
    let share = measured.errors as f64 / measured.requests.max(1) as f64;
    let interval = failure_interval(measured.errors, measured.requests, policy.confidence);
    let limit = policy.error_share_limit;
    let clearly_over = interval.low > limit;
    let worse = baseline.is_some_and(|baseline| {
        interval.low > failure_interval(baseline.errors, baseline.requests, policy.confidence).high
    });
    let undecided = too_few("error_share", measured, policy).filter(|_| !clearly_over && !worse);
    let counted = format!("{} of {} requests failed", measured.errors, measured.requests);
    let (outcome, reason) = match undecided {
        Some(check) => (CheckOutcome::Undecided, check.reason),
        None if share > limit => (CheckOutcome::Failed, format!("{counted}, over the limit of {limit}")),
        None if worse => (CheckOutcome::Failed, format!("{counted}, clearly more than in the previous deployment")),
        None => (CheckOutcome::Passed, format!("{counted}, within {limit}")),
    };
    Check { value: Some(share), bound: Some(limit), interval: Some(interval), ..check("error_share", outcome, reason) }
}

fn p95(measured: &Measurement, policy: &VerificationPolicy) -> Check {
    let limit = policy.p95_limit_ms;
    let shown = |found: Check| Check {
        value: measured.p95_ms,
        bound: Some(limit),
        interval: measured.p95_interval_ms,
        ..found
    };
    if let Some(check) = too_few("p95_latency", measured, policy) {
        return shown(check);
    }
    shown(match measured.p95_ms {
        None => check("p95_latency", CheckOutcome::Failed, "no request was answered".to_owned()),
        Some(p95) => {
            let relation = if p95 <= limit { "within" } else { "over" };
            check("p95_latency", outcome(p95 <= limit), format!("p95 {p95:.2} ms is {relation} {limit} ms"))
        }
    })
}

/// p95 against the previous deployment's; the interval's lower end is compared,
/// so that an unlucky sample is no regression.
fn p95_against(measured: &Measurement, baseline: &Measurement, policy: &VerificationPolicy) -> Check {
    let name = "p95_latency_against_baseline";
    let bound = baseline.p95_ms.map(|p95| p95 * policy.p95_baseline_ratio + policy.p95_baseline_slack_ms);
    let found = match (too_few(name, measured, policy), measured.p95_ms, bound) {
        (Some(undecided), ..) => undecided,
        (_, Some(p95), Some(bound)) => {
            let low = measured.p95_interval_ms.map_or(p95, |interval| interval.low);
            let text =
                format!("p95 {p95:.2} ms (at least {low:.2}) where the previous deployment allows {bound:.2} ms");
            check(name, outcome(low <= bound), text)
        }
        (_, None, _) => check(name, CheckOutcome::Failed, "no request was answered".to_owned()),
        (_, _, None) => check(name, CheckOutcome::Passed, "the previous deployment answered no request".to_owned()),
    };
    Check { value: measured.p95_ms, bound, interval: measured.p95_interval_ms, ..found }
}

/// The scores against the bundle's reference.
fn score_distribution(measured: &Measurement, reference: &DriftReference, policy: &VerificationPolicy) -> Check {
    let name = "prediction_distribution";
    if measured.invalid_scores > 0 {
        let reason = format!("{} scores are not between 0 and 1", measured.invalid_scores);
        return check(name, CheckOutcome::Failed, reason);
    }
    if let Some(undecided) = too_few(name, measured, policy) {
        return undecided;
    }
    let skew_policy = SkewPolicy { score_psi: policy.score_psi, minimum_rows: 1, ..SkewPolicy::default() };
    let skew = score_skew(&reference.score_counts, &measured.score_counts, 1.0, &skew_policy);
    Check {
        value: Some(skew.distances.excess_psi),
        bound: Some(policy.score_psi),
        ..check(name, outcome(skew.rows > 0 && !skew.skewed), skew.reason)
    }
}

/// Rows whose scores were computed beforehand come out the same over HTTP.
fn score_agreement(probe: &ProbeResult, policy: &VerificationPolicy) -> Check {
    let pair = |answer: &ProbeAnswer| {
        Some(ScoredTwice { row: answer.label.clone(), served: answer.score?, recomputed: answer.expected_score? })
    };
    let pairs: Vec<ScoredTwice> = probe.answers.iter().filter_map(pair).collect();
    let skew_policy =
        SkewPolicy { score_tolerance: policy.score_tolerance, tolerated_share: 0.0, ..SkewPolicy::default() };
    let skew = train_serve_skew(&pairs, &skew_policy);
    Check {
        value: Some(f64::from(skew.largest_difference)),
        bound: Some(f64::from(policy.score_tolerance)),
        ..check("score_agreement", outcome(!skew.skewed), skew.reason)
    }
}

fn conclude(checks: &[Check], policy: &VerificationPolicy, rows: &str) -> (Verdict, String) {
    let named = |wanted: CheckOutcome| -> Vec<&Check> { checks.iter().filter(|c| c.outcome == wanted).collect() };
    let (failed, undecided) = (named(CheckOutcome::Failed), named(CheckOutcome::Undecided));
    let described = |checks: &[&Check]| {
        let lines: BTreeSet<String> = checks.iter().map(|check| format!("{}: {}", check.name, check.reason)).collect();
        lines.into_iter().collect::<Vec<_>>().join("; ")
    };
    match (failed.is_empty(), undecided.is_empty()) {
        (false, _) => (Verdict::Failed, described(&failed)),
        (true, false) => {
            let reason = described(&undecided);
            // What kept it from being judged is not in the checks: it is that there was nothing more to ask.
            let reason = if rows.is_empty() { reason } else { format!("{rows}; {reason}") };
            (Verdict::ReplayNeeded { rows: policy.requests_needed() }, reason)
        }
        (true, true) => (Verdict::Passed, format!("all {} checks passed", checks.len())),
    }
}
