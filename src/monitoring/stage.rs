//! One look at the live model: fetch, count, judge, record, tell.
//!
//! What has to survive a restart (the book of windows, how far each replica's
//! predictions were fetched, past verdicts) is kept in the ledger. Replicas stamp
//! their reports with their own clocks; here they are stamped anew with the
//! daemon's, which in a replay is the replay's.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use delayd_model::Bundle;
use delayd_model::admin::ReplicaReport;
use serde::{Deserialize, Serialize};

use super::drift::{self, DriftReport, DriftStatus, WindowSummary};
use super::messages::Observed;
use super::performance::{
    self, PerformanceInputs, PerformanceReport, PerformanceStatus, PerformanceSummary, ValidationBaseline,
};
use super::realised::MaturedPrediction;
use super::scrape::Scraper;
use super::service::{self, ServiceInputs, ServiceReport};
use super::traffic::TrafficProfile;
use super::window::WindowBook;
use crate::config::Settings;
use crate::coordinator::decide::{DriftFinding, PerformanceFinding};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::evaluation::Metrics;
use crate::ids::ModelVersion;
use crate::ledger::{Alias, DriftRecord, FlightKey, MetricsWindow, NewAlert, ServedPrediction};
use crate::ports::{Replica, ReplicaState, Severity};
use crate::registry::BundleStore;
use crate::saga::{StepFailure, run_blocking};

/// Name under which the monitor keeps its memory in the ledger.
const MEMORY: &str = "monitor";

/// What the monitor remembers from look to look.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    book: WindowBook,
    /// First time a replica's process was seen, by name and its own start time.
    first_seen: BTreeMap<String, DateTime<Utc>>,
    /// Sequence number up to which each process' predictions were fetched.
    fetched: BTreeMap<String, u64>,
    drift_history: Vec<WindowSummary>,
    /// What traffic is usual; absent in memories of earlier versions.
    #[serde(default)]
    traffic: TrafficProfile,
    /// When replicas were last looked at.
    #[serde(default)]
    looked_at: Option<DateTime<Utc>>,
    performance_history: BTreeMap<ModelVersion, Vec<PerformanceSummary>>,
}

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
}

impl MonitorStage {
    pub(super) async fn observe(&self) -> Result<Observed, StepFailure> {
        let now = self.env.now();
        let mut memory = self.recall().await?;
        let mut seen = Observed::default();
        let replicas: Vec<Replica> = self.env.cluster.replicas().await?;
        let replicas: Vec<Replica> =
            replicas.into_iter().filter(|replica| replica.state != ReplicaState::Failed).collect();
        let scraped = self.scraper.reports(&replicas).await;
        seen.silent = scraped.failures.iter().map(ToString::to_string).collect();
        seen.replicas = scraped.answers.len();
        let mut processes = Vec::new();
        for report in scraped.answers {
            let process = format!("{}@{}", report.replica, report.started_at.timestamp_micros());
            processes.push((report.replica.clone(), process.clone()));
            match memory.book.absorb(&restamped(report, now, &process, &mut memory.first_seen)) {
                Ok(absorbed) => seen.rows += absorbed.rows,
                Err(error) => tracing::error!(error = %crate::error::chain(&error), "a replica's counts were left out"),
            }
        }
        seen.predictions_lost = self.fetch_predictions(&replicas, &processes, &mut memory).await?;
        self.forget(&mut memory, now);
        if let Some((version, bundle)) = self.live_bundle().await? {
            seen.service = Some(self.judge_service(version, &bundle, &mut memory, now).await?);
            seen.drift = self.judge_drift(version, &bundle, &mut memory, now).await?;
            seen.performance =
                Some(self.judge_performance(version, &bundle, &mut memory, seen.service.as_ref(), now).await?);
        }
        memory.looked_at = Some(now);
        self.env.ledger.set_setting(MEMORY, memory, now).await?;
        Ok(seen)
    }

    async fn recall(&self) -> Result<Memory, StepFailure> {
        let stored = self.env.ledger.setting::<Memory>(MEMORY).await?;
        Ok(stored.unwrap_or_else(|| Memory {
            book: WindowBook::new(self.settings.monitoring.day_starts_minutes_utc),
            first_seen: BTreeMap::new(),
            fetched: BTreeMap::new(),
            drift_history: Vec::new(),
            traffic: TrafficProfile::default(),
            looked_at: None,
            performance_history: BTreeMap::new(),
        }))
    }

    fn forget(&self, memory: &mut Memory, now: DateTime<Utc>) {
        let kept = Duration::days(3 * i64::from(self.settings.monitoring.window_days) + 7);
        memory.book.forget_before((now - kept).date_naive());
        memory.first_seen.retain(|_, at| *at > now - Duration::days(400));
        let processes = memory.first_seen.clone();
        memory.fetched.retain(|process, _| processes.contains_key(process));
        memory.drift_history.retain(|window| window.ended_at > now - kept);
        for history in memory.performance_history.values_mut() {
            history.retain(|past| past.at > now - kept);
        }
        memory.performance_history.retain(|_, history| !history.is_empty());
    }

    /// Fetches what was predicted since the last look into the ledger; answers
    /// how many predictions were overwritten before they could be fetched.
    async fn fetch_predictions(
        &self,
        replicas: &[Replica],
        processes: &[(String, String)],
        memory: &mut Memory,
    ) -> Result<u64, StepFailure> {
        let mut lost = 0;
        let mut waiting: Vec<(Replica, String)> = Vec::new();
        for (name, process) in processes {
            if let Some(replica) = replicas.iter().find(|replica| replica.name == *name) {
                waiting.push((replica.clone(), process.clone()));
            }
        }
        while !waiting.is_empty() {
            let asked: Vec<(Replica, u64)> = waiting
                .iter()
                .map(|(replica, process)| (replica.clone(), memory.fetched.get(process).copied().unwrap_or(0)))
                .collect();
            let pages = self.scraper.predictions(&asked).await;
            for failure in &pages.failures {
                tracing::warn!(error = %failure, "a replica's predictions could not be fetched; they are tried again at the next look");
            }
            let mut more = Vec::new();
            for page in pages.answers {
                let Some((replica, process)) = waiting.iter().find(|(replica, _)| replica.name == page.replica) else {
                    continue;
                };
                lost += page.lost;
                let now = self.env.now();
                let rows =
                    page.predictions.iter().filter_map(|prediction| self.served(process, prediction, now)).collect();
                self.env.ledger.insert_predictions(rows).await?;
                memory.fetched.insert(process.clone(), page.next_after);
                if page.more {
                    more.push((replica.clone(), process.clone()));
                }
            }
            waiting = more;
        }
        Ok(lost)
    }

    /// A prediction as the ledger keeps it; `None` where it names no model of ours.
    fn served(
        &self,
        process: &str,
        prediction: &delayd_model::admin::ServedPrediction,
        now: DateTime<Utc>,
    ) -> Option<ServedPrediction> {
        Some(ServedPrediction {
            replica: process.to_owned(),
            seq: prediction.seq,
            flight: FlightKey {
                carrier: prediction.carrier.clone(),
                flight_number: prediction.flight_number,
                origin: prediction.origin.clone(),
                dest: prediction.dest.clone(),
                scheduled_departure: prediction.scheduled_departure,
            },
            prediction_time: self.predicted_at(prediction, now),
            score: f64::from(prediction.score),
            model: prediction.model_version.parse().ok()?,
        })
    }

    /// When a prediction was made on the daemon's clock: a replica's own clock
    /// knows nothing of a replay, where flights are asked about at the horizon.
    fn predicted_at(&self, prediction: &delayd_model::admin::ServedPrediction, now: DateTime<Utc>) -> DateTime<Utc> {
        if prediction.received_at <= now {
            return prediction.received_at;
        }
        let horizon = Duration::minutes(i64::from(self.settings.ingestion.horizon_minutes));
        (prediction.scheduled_departure - horizon).min(now)
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
        let window = memory.book.drift_window(&model, now, settings.window_days);
        let window = window.map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
        let inputs = ServiceInputs {
            model: &model,
            reference: &bundle.reference,
            window: window.as_ref(),
            looked_at: memory.looked_at,
        };
        let report = service::evaluate(&memory.book, &mut memory.traffic, inputs, settings, now);
        let report = report.map_err(|error| StepFailure::of(ErrorKind::Corrupt, &error))?;
        for finding in report.findings() {
            let alert = NewAlert {
                at: now,
                severity: Severity::Warning,
                // What lasts is told once per model, what passes once a day.
                dedup_key: match finding.kind {
                    "skew" => format!("skew/{version}"),
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
            .drift_window(&version.to_string(), now, self.settings.monitoring.window_days)
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
        if report.status == DriftStatus::Drifted {
            self.tell_drift(version, &report, now).await?;
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
    ) -> Result<crate::ids::DriftReportId, StepFailure> {
        let json = serde_json::to_value(report).map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let id = self.env.ledger.mint::<crate::ids::DriftReportId>().await?;
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
        now: DateTime<Utc>,
    ) -> Result<(), StepFailure> {
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key: format!("drift/{version}"),
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
        service: Option<&ServiceReport>,
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
        let history = memory.performance_history.entry(version).or_default();
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
        let document = serde_json::json!({ "performance": &report, "service": service });
        self.env.ledger.save_metrics_window(MetricsWindow { at: now, model: version, body: document }).await?;
        if report.status == PerformanceStatus::Degraded {
            let alert = NewAlert {
                at: now,
                severity: Severity::Warning,
                dedup_key: format!("performance/{version}"),
                title: format!("{version} has become worse than its own validation"),
                body: report.reason.clone(),
            };
            self.env.ledger.enqueue_alert(alert).await?;
        }
        Ok(PerformanceFinding { model: version, at: now, status: report.status, reason: report.reason })
    }
}

/// A report with the daemon's time instead of the replica's.
fn restamped(
    mut report: ReplicaReport,
    now: DateTime<Utc>,
    process: &str,
    first_seen: &mut BTreeMap<String, DateTime<Utc>>,
) -> ReplicaReport {
    report.started_at = *first_seen.entry(process.to_owned()).or_insert(now);
    report.reported_at = now;
    report
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
