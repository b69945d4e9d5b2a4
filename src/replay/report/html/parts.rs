//! The parts of the page that are text and tables, in the classes of the daemon's page: models, cycles, drift alarms.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::replay::report::model::{Cycle, DriftAlarm, FeatureDrift, LiveModel, Report};
use crate::replay::report::summary::{count, day, duration, metric, minute, percent, words};

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

/// Evaluations no further apart than this are one alarm that continues.
const ALARM_CONTINUES_HOURS: i64 = 36;

/// Alarms that are listed before the rest is folded away.
const ALARMS_SHOWN: usize = 12;

/// Where the heat map goes.
pub(super) fn heat_map(report: &Report) -> String {
    match report.drift.iter().any(|evaluation| !evaluation.features.is_empty()) {
        true => chart("drift"),
        false => nothing("Drift was never evaluated."),
    }
}

/// The list of alarms, those of consecutive days together; a long one can be unfolded.
pub(super) fn alarms(report: &Report) -> String {
    let drifted: Vec<&DriftAlarm> = report.drift.iter().filter(|e| e.drifted).collect();
    let continues =
        |a: &&DriftAlarm, b: &&DriftAlarm| a.model == b.model && (b.at - a.at).num_hours() <= ALARM_CONTINUES_HOURS;
    let items: Vec<String> = drifted.chunk_by(continues).filter_map(alarms_together).collect();
    let list = |items: &[String]| format!("<ol class=\"alarms\">{}</ol>", items.concat());
    match items.split_at_checked(ALARMS_SHOWN) {
        None if items.is_empty() => nothing("No alarm was raised."),
        None => list(&items),
        Some((_, [])) => list(&items),
        Some((first, rest)) => {
            format!("{}<details><summary>{} more</summary>{}</details>", list(first), rest.len(), list(rest))
        }
    }
}

/// One entry for alarms that followed each other, told by the worst of them.
fn alarms_together(alarms: &[&DriftAlarm]) -> Option<String> {
    let (first, last) = (alarms.first()?, alarms.last()?);
    let worst = alarms.iter().max_by(|a, b| a.dataset_score.total_cmp(&b.dataset_score))?;
    let until = if alarms.len() > 1 {
        format!(" to {}, {} evaluations, the worst of {}:", time(last.at), alarms.len(), day(worst.at.date_naive()))
    } else {
        String::new()
    };
    Some(alarm(worst, first.at, &until))
}

fn alarm(alarm: &DriftAlarm, from: DateTime<Utc>, until: &str) -> String {
    let mut worst: Vec<&FeatureDrift> = alarm.features.iter().collect();
    worst.sort_by(|a, b| (b.psi * b.importance).total_cmp(&(a.psi * a.importance)));
    let shown: Vec<String> = worst
        .iter()
        .take(3)
        .map(|f| {
            format!(
                "<span class=\"whole\">{} PSI {:.2}, JS {:.2}, importance {}</span>",
                escaped(&f.name),
                f.psi,
                f.js_distance,
                percent(Some(f.importance))
            )
        })
        .collect();
    format!(
        "<li><p>{}{until} <b>{}</b> <span class=\"note\">dataset score {}</span></p><p>{}</p><p class=\"note\">{}</p></li>",
        time(from),
        alarm.model,
        metric(Some(alarm.dataset_score)),
        escaped(&alarm.reason),
        shown.join(" ")
    )
}

/// Text made safe for HTML's content and attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A moment in UTC, to the minute.
fn time(at: DateTime<Utc>) -> String {
    format!("<time datetime=\"{}\">{}</time>", at.to_rfc3339(), minute(at))
}

/// How a cycle ended, as a coloured label.
fn outcome(outcome: &str) -> String {
    let tone = match outcome {
        "deployed" => "ok",
        "kept_live" => "plain",
        "rolled_back" | "cancelled" => "warn",
        _ => "bad",
    };
    format!("<span class=\"badge {tone}\">{}</span>", escaped(&words(outcome)))
}

/// Where the script puts a chart.
pub(super) fn chart(name: &str) -> String {
    format!("<div data-chart=\"{name}\"></div>")
}

pub(super) fn nothing(text: &str) -> String {
    format!("<p class=\"none\">{}</p>", escaped(text))
}

/// A table whose rows are cards on a phone; the first column names the row. A heading
/// that begins with `#` makes its column one of numbers. `rows` are cells of HTML.
fn table(caption: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let column = |title: &str| match title.strip_prefix('#') {
        Some(title) => (escaped(title), " class=\"number\""),
        None => (escaped(title), ""),
    };
    let columns: Vec<_> = header.iter().map(|title| column(title)).collect();
    let header: String =
        columns.iter().map(|(title, class)| format!("<th scope=\"col\"{class}>{title}</th>")).collect();
    let cell = |(index, cell): (usize, &String)| match &columns[index] {
        _ if index == 0 => format!("<th scope=\"row\">{cell}</th>"),
        (title, class) => format!("<td{class} data-name=\"{title}\"><div>{cell}</div></td>"),
    };
    let rows: String = rows
        .iter()
        .map(|cells| format!("<tr>{}</tr>", cells.iter().enumerate().map(cell).collect::<String>()))
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"cards\"><caption class=\"unseen\">{}</caption><thead><tr>{header}</tr></thead>\
         <tbody>{rows}</tbody></table></div>",
        escaped(caption)
    )
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

    #[test]
    fn alarms_of_consecutive_days_are_one_entry() {
        let mut report = crate::replay::report::fixture::report();
        report.drift.truncate(4);
        let (model, began) = (report.drift[0].model, report.drift[0].at);
        for (evaluation, days) in report.drift.iter_mut().zip([0, 1, 2, 9]) {
            (evaluation.drifted, evaluation.model) = (true, model);
            (evaluation.at, evaluation.dataset_score) = (began + chrono::Duration::days(days), days as f64);
        }
        let html = alarms(&report);
        assert_eq!(html.matches("<li>").count(), 2, "{html}");
        assert!(html.contains("3 evaluations") && html.contains(&minute(began + chrono::Duration::days(2))), "{html}");
    }

    #[test]
    fn a_long_list_of_alarms_is_folded_and_complete() {
        let mut report = crate::replay::report::fixture::report();
        let began = report.drift[0].at;
        for (evaluation, days) in report.drift.iter_mut().zip((0..).step_by(3)) {
            (evaluation.drifted, evaluation.at) = (true, began + chrono::Duration::days(days));
        }
        let html = alarms(&report);
        assert_eq!(html.matches("<li>").count(), report.drift.len());
        assert!(html.contains(&format!("<summary>{} more</summary>", report.drift.len() - ALARMS_SHOWN)));
    }
}
