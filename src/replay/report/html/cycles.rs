//! The models, the cycles and where their time went.

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Figure, Table, escaped};
use crate::replay::report::format::{count, duration, metric, minute, words};
use crate::replay::report::model::{Cycle, LiveModel, Report};

/// How many step colours the style sheet has.
const COLOURS: usize = 10;

/// Models with the reason for each.
pub(super) fn models(report: &Report) -> String {
    let mut table =
        Table::new(&["Model", "@Live from", "@Until", "#Learnt from", "#Validation ROC-AUC", "#Threshold", "Reason"])
            .stacking();
    for model in &report.models {
        table.row([
            model.version.to_string(),
            minute(model.live_from),
            model.live_until.map_or_else(|| "still live".into(), minute),
            count(model.trained_rows),
            metric(validation_auc(model)),
            format!("{:.3}", model.threshold),
            model.reason.clone(),
        ]);
    }
    table.html("No model went live.")
}

/// A bundle's `metrics.json` keeps the metrics of the validation tail under `validation`.
fn validation_auc(model: &LiveModel) -> Option<f64> {
    ["/validation/roc_auc", "/roc_auc"].iter().find_map(|place| model.metrics.pointer(place)?.as_f64())
}

/// Cycles, each with its outcome in words and by colour.
pub(super) fn table(report: &Report) -> String {
    if report.cycles.is_empty() {
        return "<p class=\"none\">No cycle ran.</p>".into();
    }
    let rows: String = report.cycles.iter().map(|cycle| row(report, cycle)).collect();
    format!(
        "<div class=\"scroll stacks cycles\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">Cycle</th><th scope=\"col\">Began</th>\
         <th scope=\"col\">Reason</th><th scope=\"col\">Outcome</th><th scope=\"col\" class=\"num\">Took</th>\
         <th scope=\"col\" class=\"num\">Sign to alarm</th><th scope=\"col\" class=\"num\">Alarm to live</th></tr></thead>\
         <tbody>{rows}</tbody></table></div>"
    )
}

fn row(report: &Report, cycle: &Cycle) -> String {
    let secs = |known: Option<&f64>| known.map_or_else(|| "–".to_owned(), |secs| duration(*secs));
    format!(
        "<tr><td>{}</td><td class=\"when\" data-label=\"Began\">{}</td><td data-label=\"Reason\">{}</td><td data-label=\"Outcome\"><span><b class=\"outcome {}\">{}</b> <span class=\"note\">{}</span></span></td>\
         <td class=\"num\" data-label=\"Took\">{}</td><td class=\"num\" data-label=\"Sign to alarm\">{}</td><td class=\"num\" data-label=\"Alarm to live\">{}</td></tr>",
        cycle.id,
        minute(cycle.started_at),
        escaped(&cycle.reason),
        escaped(&cycle.outcome),
        escaped(&words(&cycle.outcome)),
        escaped(&cycle.detail),
        duration(cycle.total_secs),
        secs(report.detection_secs.get(&cycle.id)),
        secs(report.drift_to_live_secs.get(&cycle.id)),
    )
}

/// Stacked bars of step timings with legend and table; empty without cycles.
pub(super) fn timings(report: &Report) -> String {
    let steps = steps_of(report);
    if steps.is_empty() {
        return String::new();
    }
    let keys: String = steps
        .iter()
        .enumerate()
        .map(|(n, step)| format!("<span><i class=\"key s{}\"></i>{}</span>", n % COLOURS, escaped(step)))
        .collect();
    Figure {
        title: "Where the time of each cycle went",
        caption: "Wall time by step, in the order in which they ran; a bar ends where its cycle ended.",
        key: &format!("<p class=\"legend\">{keys}</p>"),
        beside: false,
        drawn: (draw(report, &steps, Frame::Wide), draw(report, &steps, Frame::Narrow)),
        table: timing_table(report, &steps),
    }
    .html()
}

/// All steps, in the order in which they were first seen.
fn steps_of(report: &Report) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for (step, _) in report.cycles.iter().flat_map(|cycle| &cycle.seconds_by_step.0) {
        if !steps.contains(step) {
            steps.push(step.clone());
        }
    }
    steps
}

fn draw(report: &Report, steps: &[String], frame: Frame) -> String {
    let (left, right, row) = (frame.pick(76.0, 64.0), frame.pick(92.0, 74.0), 22.0);
    let bottom = 4.0 + row * report.cycles.len() as f64;
    let mut canvas = Canvas::new(frame.width(), bottom + 20.0);
    let stacked = |cycle: &Cycle| cycle.seconds_by_step.0.iter().map(|(_, secs)| *secs).sum::<f64>();
    let longest = report.cycles.iter().map(stacked).fold(0.001, f64::max);
    let time = Scale { low: 0.0, high: longest, from: left, to: frame.width() - right };
    for tick in time.ticks(frame.pick(6, 3)) {
        canvas.line((time.at(tick), 2.0), (time.at(tick), bottom), "grid");
        canvas.text((time.at(tick), bottom + 15.0), Anchor::Middle, "tick", &format!("{tick} s"));
    }
    for (index, cycle) in report.cycles.iter().enumerate() {
        let y = 4.0 + row * index as f64;
        canvas.text((left - 8.0, y + 14.0), Anchor::End, "label", &cycle.id.to_string());
        let mut spent = 0.0;
        for (step, secs) in &cycle.seconds_by_step.0 {
            let colour = steps.iter().position(|known| known == step).unwrap_or(0) % COLOURS;
            let (from, until) = (time.at(spent), time.at(spent + secs));
            let tip = format!("{}, {step}: {}", cycle.id, duration(*secs));
            canvas.rect((from, y + 3.0), (until - from, row - 7.0), &format!("step s{colour}"), Some(&tip));
            spent += secs;
        }
        let class = format!("outcome {}", cycle.outcome.split_whitespace().next().unwrap_or_default());
        let class = if class.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ' ') {
            class
        } else {
            "outcome".into()
        };
        canvas.text((time.at(spent) + 6.0, y + 14.0), Anchor::Start, &class, &words(&cycle.outcome));
    }
    canvas.finish(&format!(
        "Wall time of {} cycles by step; the longest took {}.",
        report.cycles.len(),
        duration(longest)
    ))
}

fn timing_table(report: &Report, steps: &[String]) -> Table {
    let header: Vec<String> = std::iter::once("Cycle".to_owned())
        .chain(steps.iter().map(|step| format!("#{step}, s")))
        .chain(["#total, s".to_owned()])
        .collect();
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for cycle in &report.cycles {
        let secs = |step: &String| cycle.seconds_by_step.of(step).map_or_else(|| "–".to_owned(), |s| format!("{s:.1}"));
        let cells = std::iter::once(cycle.id.to_string()).chain(steps.iter().map(secs));
        table.row(cells.chain([format!("{:.1}", cycle.total_secs)]));
    }
    table
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
