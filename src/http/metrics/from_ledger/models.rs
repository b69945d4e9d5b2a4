//! Runs, models, images, deployments and verifications.

use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use super::{at, by_name, document, live_model, moment, number, parsed, put_counts};
use crate::http::metrics::catalogue as names;
use crate::http::metrics::page::Page;

pub(super) fn training(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let runs = by_name(connection, "SELECT state, count(*) FROM runs GROUP BY state", [])?;
    put_counts(page, &names::TRAINING_RUNS, &["succeeded", "failed", "cancelled"], &runs);
    let running = runs.iter().find(|(state, _)| state == "running").map_or(0.0, |(_, count)| *count);
    page.put(&names::TRAINING_RUNNING, &[], running);
    let newest = "SELECT device, epochs, trials, metrics, cycle FROM runs
                  WHERE state = 'succeeded' ORDER BY id DESC LIMIT 1";
    type Row = (String, String, String, String, i64);
    let row: Option<Row> = connection
        .prepare_cached(newest)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    let Some((device, epochs, trials, metrics, cycle)) = row else { return Ok(()) };
    page.put(&names::TRAINING_INFO, &[device_class(&device)], 1.0);
    let length = |document: &Value| document.as_array().map_or(0, Vec::len) as f64;
    page.put(&names::TRAINING_EPOCHS, &[], length(&parsed(&epochs)?));
    let trials = parsed(&trials)?;
    page.put(&names::TRAINING_TRIALS, &[], trials.get("trials").map_or(0.0, length));
    let metrics = parsed(&metrics)?;
    let judged = metrics.pointer("/evaluation/model").or_else(|| metrics.get("validation")).unwrap_or(&Value::Null);
    for (metric, field) in [
        (&names::TRAINING_AUC, "/roc_auc"),
        (&names::TRAINING_LOG_LOSS, "/log_loss"),
        (&names::TRAINING_ECE, "/expected_calibration_error"),
        (&names::TRAINING_RECALL, "/recall"),
    ] {
        page.put_some(metric, &[], at(judged, field));
    }
    let step = "SELECT output FROM steps WHERE cycle = ?1 AND name = 'train' AND output IS NOT NULL";
    if let Some(output) = document(connection, step, [cycle])? {
        page.put_some(&names::TRAINING_SECONDS, &[], at(&output, "/train_secs"));
        page.put_some(&names::TRAINING_ROWS, &[], at(&output, "/trained_rows"));
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

pub(super) fn deployments(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let states = ["applying", "applied", "verified", "approved", "rolled_back", "failed"];
    let deployments = by_name(connection, "SELECT state, count(*) FROM deployments GROUP BY state", [])?;
    put_counts(page, &names::DEPLOYMENTS, &states, &deployments);
    let approved = "SELECT release FROM deployments WHERE state = 'approved' ORDER BY changed_at DESC, id DESC LIMIT 1";
    let release = document(connection, approved, [])?;
    page.put(&names::REPLICAS_WANTED, &[], release.and_then(|release| at(&release, "/replicas")).unwrap_or(0.0));
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
