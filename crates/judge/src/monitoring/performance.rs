//! Is the live model still as good as its own validation said?
//!
//! Realised metrics of the last window are compared with the baseline in the
//! bundle. Degradation needs an effect (how much worse), an interval that leaves
//! the baseline out, and persistence. Log-loss is compared as skill against the
//! share of delays, so that a stormy fortnight is not taken for a worse model.
//!
//! Persistence is judged by days, however often it is checked: two checks of the
//! same window a minute apart say the same thing once ([`one_a_day`]).

use chrono::{DateTime, NaiveDate, Utc};
use delayd_core::fault::{broken_rules, is_positive};
use serde::{Deserialize, Serialize};

use crate::monitoring::realised::{MaturedPrediction, Realised, RealisedWithIntervals, Resampling, estimate, realise};
use crate::stats::Interval;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PerformancePolicy {
    /// Length of the window of matured outcomes in days.
    pub window_days: u32,
    /// Fewer outcomes are not judged.
    pub minimum_rows: u64,
    /// Fewer delayed flights are not judged.
    pub minimum_delayed: u64,
    /// Fewer days are not judged.
    pub minimum_days: u32,
    /// Loss of ROC-AUC that counts.
    pub auc_drop: f64,
    /// Loss of log-loss skill that counts.
    pub log_loss_skill_drop: f64,
    /// Rise of the expected calibration error that counts.
    pub calibration_error_rise: f64,
    /// Loss of recall that counts; it moves with the share of delays, so it is
    /// reported and judged only when set.
    pub recall_drop: Option<f64>,
    /// Two-sided confidence of the intervals.
    pub confidence: f64,
    /// Bootstrap replicates.
    pub replicates: u32,
    /// A metric has degraded when it was worse on this many …
    pub persistent_windows: u32,
    /// … of this many last days with an evaluation, the present one included. Of a day only the last one counts.
    pub of_last_windows: u32,
}

impl Default for PerformancePolicy {
    fn default() -> Self {
        Self {
            window_days: 14,
            minimum_rows: 1_000,
            minimum_delayed: 100,
            minimum_days: 7,
            auc_drop: 0.02,
            log_loss_skill_drop: 0.03,
            calibration_error_rise: 0.04,
            recall_drop: None,
            confidence: 0.95,
            replicates: 400,
            persistent_windows: 3,
            of_last_windows: 5,
        }
    }
}

impl PerformancePolicy {
    pub fn faults(&self) -> Vec<String> {
        broken_rules(
            "performance",
            &[
                (self.window_days > 0, "window_days must be above 0"),
                (self.minimum_days <= self.window_days, "minimum_days must not exceed window_days"),
                (is_positive(self.auc_drop), "auc_drop must be a number above 0"),
                (is_positive(self.log_loss_skill_drop), "log_loss_skill_drop must be a number above 0"),
                (is_positive(self.calibration_error_rise), "calibration_error_rise must be a number above 0"),
                (self.recall_drop.is_none_or(is_positive), "recall_drop must be a number above 0, or left out"),
                (self.confidence > 0.5 && self.confidence < 1.0, "confidence must be between 0.5 and 1"),
                (self.replicates >= 50, "replicates must be 50 or more"),
                (
                    (1..=self.of_last_windows).contains(&self.persistent_windows),
                    "persistent_windows must be 1 to of_last_windows",
                ),
            ],
        )
    }

    fn resampling(&self) -> Resampling {
        // A fixed seed: the same outcomes must give the same verdict when asked again.
        Resampling { replicates: self.replicates, confidence: self.confidence, seed: 13 }
    }
}

/// The model's own validation, from its bundle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidationBaseline {
    pub auc: f64,
    pub log_loss: f64,
    /// Share of delayed flights in the validation rows.
    pub delayed_share: f64,
    pub calibration_error: f64,
    pub recall: f64,
}

impl ValidationBaseline {
    /// As in [`Realised::log_loss_skill`].
    pub fn log_loss_skill(&self) -> f64 {
        let share = self.delayed_share.clamp(1e-6, 1.0 - 1e-6);
        1.0 + self.log_loss / (share * share.ln() + (1.0 - share) * (1.0 - share).ln())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricChange {
    /// `auc`, `log_loss_skill`, `calibration_error`, `recall`.
    pub metric: String,
    pub baseline: f64,
    pub realised: Option<f64>,
    pub interval: Option<Interval>,
    pub loss: Option<f64>,
    /// How much worse counts; `None` where it is only reported.
    pub tolerated: Option<f64>,
    /// Worse by more than that, and the interval leaves the baseline out.
    pub worse: bool,
    /// On how many of the last days with an evaluation it was, this one included.
    pub windows_worse: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PerformanceStatus {
    /// Too few matured outcomes: the estimate stands in.
    TooFewOutcomes,
    /// As good as validation said.
    Holding,
    /// Worse in this window, but it has not lasted yet.
    Suspected,
    /// Worse, and persistently.
    Degraded,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerformanceSummary {
    pub at: DateTime<Utc>,
    pub worse: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PerformanceReport {
    pub at: DateTime<Utc>,
    /// Realised metrics of the window; `None` without outcomes.
    pub realised: Option<RealisedWithIntervals>,
    /// What the scores promise of themselves (CBPE), over the predictions whose
    /// outcomes are not in yet, or over the window where all are.
    pub estimated: Realised,
    pub changes: Vec<MetricChange>,
    pub degraded: Vec<String>,
    pub status: PerformanceStatus,
    pub reason: String,
    pub baseline: ValidationBaseline,
    pub policy: PerformancePolicy,
}

impl PerformanceReport {
    pub fn summary(&self) -> PerformanceSummary {
        let worse = self.changes.iter().filter(|change| change.worse).map(|change| change.metric.clone()).collect();
        PerformanceSummary { at: self.at, worse }
    }

    pub fn is_degraded(&self) -> bool {
        self.status == PerformanceStatus::Degraded
    }
}

/// Leaves of each day only its last evaluation, oldest first. `day_of` says where a
/// day begins.
pub fn one_a_day(history: &mut Vec<PerformanceSummary>, day_of: impl Fn(DateTime<Utc>) -> NaiveDate) {
    history.sort_by_key(|past| std::cmp::Reverse(past.at));
    history.dedup_by_key(|past| day_of(past.at));
    history.reverse();
}

#[derive(Debug, Clone, Copy)]
pub struct PerformanceInputs<'a> {
    /// Matured predictions of the live model; those in the window before `at` count.
    pub outcomes: &'a [MaturedPrediction],
    /// Scores whose outcomes are not known yet.
    pub pending_scores: &'a [f32],
    pub threshold: f32,
    pub baseline: &'a ValidationBaseline,
    /// Evaluations of the same model on earlier days, one a day, in any order.
    pub history: &'a [PerformanceSummary],
}

/// Judges the live model at the moment `at`.
pub fn evaluate(inputs: PerformanceInputs<'_>, policy: &PerformancePolicy, at: DateTime<Utc>) -> PerformanceReport {
    let start = at - chrono::Duration::days(i64::from(policy.window_days));
    let recent: Vec<MaturedPrediction> =
        inputs.outcomes.iter().filter(|outcome| outcome.at > start && outcome.at <= at).copied().collect();
    let realised = realise(&recent, inputs.threshold, policy.resampling());
    let estimated = if inputs.pending_scores.is_empty() {
        estimate(recent.iter().map(|outcome| outcome.score), inputs.threshold)
    } else {
        estimate(inputs.pending_scores.iter().copied(), inputs.threshold)
    };
    let mut history: Vec<&PerformanceSummary> = inputs.history.iter().filter(|past| past.at < at).collect();
    history.sort_by_key(|past| std::cmp::Reverse(past.at));
    history.truncate(policy.of_last_windows.saturating_sub(1) as usize);
    let enough = realised.as_ref().is_some_and(|found| {
        found.metrics.rows >= policy.minimum_rows
            && found.metrics.delayed >= policy.minimum_delayed
            && found.days >= policy.minimum_days
    });
    let changes = match &realised {
        Some(found) if enough => changes(found, inputs.baseline, &history, policy),
        _ => Vec::new(),
    };
    let report = PerformanceReport {
        at,
        realised,
        estimated,
        changes,
        degraded: Vec::new(),
        status: PerformanceStatus::Holding,
        reason: String::new(),
        baseline: *inputs.baseline,
        policy: policy.clone(),
    };
    conclude(report, enough)
}

fn changes(
    found: &RealisedWithIntervals,
    baseline: &ValidationBaseline,
    history: &[&PerformanceSummary],
    policy: &PerformancePolicy,
) -> Vec<MetricChange> {
    let metrics = &found.metrics;
    // (name, baseline, realised, interval, sign: +1 where higher is better, tolerated loss)
    let table = [
        ("auc", baseline.auc, metrics.auc, found.auc_interval, 1.0, Some(policy.auc_drop)),
        (
            "log_loss_skill",
            baseline.log_loss_skill(),
            metrics.log_loss_skill,
            found.log_loss_skill_interval,
            1.0,
            Some(policy.log_loss_skill_drop),
        ),
        (
            "calibration_error",
            baseline.calibration_error,
            metrics.calibration_error,
            found.calibration_error_interval,
            -1.0,
            Some(policy.calibration_error_rise),
        ),
        ("recall", baseline.recall, metrics.recall, found.recall_interval, 1.0, policy.recall_drop),
    ];
    table
        .into_iter()
        .map(|(metric, baseline, realised, interval, sign, tolerated)| {
            let loss = realised.map(|value| sign * (baseline - value));
            let outside = interval.is_some_and(|i| if sign > 0.0 { i.high < baseline } else { i.low > baseline });
            let worse = outside && loss.zip(tolerated).is_some_and(|(loss, tolerated)| loss >= tolerated);
            let before = history.iter().filter(|past| past.worse.iter().any(|name| name == metric)).count() as u32;
            MetricChange {
                metric: metric.to_owned(),
                baseline,
                realised,
                interval,
                loss,
                tolerated,
                worse,
                windows_worse: before + u32::from(worse),
            }
        })
        .collect()
}

fn conclude(mut report: PerformanceReport, enough: bool) -> PerformanceReport {
    if !enough {
        let (rows, delayed, days) =
            report.realised.as_ref().map_or((0, 0, 0), |found| (found.metrics.rows, found.metrics.delayed, found.days));
        let policy = &report.policy;
        report.status = PerformanceStatus::TooFewOutcomes;
        report.reason = format!(
            "{rows} outcomes ({delayed} delayed) on {days} days are too few to judge; {} ({} delayed) on {} days are needed",
            policy.minimum_rows, policy.minimum_delayed, policy.minimum_days
        );
        return report;
    }
    let worse: Vec<&MetricChange> = report.changes.iter().filter(|change| change.worse).collect();
    let lasting: Vec<&MetricChange> =
        worse.iter().copied().filter(|change| change.windows_worse >= report.policy.persistent_windows).collect();
    let days = report.policy.window_days;
    let (status, reason) = if !lasting.is_empty() {
        (PerformanceStatus::Degraded, format!("over {days} days {}", describe(&lasting)))
    } else if !worse.is_empty() {
        let needed = report.policy.persistent_windows;
        let text = format!("over {days} days {}, but not yet on {needed} days", describe(&worse));
        (PerformanceStatus::Suspected, text)
    } else {
        let all: Vec<&MetricChange> = report.changes.iter().take(1).collect();
        (PerformanceStatus::Holding, format!("no metric is worse than tolerated: {}", describe(&all)))
    };
    report.degraded = lasting.iter().map(|change| change.metric.clone()).collect();
    (report.status, report.reason) = (status, reason);
    report
}

fn describe(changes: &[&MetricChange]) -> String {
    let one = |change: &&MetricChange| {
        let realised = change.realised.unwrap_or(f64::NAN);
        let interval = change.interval.map_or_else(String::new, |i| format!(" ({:.3} to {:.3})", i.low, i.high));
        format!("{} is {realised:.3}{interval} against {:.3} in validation", change.metric, change.baseline)
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}
