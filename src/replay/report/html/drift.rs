//! Drift by feature over time as a heat map, and the alarms it raised.

use chrono::{DateTime, Utc};

use super::svg::{Anchor, Canvas, Frame};
use super::{Figure, Table, escaped};
use crate::replay::report::format::{day, metric, minute, percent};
use crate::replay::report::model::{DriftAlarm, FeatureDrift, Report};

/// Rows of the heat map: the features that moved most where the model looks most.
const MOST_FEATURES: usize = 16;

/// Columns of the heat map, so that a cell can still be seen.
const MOST_COLUMNS: (usize, usize) = (104, 44);

/// Width of a letter of a label.
const LABEL_CHARACTER: f64 = 6.7;

/// Evaluations no further apart than this are one alarm that goes on.
const ALARM_GOES_ON_HOURS: i64 = 36;

/// Alarms that are listed before the rest is folded away.
const ALARMS_SHOWN: usize = 12;

/// From which PSI on a cell gets its colour, and what that means: below 0.1 is
/// usually called stable, above 0.25 a shift (Siddiqi 2006).
const LEVELS: [(f64, &str); 6] =
    [(0.0, "below 0.05"), (0.05, "0.05"), (0.1, "0.1"), (0.25, "0.25"), (0.5, "0.5"), (1.0, "1 or more")];

/// The heat map with its legend and table.
pub(super) fn chart(report: &Report) -> String {
    let features = ranked(report);
    if features.is_empty() {
        return "<p class=\"none\">Drift was never evaluated.</p>".into();
    }
    let caption = format!(
        "Population stability index against the live model's reference, largest of each stretch of time. The {} features \
         that matter most: largest PSI times importance. Triangles are alarms.",
        features.len()
    );
    let drawn = (heat_map(report, &features, Frame::Wide), heat_map(report, &features, Frame::Narrow));
    Figure {
        title: "Drift by feature",
        caption: &caption,
        key: &legend(),
        beside: false,
        drawn,
        table: table(report, &features),
    }
    .html()
}

struct Ranked {
    name: String,
    importance: f64,
    worst: f64,
    worst_at: DateTime<Utc>,
}

fn ranked(report: &Report) -> Vec<Ranked> {
    let mut by_name: std::collections::BTreeMap<&str, Ranked> = std::collections::BTreeMap::new();
    for evaluation in &report.drift {
        for feature in &evaluation.features {
            let entry = by_name.entry(&feature.name).or_insert_with(|| Ranked {
                name: feature.name.clone(),
                importance: 0.0,
                worst: f64::NEG_INFINITY,
                worst_at: evaluation.at,
            });
            entry.importance = entry.importance.max(feature.importance);
            if feature.psi > entry.worst {
                (entry.worst, entry.worst_at) = (feature.psi, evaluation.at);
            }
        }
    }
    let mut features: Vec<Ranked> = by_name.into_values().collect();
    features.sort_by(|a, b| (b.worst * b.importance).total_cmp(&(a.worst * a.importance)));
    features.truncate(MOST_FEATURES);
    features
}

fn level(psi: f64) -> usize {
    LEVELS.iter().rposition(|(from, _)| psi >= *from).unwrap_or(0)
}

fn psi_of(evaluation: &DriftAlarm, name: &str) -> Option<f64> {
    evaluation.features.iter().find(|f| f.name == name).map(|f| f.psi)
}

fn heat_map(report: &Report, features: &[Ranked], frame: Frame) -> String {
    let per_column = report.drift.len().div_ceil(frame.pick(MOST_COLUMNS.0, MOST_COLUMNS.1)).max(1);
    let columns: Vec<&[DriftAlarm]> = report.drift.chunks(per_column).collect();
    // Room for the longest name: names of one group differ at their ends only.
    let longest = features.iter().map(|feature| feature.name.chars().count()).max().unwrap_or(0);
    let names = (longest as f64 * LABEL_CHARACTER + 14.0).clamp(120.0, 380.0);
    let (left, top, row) = (frame.pick(names, 8.0), 18.0, frame.pick(19.0, 33.0));
    let width = (frame.width() - left - 8.0) / columns.len() as f64;
    let bottom = top + row * features.len() as f64;
    let mut canvas = Canvas::new(frame.width(), bottom + 22.0);
    for (index, feature) in features.iter().enumerate() {
        let y = top + row * index as f64;
        match frame {
            Frame::Wide => canvas.text((left - 8.0, y + 13.0), Anchor::End, "label", &feature.name),
            Frame::Narrow => canvas.text((left, y + 11.0), Anchor::Start, "label", &feature.name),
        }
        let (y, height) = frame.pick((y + 1.0, row - 2.0), (y + 15.0, row - 20.0));
        for (at, column) in columns.iter().enumerate() {
            let worst = column.iter().filter_map(|e| psi_of(e, &feature.name)).fold(f64::NEG_INFINITY, f64::max);
            if worst.is_finite() {
                let tip = format!("{}, {}: PSI {worst:.2}", feature.name, day(column[0].at.date_naive()));
                canvas.rect(
                    (left + width * at as f64, y),
                    (width - 0.6, height),
                    &format!("heat h{}", level(worst)),
                    Some(&tip),
                );
            }
        }
    }
    let mut room_from = f64::NEG_INFINITY;
    let mut month = String::new();
    for (at, column) in columns.iter().enumerate() {
        let x = left + width * at as f64;
        if let Some(alarm) = column.iter().find(|e| e.drifted) {
            let middle = x + width / 2.0;
            let corners = [(middle - 4.5, 5.0), (middle + 4.5, 5.0), (middle, 13.0)];
            canvas.path(corners.into_iter().map(Some), "alarm");
            canvas.rect(
                (middle - 6.0, 0.0),
                (12.0, 15.0),
                "hit",
                Some(&format!("Alarm, {}: {}", minute(alarm.at), alarm.reason)),
            );
        }
        let this = column[0].at.format("%b").to_string();
        if this != month && x >= room_from && x + 24.0 < frame.width() {
            canvas.text((x, bottom + 15.0), Anchor::Start, "tick", &this);
            room_from = x + 36.0;
        }
        month = this;
    }
    let worst = features.iter().map(|f| format!("{} {:.2}", f.name, f.worst)).take(3).collect::<Vec<_>>().join(", ");
    canvas.finish(&format!(
        "Heat map of drift, {} features by {} evaluations. Largest PSI of those that matter most: {worst}.",
        features.len(),
        report.drift.len()
    ))
}

fn legend() -> String {
    let keys: String = LEVELS
        .iter()
        .enumerate()
        .map(|(n, (_, text))| format!("<span><i class=\"key h{n}\"></i>{text}</span>"))
        .collect();
    format!("<p class=\"legend\">PSI from {keys}</p>")
}

fn table(report: &Report, features: &[Ranked]) -> Table {
    let mut table = Table::new(&["Feature", "#Importance", "#Largest PSI", "When", "#Evaluations from 0.25 on"]);
    for feature in features {
        let shifted = report.drift.iter().filter_map(|e| psi_of(e, &feature.name)).filter(|psi| *psi >= 0.25).count();
        table.row([
            feature.name.clone(),
            percent(Some(feature.importance)),
            format!("{:.2}", feature.worst),
            day(feature.worst_at.date_naive()),
            format!("{shifted} of {}", report.drift.len()),
        ]);
    }
    table
}

/// The list of alarms, those of consecutive days together; a long one can be unfolded.
pub(super) fn alarms(report: &Report) -> String {
    let drifted: Vec<&DriftAlarm> = report.drift.iter().filter(|e| e.drifted).collect();
    let goes_on =
        |a: &&DriftAlarm, b: &&DriftAlarm| a.model == b.model && (b.at - a.at).num_hours() <= ALARM_GOES_ON_HOURS;
    let items: Vec<String> = drifted.chunk_by(goes_on).filter_map(alarms_together).collect();
    let list = |items: &[String]| format!("<ol class=\"alarms\">{}</ol>", items.concat());
    match items.split_at_checked(ALARMS_SHOWN) {
        None if items.is_empty() => "<p class=\"none\">No alarm was raised.</p>".into(),
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
        format!(
            " to <time datetime=\"{}\">{}</time>, {} evaluations, the worst of {}:",
            last.at.to_rfc3339(),
            minute(last.at),
            alarms.len(),
            day(worst.at.date_naive())
        )
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
        "<li><p><time datetime=\"{}\">{}</time>{until} <b>{}</b> <span class=\"note\">dataset score {}</span></p><p>{}</p><p class=\"note\">{}</p></li>",
        from.to_rfc3339(),
        minute(from),
        alarm.model,
        metric(Some(alarm.dataset_score)),
        escaped(&alarm.reason),
        shown.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_cell_gets_the_colour_of_its_psi() {
        assert_eq!([-0.1, 0.0, 0.05, 0.0999, 0.25, 0.7, 4.0].map(level), [0, 0, 1, 1, 3, 4, 5]);
    }
}
