//! Runs, models, images, deployments and verifications.

use rusqlite::{Connection, OptionalExtension};

use super::{by_name, document, known, live_model, moment, number, put_counts};
use crate::cycle::saga::StepOutput;
use crate::http::metrics::catalogue as names;
use crate::http::metrics::page::Page;
use crate::stages::train::ModelTrained;
use delayd_core::Document;
use delayd_judge::evaluation::BundleMetrics;
use delayd_ledger::Snapshot;
use delayd_training_job::{EpochRecord, TuningReport};

pub(super) fn training(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let runs = by_name(connection, "SELECT state, count(*) FROM runs GROUP BY state", [])?;
    put_counts(page, &names::TRAINING_RUNS, &["succeeded", "failed", "cancelled"], &runs);
    let running = runs.iter().find(|(state, _)| state == "running").map_or(0.0, |(_, count)| *count);
    page.put(&names::TRAINING_RUNNING, &[], running);
    let newest = "SELECT device, epochs, trials, metrics, cycle FROM runs
                  WHERE state = 'succeeded' ORDER BY id DESC LIMIT 1";
    type Row = (String, Document, Document, Document, i64);
    let row: Option<Row> = connection
        .prepare_cached(newest)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    let Some((device, epochs, trials, metrics, cycle)) = row else { return Ok(()) };
    page.put(&names::TRAINING_INFO, &[device_class(&device)], 1.0);
    let epochs = known::<Option<Vec<EpochRecord>>>(&epochs).flatten().map_or(0, |epochs| epochs.len());
    page.put(&names::TRAINING_EPOCHS, &[], epochs as f64);
    let trials = known::<Option<TuningReport>>(&trials).flatten().map_or(0, |search| search.trials.len());
    page.put(&names::TRAINING_TRIALS, &[], trials as f64);
    if let Some(judged) = known::<BundleMetrics>(&metrics).as_ref().and_then(BundleMetrics::judged) {
        page.put_some(&names::TRAINING_AUC, &[], judged.roc_auc);
        page.put_some(&names::TRAINING_LOG_LOSS, &[], judged.log_loss);
        page.put_some(&names::TRAINING_ECE, &[], judged.expected_calibration_error);
        page.put(&names::TRAINING_RECALL, &[], judged.recall);
    }
    let step = "SELECT output FROM steps WHERE cycle = ?1 AND name = 'train' AND output IS NOT NULL";
    if let Some(StepOutput(trained)) = document::<StepOutput<ModelTrained>>(connection, step, [cycle])? {
        page.put(&names::TRAINING_SECONDS, &[], trained.train_secs);
        page.put(&names::TRAINING_ROWS, &[], trained.trained_rows as f64);
    }
    Ok(())
}

/// A device as a label: which of several cards it was is of no interest here.
fn device_class(device: &str) -> &'static str {
    match device.split(':').next().unwrap_or_default() {
        "cpu" => "cpu",
        "cuda" => "cuda",
        _ => "other",
    }
}

pub(super) fn registry(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let models = number(connection, "SELECT count(*) FROM models", [])?;
    page.put(&names::MODELS, &[], models.unwrap_or(0.0));
    let moves = by_name(connection, "SELECT alias, count(*) FROM alias_history GROUP BY alias", [])?;
    put_counts(page, &names::ALIAS_MOVES, &["live", "previous", "candidate"], &moves);
    let live = live_model(connection)?;
    page.put(&names::LIVE_MODEL_VERSION, &[], live.unwrap_or(0) as f64);
    let Some(live) = live else { return Ok(()) };
    let since = moment(connection, "SELECT moved_at FROM aliases WHERE alias = 'live'", [])?;
    page.put_some(&names::LIVE_MODEL_SINCE, &[], since);
    let (bundle, cycle, run): (String, i64, i64) = connection
        .prepare_cached("SELECT bundle, cycle, run FROM models WHERE version = ?1")?
        .query_row([live], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let labels = [format!("model_v{live}"), bundle, format!("cycle_{cycle}"), format!("run_{run}")];
    page.put(&names::LIVE_MODEL_INFO, &labels.each_ref().map(String::as_str), 1.0);
    Ok(())
}

pub(super) fn images(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let images = number(connection, "SELECT count(*) FROM images", [])?;
    page.put(&names::IMAGES, &[], images.unwrap_or(0.0));
    for (metric, labels, column) in [
        (&names::IMAGE_SIZE, &[][..], "size_bytes"),
        (&names::IMAGE_LAYERS, &["pushed"][..], "layers_pushed"),
        (&names::IMAGE_LAYERS, &["reused"][..], "layers_reused"),
    ] {
        let sql = format!("SELECT {column} FROM images ORDER BY pushed_at DESC, model DESC, digest LIMIT 1");
        page.put_some(metric, labels, number(connection, &sql, [])?);
    }
    for (label, reused) in [("true", 1), ("false", 0)] {
        let builds = number(connection, "SELECT count(*) FROM builds WHERE reused = ?1", [reused])?;
        page.put(&names::BUILDS, &[label], builds.unwrap_or(0.0));
    }
    Ok(())
}

pub(super) fn deployments(page: &mut Page, connection: &Snapshot<'_>) -> rusqlite::Result<()> {
    let states = ["applying", "applied", "verified", "approved", "rolled_back", "failed"];
    let deployments = by_name(connection, "SELECT state, count(*) FROM deployments GROUP BY state", [])?;
    put_counts(page, &names::DEPLOYMENTS, &states, &deployments);
    let wanted = connection.approved_deployment()?.map_or(0, |approved| approved.release.replicas);
    page.put(&names::REPLICAS_WANTED, &[], f64::from(wanted));
    let undone = number(connection, "SELECT count(*) FROM cycles WHERE outcome = 'rolled_back'", [])?;
    page.put(&names::ROLLBACKS, &["cycle"], undone.unwrap_or(0.0));
    // The coordinator tells of each by an alert with this key.
    let asked = "SELECT count(*) FROM outbox WHERE dedup_key >= 'rollback/' AND dedup_key < 'rollback0'";
    page.put(&names::ROLLBACKS, &["operator"], number(connection, asked, [])?.unwrap_or(0.0));
    for (result, passed) in [("passed", 1), ("failed", 0)] {
        let count = number(connection, "SELECT count(*) FROM verifications WHERE passed = ?1", [passed])?;
        page.put(&names::VERIFICATIONS, &[result], count.unwrap_or(0.0));
    }
    let last = moment(connection, "SELECT max(at) FROM verifications", [])?;
    page.put_some(&names::VERIFICATION_LAST, &[], last);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_by_its_class() {
        assert_eq!(["cpu", "cuda:3", "Mps"].map(device_class), ["cpu", "cuda", "other"]);
    }
}
