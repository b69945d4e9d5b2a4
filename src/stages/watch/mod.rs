//! The monitor: one check of the live model is fetch, count, judge, record, alert.
//!
//! What has to survive a restart (the book of windows, how far each replica's
//! predictions were fetched, past verdicts) is kept in the ledger. Replicas stamp
//! their reports with their own clocks; here they are stamped again with the
//! daemon's, which in a replay is the replay's.

pub mod drift_brief;
mod fetch;
mod golden;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use delayd_model::Bundle;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub use fetch::{CollectDraining, Collected};

use crate::config::Settings;
use crate::env::Env;
use crate::supervision::Request;
use delayd_core::document::{Document, Stored};
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{DriftReportId, ModelVersion};
use delayd_core::ports::{Replica, ReplicaState, Severity};
use delayd_judge::decide::{DriftFinding, PerformanceFinding};
use delayd_judge::evaluation::BundleMetrics;
use delayd_judge::monitoring::drift::{self, DriftReport, DriftStatus};
use delayd_judge::monitoring::performance::{
    self, PerformanceInputs, PerformanceReport, PerformanceStatus, ValidationBaseline,
};
use delayd_judge::monitoring::realised::MaturedPrediction;
use delayd_judge::monitoring::service::{self, ServiceInputs, ServiceReport};
use delayd_judge::monitoring::skew::TrainServeLook;
use delayd_ledger::{Alias, DriftRecord, MetricsWindow};
use delayd_outside::bundles::BundleStore;
use delayd_outside::service::Scraper;
use memory::Memory;

/// Name under which the monitor keeps its memory in the ledger.
const MEMORY: &str = "monitor";

/// What watching needs.
#[derive(Clone)]
pub struct MonitorStage {
    pub env: Env,
    pub settings: Arc<Settings>,
    /// Bundles on this machine, for references and baselines.
    pub bundles: BundleStore,
    /// Asks the replicas.
    pub scraper: Arc<Scraper>,
    /// One check at a time: each reads the memory at its start and writes it at its end.
    pub checking: Arc<Mutex<()>>,
}

/// Checks the replicas and the outcomes of their predictions, and judges them.
#[derive(Debug, Clone)]
pub struct Observe;

/// What the monitor saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Replicas that answered.
    pub replicas: usize,
    /// Replicas that should have (they are ready), with the reason.
    pub silent: Vec<String>,
    /// Rows counted since the last check.
    pub rows: u64,
    /// Predictions that were overwritten before they could be fetched at this check.
    pub predictions_lost: u64,
    /// Latency, errors, traffic and score distribution, if a model is live.
    pub service: Option<ServiceReport>,
    /// The drift report written, if there was enough data.
    pub drift: Option<DriftFinding>,
    /// The performance report written, if a model is live.
    pub performance: Option<PerformanceFinding>,
}

/// How replicas answered at a check, as it is stored with the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicasSeen {
    /// Replicas that answered.
    pub answered: usize,
    /// Ready replicas that did not, with the reason.
    pub silent: Vec<String>,
    /// Predictions that were overwritten before they could be fetched at this check.
    pub predictions_lost: u64,
    /// The same of all checks so far.
    pub predictions_lost_total: u64,
}

impl Request for Observe {
    type Stage = MonitorStage;
    type Answer = Observed;

    async fn run(self, stage: &MonitorStage) -> Result<Observed, StepFailure> {
        let _alone = stage.checking.lock().await;
        let now = stage.env.now();
        let mut memory = stage.recall().await?;
        let mut replicas: Vec<Replica> = stage.env.cluster.replicas().await?;
        replicas.retain(|replica| replica.state != ReplicaState::Failed);
        let fetched = stage.fetch(&replicas, &mut memory, now).await?;
        let mut seen = Observed {
            replicas: fetched.answered,
            silent: fetched.silent.clone(),
            rows: fetched.rows,
            predictions_lost: fetched.predictions_lost,
            ..Observed::default()
        };
        memory.forget(&stage.settings.monitoring, now);
        if let Some((version, bundle)) = stage.live_bundle().await? {
            memory.episodes.keep_only(&version.to_string());
            seen.service = Some(stage.judge_service(version, &bundle, &mut memory, now).await?);
            stage.check_train_serve_skew(version, &bundle, &replicas, &mut memory, now).await?;
            seen.drift = stage.judge_drift(version, &bundle, &mut memory, now).await?;
            seen.performance = Some(stage.judge_performance(version, &bundle, &mut memory, &seen, now).await?);
        }
        memory.looked_at = Some(now);
        stage.remember(memory, now).await?;
        stage.release(&fetched).await;
        Ok(seen)
    }
}

impl MonitorStage {
    async fn recall(&self) -> Result<Memory, StepFailure> {
        let stored = self.env.ledger.setting::<Memory>(MEMORY).await?;
        Ok(stored.unwrap_or_else(|| Memory::new(&self.settings.monitoring)))
    }

    async fn remember(&self, memory: Memory, now: DateTime<Utc>) -> Result<(), StepFailure> {
        Ok(self.env.ledger.set_setting(MEMORY, memory, now).await?)
    }

    async fn live_bundle(&self) -> Result<Option<(ModelVersion, Arc<Bundle>)>, StepFailure> {
        let Some(model) = self.env.ledger.model_by_alias(Alias::Live).await? else { return Ok(None) };
        let version = model.version;
        let bundles = self.bundles.clone();
        let bundle = run_blocking(move || bundles.read(&model.bundle)).await?;
        let bundle = bundle.map_err(|error| StepFailure::of(error.kind(), &error))?;
        Ok(Some((version, Arc::new(bundle))))
    }

    /// Latency, errors, traffic and score distribution; what is wrong raises an alert.
    async fn judge_service(
        &self,
        version: ModelVersion,
        bundle: &Bundle,
        memory: &mut Memory,
        now: DateTime<Utc>,
    ) -> Result<ServiceReport, StepFailure> {
        let settings = &self.settings.monitoring;
        let model = version.to_string();
        let window = memory.book.drift_window(&model, now, settings.drift.window_days);
        let window = window.map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
        let inputs = ServiceInputs {
            model: &model,
            reference: &bundle.reference,
            window: window.as_ref(),
            looked_at: memory.looked_at,
        };
        let report = service::evaluate(&memory.book, &mut memory.traffic, inputs, settings, now);
        let report = report.map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
        let skewed = format!("skew/{version}");
        if report.skew.as_ref().is_some_and(|skew| !skew.skewed) {
            memory.episodes.quiet(&skewed);
        }
        for finding in report.findings() {
            // What lasts raises one alert an episode, what passes one a day.
            let key = match finding.kind {
                "skew" => memory.episodes.alarm(&skewed, now),
                kind => format!("{kind}/{version}/{}", now.date_naive()),
            };
            self.env.alert(Severity::Warning, key, finding.title, finding.reason).await?;
        }
        Ok(report)
    }

    async fn judge_drift(
        &self,
        version: ModelVersion,
        bundle: &Bundle,
        memory: &mut Memory,
        now: DateTime<Utc>,
    ) -> Result<Option<DriftFinding>, StepFailure> {
        let differ = |error: delayd_model::SketchError| StepFailure::of(ErrorKind::Corrupt, &error);
        let window = memory
            .book
            .drift_window(&version.to_string(), now, self.settings.monitoring.drift.window_days)
            .map_err(differ)?;
        let Some(window) = window else { return Ok(None) };
        let report =
            drift::evaluate(&bundle.reference, &window, &memory.drift_history, &self.settings.monitoring.drift)
                .map_err(differ)?;
        let known =
            memory.drift_history.iter().any(|past| past.ended_at == report.ended_at && past.layout == report.layout);
        if known {
            // The same whole days were judged before: nothing is new.
            return Ok(None);
        }
        memory.drift_history.push(report.summary());
        let id = self.record_drift(version, &report, now).await?;
        let what = format!("drift/{version}");
        match report.status {
            DriftStatus::Drifted => {
                let title = format!("Drift: {version}'s input distribution has shifted from training");
                let key = memory.episodes.alarm(&what, now);
                self.env.alert(Severity::Warning, key, title, report.reason.clone()).await?;
            }
            DriftStatus::Stable => memory.episodes.quiet(&what),
            // Neither says that an alert is over.
            DriftStatus::Suspected | DriftStatus::TooFewRows => {}
        }
        Ok(Some(DriftFinding {
            report: id,
            model: version,
            ended_at: report.ended_at,
            status: report.status,
            reason: report.reason,
        }))
    }

    async fn record_drift(
        &self,
        version: ModelVersion,
        report: &DriftReport,
        now: DateTime<Utc>,
    ) -> Result<DriftReportId, StepFailure> {
        let id = self.env.ledger.mint::<DriftReportId>().await?;
        let record = DriftRecord {
            id,
            at: now,
            model: version,
            window_from: report.ended_at - Duration::days(i64::from(report.days)),
            window_until: report.ended_at,
            drifted: report.is_drifted(),
            report: Document::of(report)?,
        };
        self.env.ledger.insert_drift_report(record).await?;
        Ok(id)
    }

    async fn judge_performance(
        &self,
        version: ModelVersion,
        bundle: &Bundle,
        memory: &mut Memory,
        seen: &Observed,
        now: DateTime<Utc>,
    ) -> Result<PerformanceFinding, StepFailure> {
        let policy = self.settings.monitoring.performance.clone();
        let from = now - Duration::days(i64::from(policy.window_days));
        let scored = self.env.ledger.scored_outcomes(from, now).await?;
        let outcomes: Vec<MaturedPrediction> = scored
            .into_iter()
            .filter(|row| row.model == version)
            .map(|row| MaturedPrediction { score: row.score as f32, delayed: row.delayed, at: row.prediction_time })
            .collect();
        let pending = self.env.ledger.pending_scores(version, from, now).await?;
        let baseline = baseline_of(bundle)?;
        let today = memory.book.day_of(now);
        let history = memory.performance_history.entry(version).or_default();
        // This check stands for its day in place of the earlier ones.
        history.retain(|past| memory.book.day_of(past.at) < today);
        let inputs = (outcomes, pending, bundle.model.threshold, baseline, history.clone());
        let report: PerformanceReport = run_blocking(move || {
            let (outcomes, pending, threshold, baseline, history) = inputs;
            let inputs = PerformanceInputs {
                outcomes: &outcomes,
                pending_scores: &pending,
                threshold,
                baseline: &baseline,
                history: &history,
            };
            performance::evaluate(inputs, &policy, now)
        })
        .await?;
        history.push(report.summary());
        let replicas = ReplicasSeen {
            answered: seen.replicas,
            silent: seen.silent.clone(),
            predictions_lost: seen.predictions_lost,
            predictions_lost_total: memory.predictions_lost,
        };
        let document = Document::of(&WindowSeen {
            performance: Some(report.clone()),
            service: seen.service.clone(),
            replicas: Some(replicas),
            train_serve: memory.train_serve.clone(),
        })?;
        self.env.ledger.save_metrics_window(MetricsWindow { at: now, model: version, body: document }).await?;
        let what = format!("performance/{version}");
        match report.status {
            PerformanceStatus::Degraded => {
                let title = format!("{version} performs below its validation");
                let key = memory.episodes.alarm(&what, now);
                self.env.alert(Severity::Warning, key, title, report.reason.clone()).await?;
            }
            PerformanceStatus::Holding => memory.episodes.quiet(&what),
            // Neither says that an alert is over.
            PerformanceStatus::Suspected | PerformanceStatus::TooFewOutcomes => {}
        }
        Ok(PerformanceFinding { model: version, at: now, status: report.status, reason: report.reason })
    }
}

/// What a check measured, as it is kept. What an earlier delayd did not measure is missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct WindowSeen {
    /// Realised performance against what validation promised.
    pub performance: Option<PerformanceReport>,
    /// Latency, errors, traffic, scores.
    pub service: Option<ServiceReport>,
    /// How replicas answered.
    pub replicas: Option<ReplicasSeen>,
    /// How golden rows scored when replicas were asked them last.
    pub train_serve: Option<TrainServeLook>,
}

impl Stored for WindowSeen {
    const NAME: &'static str = "window of the monitor";
}

/// What the bundle's own evaluation promises.
fn baseline_of(bundle: &Bundle) -> Result<ValidationBaseline, StepFailure> {
    let unusable = |why: String| {
        StepFailure::new(ErrorKind::Corrupt, format!("the bundle's metrics.json cannot serve as a baseline: {why}"))
    };
    let found = BundleMetrics::deserialize(&bundle.metrics).map_err(|error| unusable(error.to_string()))?;
    let metrics = found.judged().ok_or_else(|| unusable("it holds neither evaluation nor validation".to_owned()))?;
    let (Some(auc), Some(log_loss), Some(calibration_error)) =
        (metrics.roc_auc, metrics.log_loss, metrics.expected_calibration_error)
    else {
        return Err(unusable("its rows all have the same outcome".to_owned()));
    };
    let delayed_share = metrics.positives as f64 / metrics.rows.max(1) as f64;
    Ok(ValidationBaseline { auc, log_loss, delayed_share, calibration_error, recall: metrics.recall })
}
