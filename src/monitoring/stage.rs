//! One look at the live model: fetch, count, judge, record, tell.
//!
//! What has to survive a restart (the book of windows, how far each replica's
//! predictions were fetched, past verdicts) is kept in the ledger. Replicas stamp
//! their reports with their own clocks; here they are stamped anew with the
//! daemon's, which in a replay is the replay's.

use super::messages::{CollectDraining, Collected, Observe, Observed, ReplicasSeen};
use crate::supervision::{Request, StageActor};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use delayd_model::Bundle;
use tokio::sync::Mutex;

use super::memory::Memory;
use crate::config::Settings;
use crate::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{Replica, ReplicaState, Severity};
use delayd_judge::decide::{DriftFinding, PerformanceFinding};
use delayd_judge::evaluation::Metrics;
use delayd_judge::monitoring::drift::{self, DriftReport, DriftStatus};
use delayd_judge::monitoring::performance::{
    self, PerformanceInputs, PerformanceReport, PerformanceStatus, ValidationBaseline,
};
use delayd_judge::monitoring::realised::MaturedPrediction;
use delayd_judge::monitoring::service::{self, ServiceInputs, ServiceReport};
use delayd_ledger::{Alias, DriftRecord, MetricsWindow, NewAlert};
use delayd_outside::bundles::BundleStore;
use delayd_outside::service::Scraper;

/// Name under which the monitor keeps its memory in the ledger.
const MEMORY: &str = "monitor";

/// The stage's actor.
pub type MonitorActor = StageActor<MonitorStage>;

/// The monitor's work, apart from its actor.
#[derive(Clone)]
pub struct MonitorStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine, for references and baselines.
    pub bundles: BundleStore,
    /// Asks the replicas.
    pub scraper: Arc<Scraper>,
    /// One look at a time: each reads the memory at its begin and writes it at its end.
    pub looking: Arc<Mutex<()>>,
}

impl MonitorStage {
    pub(super) async fn observe(&self) -> Result<Observed, StepFailure> {
        let _alone = self.looking.lock().await;
        let now = self.env.now();
        let mut memory = self.recall().await?;
        let mut replicas: Vec<Replica> = self.env.cluster.replicas().await?;
        replicas.retain(|replica| replica.state != ReplicaState::Failed);
        let fetched = self.fetch(&replicas, &mut memory, now).await?;
        let mut seen = Observed {
            replicas: fetched.answered,
            silent: fetched.silent.clone(),
            rows: fetched.rows,
            predictions_lost: fetched.predictions_lost,
            ..Observed::default()
        };
        memory.forget(&self.settings.monitoring, now);
        if let Some((version, bundle)) = self.live_bundle().await? {
            memory.episodes.keep_only(&version.to_string());
            seen.service = Some(self.judge_service(version, &bundle, &mut memory, now).await?);
            self.check_train_serve_skew(version, &bundle, &replicas, &mut memory, now).await?;
            seen.drift = self.judge_drift(version, &bundle, &mut memory, now).await?;
            seen.performance = Some(self.judge_performance(version, &bundle, &mut memory, &seen, now).await?);
        }
        memory.looked_at = Some(now);
        self.remember(memory, now).await?;
        self.release(&fetched).await;
        Ok(seen)
    }

    pub(super) async fn recall(&self) -> Result<Memory, StepFailure> {
        let stored = self.env.ledger.setting::<Memory>(MEMORY).await?;
        Ok(stored.unwrap_or_else(|| Memory::new(&self.settings.monitoring)))
    }

    pub(super) async fn remember(&self, memory: Memory, now: DateTime<Utc>) -> Result<(), StepFailure> {
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

    /// Latency, errors, traffic and score distribution; what is wrong is told.
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
            let alert = NewAlert {
                at: now,
                severity: Severity::Warning,
                // What lasts is told once an episode, what passes once a day.
                dedup_key: match finding.kind {
                    "skew" => memory.episodes.alarm(&skewed, now),
                    kind => format!("{kind}/{version}/{}", now.date_naive()),
                },
                title: finding.title,
                body: finding.reason,
            };
            self.env.ledger.enqueue_alert(alert).await?;
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
            // The same whole days were judged before: nothing new to say.
            return Ok(None);
        }
        memory.drift_history.push(report.summary());
        let id = self.record_drift(version, &report, now).await?;
        let what = format!("drift/{version}");
        match report.status {
            DriftStatus::Drifted => {
                let dedup_key = memory.episodes.alarm(&what, now);
                self.tell_drift(version, &report, dedup_key, now).await?;
            }
            DriftStatus::Stable => memory.episodes.quiet(&what),
            // Neither says that what was told is over.
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
    ) -> Result<delayd_core::ids::DriftReportId, StepFailure> {
        let json = serde_json::to_value(report).map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let id = self.env.ledger.mint::<delayd_core::ids::DriftReportId>().await?;
        let record = DriftRecord {
            id,
            at: now,
            model: version,
            window_from: report.ended_at - Duration::days(i64::from(report.days)),
            window_until: report.ended_at,
            drifted: report.is_drifted(),
            report: json,
        };
        self.env.ledger.insert_drift_report(record).await?;
        Ok(id)
    }

    async fn tell_drift(
        &self,
        version: ModelVersion,
        report: &DriftReport,
        dedup_key: String,
        now: DateTime<Utc>,
    ) -> Result<(), StepFailure> {
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key,
            title: format!("Drift: {version} sees other data than it learnt from"),
            body: report.reason.clone(),
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
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
        // This look stands for its day in place of the earlier ones.
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
        let document = serde_json::json!({
            "performance": &report,
            "service": &seen.service,
            "replicas": replicas,
            "train_serve": &memory.train_serve,
        });
        self.env.ledger.save_metrics_window(MetricsWindow { at: now, model: version, body: document }).await?;
        let what = format!("performance/{version}");
        match report.status {
            PerformanceStatus::Degraded => {
                let alert = NewAlert {
                    at: now,
                    severity: Severity::Warning,
                    dedup_key: memory.episodes.alarm(&what, now),
                    title: format!("{version} has become worse than its own validation"),
                    body: report.reason.clone(),
                };
                self.env.ledger.enqueue_alert(alert).await?;
            }
            PerformanceStatus::Holding => memory.episodes.quiet(&what),
            // Neither says that what was told is over.
            PerformanceStatus::Suspected | PerformanceStatus::TooFewOutcomes => {}
        }
        Ok(PerformanceFinding { model: version, at: now, status: report.status, reason: report.reason })
    }
}

/// What the bundle's own evaluation promises.
fn baseline_of(bundle: &Bundle) -> Result<ValidationBaseline, StepFailure> {
    let unusable = |why: String| {
        StepFailure::new(ErrorKind::Corrupt, format!("the bundle's metrics.json cannot be judged against: {why}"))
    };
    let judged = bundle.metrics.pointer("/evaluation/model").or_else(|| bundle.metrics.get("validation")).cloned();
    let metrics: Metrics =
        serde_json::from_value(judged.unwrap_or_default()).map_err(|error| unusable(error.to_string()))?;
    let (Some(auc), Some(log_loss), Some(calibration_error)) =
        (metrics.roc_auc, metrics.log_loss, metrics.expected_calibration_error)
    else {
        return Err(unusable("its rows were all alike".to_owned()));
    };
    let delayed_share = metrics.positives as f64 / metrics.rows.max(1) as f64;
    Ok(ValidationBaseline { auc, log_loss, delayed_share, calibration_error, recall: metrics.recall })
}

impl Request for Observe {
    type Stage = MonitorStage;
    type Answer = Observed;

    async fn run(self, stage: &MonitorStage) -> Result<Observed, StepFailure> {
        stage.observe().await
    }
}

impl Request for CollectDraining {
    type Stage = MonitorStage;
    type Answer = Collected;

    async fn run(self, stage: &MonitorStage) -> Result<Collected, StepFailure> {
        stage.collect_draining().await
    }
}

#[cfg(test)]
mod tests;
