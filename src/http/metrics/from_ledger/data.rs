//! Ingestion and validation.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::{by_name, document, moment, number, put_counts};
use crate::http::metrics::catalogue as names;
use crate::http::metrics::counted::seconds;
use crate::http::metrics::page::Page;
use delayd_data::validation::ValidationReport;

/// Classes of the contract's rules: what stands after a column's name, or the name of a rule of its own.
const RULES: [&str; 15] = [
    "unreadable_row",
    "required",
    "range",
    "allowed",
    "outlier",
    "unknown_airport",
    "origin_is_destination",
    "distance_off_great_circle",
    "departure_too_far_ahead",
    "outcome_in_the_future",
    "arrival_not_after_departure",
    "arrival_delay_inconsistent",
    "status_inconsistent",
    "conflicting_duplicate",
    "other",
];

pub(super) fn ingestion(page: &mut Page, connection: &Connection, now: DateTime<Utc>) -> rusqlite::Result<()> {
    let objects = by_name(connection, "SELECT status, count(*) FROM objects GROUP BY status", [])?;
    put_counts(page, &names::INGESTION_OBJECTS, &["ingested", "rejected", "failed"], &objects);
    let columns = [("accepted", "rows_accepted"), ("quarantined", "rows_quarantined"), ("duplicate", "rows_duplicate")];
    for (result, column) in columns {
        let rows = number(connection, &format!("SELECT sum({column}) FROM objects"), [])?;
        page.put(&names::INGESTION_ROWS, &[result], rows.unwrap_or(0.0));
    }
    let bytes = number(connection, "SELECT sum(size_bytes) FROM objects", [])?;
    page.put(&names::INGESTION_BYTES, &[], bytes.unwrap_or(0.0));
    let last = moment(connection, "SELECT max(ingested_at) FROM objects WHERE status = 'ingested'", [])?;
    page.put_some(&names::INGESTION_LAST_OBJECT, &[], last);
    // The index on the moment answers this without reading the table.
    let watermark = moment(connection, "SELECT max(known_at) FROM outcomes", [])?;
    page.put_some(&names::INGESTION_WATERMARK, &[], watermark);
    page.put_some(&names::INGESTION_WATERMARK_AGE, &[], watermark.map(|at| (seconds(now) - at).max(0.0)));
    let weather = number(connection, "SELECT share FROM dataset_weather ORDER BY at DESC LIMIT 1", [])?;
    page.put_some(&names::WEATHER_COVERAGE, &[], weather);
    Ok(())
}

pub(super) fn validation(page: &mut Page, connection: &Connection) -> rusqlite::Result<()> {
    let datasets = number(connection, "SELECT count(*) FROM datasets", [])?;
    page.put(&names::DATASETS, &[], datasets.unwrap_or(0.0));
    let created = moment(connection, "SELECT max(created_at) FROM datasets", [])?;
    page.put_some(&names::DATASET_CREATED, &[], created);
    let refused = number(connection, "SELECT count(*) FROM refused_datasets", [])?;
    page.put(&names::DATASETS_REFUSED, &[], refused.unwrap_or(0.0));
    let newest = "SELECT validation FROM (SELECT validation, created_at AS at FROM datasets
                  UNION ALL SELECT validation, refused_at AS at FROM refused_datasets) ORDER BY at DESC LIMIT 1";
    let Some(report) = document::<ValidationReport>(connection, newest, [])? else { return Ok(()) };
    for (result, rows) in [
        ("accepted", report.accepted),
        ("quarantined", report.quarantined),
        ("exact_duplicate", report.exact_duplicates),
        ("conflicting_duplicate", report.conflicting_duplicates),
    ] {
        page.put(&names::DATASET_ROWS, &[result], rows as f64);
    }
    page.put(&names::DATASET_FAILURES, &[], report.failures.len() as f64);
    let mut sums = [0.0; RULES.len()];
    for (rule, count) in &report.violations {
        sums[class_of(rule)] += *count as f64;
    }
    for (rule, count) in RULES.iter().zip(sums) {
        page.put(&names::DATASET_VIOLATIONS, &[rule], count);
    }
    Ok(())
}

/// The class of a rule: `dep_delay.outlier` is an outlier, whichever column.
fn class_of(rule: &str) -> usize {
    let name = rule.rsplit('.').next().unwrap_or(rule);
    RULES.iter().position(|class| *class == name).unwrap_or(RULES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_belongs_to_its_class_whichever_column_it_is_about() {
        for (rule, class) in
            [("air_time_minutes.outlier", "outlier"), ("unknown_airport", "unknown_airport"), ("new.rule", "other")]
        {
            assert_eq!(RULES[class_of(rule)], class, "{rule}");
        }
    }
}
