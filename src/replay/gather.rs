//! From what a replay saw and what the ledger recorded to the report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration as WallDuration;

use chrono::{DateTime, Utc};
use delayd_model::Predictor;
use serde::Deserialize;

use super::driver::ReplayError;
use super::report::{
    Computed, Cycle, DatasetInfo, DriftAlarm, FeatureDrift, LiveModel, ReplayPrediction, Report, ReportFiles,
    Simulated, StepSeconds, Thresholds, compute, write_html, write_json, write_predictions,
};
use crate::daemon::Daemon;
use delayd_core::error::chain;
use delayd_core::failure::run_blocking;
use delayd_core::ids::{CycleId, ModelVersion};
use delayd_data::Example;
use delayd_judge::evaluation::LookupTable;
use delayd_judge::evaluation::report::threshold_for_alert_share;
use delayd_judge::evaluation::score_rows;
use delayd_judge::monitoring::drift::{DriftReport, DriftStatus};
use delayd_ledger::{self as ledger, Alias, CycleOutcome, CycleReason, Ledger, Page};

/// One flight that was asked about.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub example: Example,
    pub score: f32,
    pub model: ModelVersion,
}

/// What the driver collects for the report.
pub(super) struct Facts {
    pub asked: Vec<Asked>,
    pub requests: u64,
    pub request_errors: u64,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub seed: u64,
    pub dataset: DatasetInfo,
}

const ALL: Page = Page { offset: 0, limit: 100_000 };

pub(super) async fn report(
    daemon: &Daemon,
    facts: Facts,
    wall: WallDuration,
    out: &Path,
) -> Result<(Report, ReportFiles), ReplayError> {
    let ledger = &daemon.env.ledger;
    let models = models(daemon).await?;
    let cycles = cycles(ledger).await?;
    let drift = drift(ledger).await?;
    let records = ledger.cycles(ALL).await?;
    let (predictions, thresholds) = scored(daemon, &facts, &models).await?;
    let seed = facts.seed;
    let (computed, predictions) = run_blocking(move || (compute(&predictions, &thresholds, seed), predictions)).await?;
    let Computed { live_loop, frozen, lookup, ci, over_time, reliability } =
        computed.map_err(|error| ReplayError::Report(error.to_string()))?;
    let report = Report {
        live_loop,
        frozen,
        lookup,
        ci,
        over_time,
        reliability,
        requests: facts.requests,
        request_errors: facts.request_errors,
        predictions: predictions.len() as u64,
        false_alarms: records
            .iter()
            .filter(|cycle| is_data_drift(cycle) && cycle.outcome != Some(CycleOutcome::Deployed))
            .count() as u64,
        detection_secs: detection(ledger, &records).await?,
        drift_to_live_secs: drift_to_live(&records, &cycles),
        simulated: Simulated { from: facts.from, until: facts.until },
        wall_secs: wall.as_secs_f64(),
        seed,
        dataset: facts.dataset,
        models,
        cycles,
        drift,
    };
    let files = ReportFiles {
        html: out.join("report.html"),
        json: out.join("report.json"),
        predictions: out.join("predictions.parquet"),
    };
    std::fs::create_dir_all(out).map_err(|error| ReplayError::Report(format!("{}: {error}", out.display())))?;
    let wrong = |error: super::report::ReportError| ReplayError::Report(chain(&error));
    write_predictions(&predictions, &files.predictions).map_err(wrong)?;
    write_json(&report, &files.json).map_err(wrong)?;
    write_html(&report, &files.html).map_err(wrong)?;
    Ok((report, files))
}

/// Inputs drifted away from the training data.
fn is_data_drift(cycle: &ledger::Cycle) -> bool {
    matches!(cycle.reason, CycleReason::Drift { .. })
}

/// Data drift, or concept drift: outcomes show that the model no longer holds.
fn is_drift(cycle: &ledger::Cycle) -> bool {
    is_data_drift(cycle) || matches!(cycle.reason, CycleReason::Performance { .. })
}

/// What is read of a bundle's `metrics.json`.
#[derive(Deserialize)]
struct Evaluated {
    evaluation: EvaluatedModel,
}

#[derive(Deserialize)]
struct EvaluatedModel {
    model: serde_json::Value,
}

/// What is read of a bundle's training record.
#[derive(Deserialize)]
struct TrainedOn {
    train_rows: u64,
}

/// The models that were live, in order, from the history of the alias.
async fn models(daemon: &Daemon) -> Result<Vec<LiveModel>, ReplayError> {
    let ledger = &daemon.env.ledger;
    let mut moves = ledger.alias_history(ALL).await?;
    moves.retain(|moved| moved.alias == Alias::Live);
    moves.reverse();
    let mut models: Vec<LiveModel> = Vec::new();
    for moved in moves {
        if let Some(last) = models.last_mut() {
            last.live_until = Some(moved.moved_at);
        }
        let Some(version) = moved.to else { continue };
        let Some(model) = ledger.model(version).await? else { continue };
        let cycle = ledger.cycle(model.cycle).await?;
        let bundle = daemon.bundles.read(&model.bundle).map_err(|error| ReplayError::Report(chain(&error)))?;
        models.push(LiveModel {
            version,
            reason: cycle.map(|cycle| cycle.reason.to_string()).unwrap_or_default(),
            trained_rows: TrainedOn::deserialize(&bundle.training).map_or(0, |learnt| learnt.train_rows),
            threshold: bundle.model.threshold,
            metrics: Evaluated::deserialize(&bundle.metrics)
                .ok()
                .map(|found| found.evaluation.model)
                .unwrap_or_default(),
            live_from: moved.moved_at,
            live_until: None,
        });
    }
    Ok(models)
}

async fn cycles(ledger: &Ledger) -> Result<Vec<Cycle>, ReplayError> {
    let mut records = ledger.cycles(ALL).await?;
    records.reverse();
    let mut cycles = Vec::with_capacity(records.len());
    for record in records {
        let steps = ledger.steps_of(record.id).await?;
        let seconds: StepSeconds =
            steps.iter().map(|step| (step.name.clone(), step.wall_ms.unwrap_or_default() as f64 / 1000.0)).collect();
        cycles.push(Cycle {
            id: record.id,
            reason: record.reason.to_string(),
            outcome: record.outcome.map_or_else(|| "running".to_owned(), |outcome| outcome.to_string()),
            detail: record.detail,
            started_at: record.started_at,
            total_secs: seconds.0.iter().map(|(_, secs)| secs).sum(),
            seconds_by_step: seconds,
        });
    }
    Ok(cycles)
}

/// Reports that saw something; quiet ones stay in the ledger.
async fn drift(ledger: &Ledger) -> Result<Vec<DriftAlarm>, ReplayError> {
    const FEATURES: usize = 12;
    let mut records = ledger.drift_reports(ALL).await?;
    records.reverse();
    let mut alarms = Vec::new();
    for record in records {
        let report: DriftReport = record
            .report
            .read()
            .map_err(|error| ReplayError::Report(format!("{} in the ledger cannot be read: {error}", record.id)))?;
        if report.status == DriftStatus::TooFewRows {
            continue;
        }
        let features = report.features.iter().take(FEATURES).map(|feature| FeatureDrift {
            name: feature.input.clone(),
            psi: feature.distances.psi,
            js_distance: feature.distances.jensen_shannon,
            importance: feature.importance,
        });
        alarms.push(DriftAlarm {
            at: record.at,
            model: record.model,
            features: features.collect(),
            dataset_score: report.dataset_psi,
            drifted: record.drifted,
            reason: report.reason,
        });
    }
    Ok(alarms)
}

/// Seconds from the first suspicion to the alarm, for the cycles that drift began.
async fn detection(ledger: &Ledger, cycles: &[ledger::Cycle]) -> Result<BTreeMap<CycleId, f64>, ReplayError> {
    let reports = ledger.drift_reports(ALL).await?;
    let mut found = BTreeMap::new();
    for cycle in cycles {
        let CycleReason::Drift { report, .. } = &cycle.reason else { continue };
        let Some(alarm) = reports.iter().find(|other| other.id == *report) else { continue };
        let status =
            |record: &ledger::DriftRecord| record.report.read::<DriftReport>().ok().map(|report| report.status);
        // Newest first: go back from the alarm while the model was already suspect.
        let before = reports.iter().filter(|other| other.model == alarm.model && other.at <= alarm.at);
        let suspect =
            before.take_while(|other| matches!(status(other), Some(DriftStatus::Suspected | DriftStatus::Drifted)));
        if let Some(first) = suspect.last() {
            found.insert(cycle.id, (alarm.at - first.at).num_seconds() as f64);
        }
    }
    Ok(found)
}

fn drift_to_live(records: &[ledger::Cycle], cycles: &[Cycle]) -> BTreeMap<CycleId, f64> {
    let deployed = records.iter().filter(|cycle| is_drift(cycle) && cycle.outcome == Some(CycleOutcome::Deployed));
    deployed
        .filter_map(|record| {
            cycles.iter().find(|cycle| cycle.id == record.id).map(|cycle| (cycle.id, cycle.total_secs))
        })
        .collect()
}

/// Scores every flight by the frozen first model and by a lookup table of the
/// same training rows, beside what the loop answered.
async fn scored(
    daemon: &Daemon,
    facts: &Facts,
    models: &[LiveModel],
) -> Result<(Vec<ReplayPrediction>, Thresholds), ReplayError> {
    let first = models.first().ok_or_else(|| ReplayError::Report("no model was ever live".to_owned()))?;
    let model = daemon.env.ledger.model(first.version).await?;
    let model = model.ok_or_else(|| ReplayError::Report(format!("{} is not in the ledger", first.version)))?;
    let bundle = daemon.bundles.read(&model.bundle).map_err(|error| ReplayError::Report(chain(&error)))?;
    let set = daemon.data.training_set(&model.dataset).await?;
    let asked = facts.asked.clone();
    let by_model: BTreeMap<ModelVersion, f32> = models.iter().map(|model| (model.version, model.threshold)).collect();
    run_blocking(move || {
        let predictor = Predictor::from_bundle(&bundle).map_err(|error| ReplayError::Report(chain(&error)))?;
        let rows: Vec<&delayd_features::FlightRow> = asked.iter().map(|asked| &asked.example.row).collect();
        let frozen = score_rows(&predictor, &rows);
        let failed = |error: delayd_data::DataError| ReplayError::Loop(error.into());
        let examples = set.examples_that(|_| true).map_err(failed)?;
        let lookup = LookupTable::fit(&examples, &set.reference.airports);
        let history: Vec<f32> = examples.iter().map(|example| lookup.score(&example.row)).collect();
        let late = examples.iter().filter(|example| example.outcome.is_some_and(|outcome| outcome.delayed)).count();
        // As many alerts as there are delays: the table has no threshold of its own.
        let threshold = threshold_for_alert_share(&history, late as f64 / examples.len().max(1) as f64);
        let predictions = asked
            .iter()
            .zip(frozen)
            .map(|(asked, frozen_score)| {
                let row = &asked.example.row;
                ReplayPrediction {
                    carrier: row.carrier.clone(),
                    flight_number: row.flight_number,
                    origin: row.origin.clone(),
                    dest: row.dest.clone(),
                    scheduled_departure: row.scheduled_departure,
                    prediction_time: asked.example.prediction_time,
                    score: asked.score,
                    model_version: asked.model,
                    delayed: asked.example.outcome.map(|outcome| outcome.delayed),
                    frozen_score,
                    lookup_score: lookup.score(row),
                }
            })
            .collect();
        let thresholds = Thresholds { by_model, frozen: predictor.threshold(), lookup: threshold };
        Ok((predictions, thresholds))
    })
    .await?
}
