//! The models and the cycles.

use serde::Deserialize;

use super::markup::{chart, escaped, nothing, outcome, table, time};
use crate::replay::report::format::{count, duration, metric};
use crate::replay::report::model::{Cycle, LiveModel, Report};

/// Models with the reason for each.
pub(super) fn models(report: &Report) -> String {
    if report.models.is_empty() {
        return nothing("No model went live.");
    }
    let row = |model: &LiveModel| {
        vec![
            model.version.to_string(),
            time(model.live_from),
            model.live_until.map_or_else(|| "still live".into(), time),
            count(model.trained_rows),
            metric(validation_auc(model)),
            format!("{:.3}", model.threshold),
            escaped(&model.reason),
        ]
    };
    let rows: Vec<_> = report.models.iter().map(row).collect();
    let header = ["Model", "Live from", "Until", "#Trained on", "#Validation ROC-AUC", "#Threshold", "Reason"];
    table("Models that were live", &header, &rows)
}

/// A bundle's `metrics.json` keeps the metrics of the validation tail under `validation`.
fn validation_auc(model: &LiveModel) -> Option<f64> {
    #[derive(Deserialize)]
    struct Measured {
        roc_auc: Option<f64>,
        validation: Option<Box<Measured>>,
    }
    let Measured { roc_auc, validation } = Measured::deserialize(&model.metrics).ok()?;
    validation.and_then(|tail| tail.roc_auc).or(roc_auc)
}

/// Cycles with how each ended, and where its time went.
pub(super) fn cycles(report: &Report) -> String {
    if report.cycles.is_empty() {
        return nothing("No cycle ran.");
    }
    let secs = |known: Option<&f64>| known.map_or_else(|| "–".to_owned(), |secs| duration(*secs));
    let row = |cycle: &Cycle| {
        vec![
            cycle.id.to_string(),
            time(cycle.started_at),
            escaped(&cycle.reason),
            format!("{} <span class=\"note\">{}</span>", outcome(&cycle.outcome), escaped(&cycle.detail)),
            duration(cycle.total_secs),
            secs(report.detection_secs.get(&cycle.id)),
            secs(report.drift_to_live_secs.get(&cycle.id)),
        ]
    };
    let rows: Vec<_> = report.cycles.iter().map(row).collect();
    let header = ["Cycle", "Started", "Reason", "Outcome", "#Took", "#Sign to alarm", "#Alarm to live"];
    format!("{}{}", table("Cycles", &header, &rows), chart("timings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validation_metric_is_found_in_a_bundle_s_metrics_and_in_metrics_alone() {
        let mut model = crate::replay::report::fixture::report().models.remove(0);
        for (metrics, expected) in [
            (serde_json::json!({ "roc_auc": 0.7 }), Some(0.7)),
            (serde_json::json!({ "schema": 1, "validation": { "roc_auc": 0.8 } }), Some(0.8)),
            (serde_json::json!({ "validation": { "roc_auc": null } }), None),
        ] {
            model.metrics = metrics;
            assert_eq!(validation_auc(&model), expected);
        }
    }
}
