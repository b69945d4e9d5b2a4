//! The alarms that drift raised.

use chrono::{DateTime, Utc};

use super::markup::{chart, escaped, nothing, time};
use crate::replay::report::format::{day, metric, percent};
use crate::replay::report::model::{DriftAlarm, FeatureDrift, Report};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::report::format::minute;

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
