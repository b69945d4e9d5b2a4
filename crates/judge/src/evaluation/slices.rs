//! ROC-AUC by carrier, origin, hour and month: a good average can hide a bad corner.

use std::collections::BTreeMap;

use chrono::{Datelike, Offset, TimeZone};
use chrono_tz::Tz;
use delayd_features::{CategoryInput, Encoder, FlightRow};
use serde::{Deserialize, Serialize};

use crate::evaluation::intervals::{Interval, delong};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceBy {
    Carrier,
    Origin,
    /// Hour of the scheduled departure, local time.
    Hour,
    /// Month of the scheduled departure, local time, `2013-07`.
    Month,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceMetrics {
    pub by: SliceBy,
    pub value: String,
    pub rows: u64,
    pub positives: u64,
    pub mean_score: f64,
    /// ROC-AUC with DeLong's interval; `None` where a class has fewer than two rows.
    pub roc_auc: Option<Interval>,
}

/// Cuts rows in every way and judges each slice of at least `min_rows`.
pub fn by_slice(
    encoder: &Encoder,
    rows: &[&FlightRow],
    scores: &[f32],
    labels: &[bool],
    min_rows: usize,
    confidence: f64,
) -> Vec<SliceMetrics> {
    let mut slices: BTreeMap<(SliceBy, String), (Vec<f32>, Vec<bool>)> = BTreeMap::new();
    for ((row, score), label) in rows.iter().zip(scores).zip(labels) {
        let hour = encoder.raw(row).with_category(row, CategoryInput::DepartureHour, |hour| format!("{hour:0>2}"));
        let values = [
            (SliceBy::Carrier, row.carrier.clone()),
            (SliceBy::Origin, row.origin.clone()),
            (SliceBy::Hour, hour),
            (SliceBy::Month, month(encoder, row)),
        ];
        for key in values {
            let slice = slices.entry(key).or_default();
            slice.0.push(*score);
            slice.1.push(*label);
        }
    }
    let kept = slices.into_iter().filter(|(_, (scores, _))| scores.len() >= min_rows);
    kept.map(|((by, value), (scores, labels))| SliceMetrics {
        by,
        value,
        rows: scores.len() as u64,
        positives: labels.iter().filter(|label| **label).count() as u64,
        mean_score: scores.iter().map(|score| f64::from(*score)).sum::<f64>() / scores.len().max(1) as f64,
        roc_auc: delong(&scores, &labels, confidence),
    })
    .collect()
}

fn month(encoder: &Encoder, row: &FlightRow) -> String {
    let zone = encoder.spec().airports.get(&row.origin).and_then(|airport| airport.time_zone.parse::<Tz>().ok());
    let departure = row.scheduled_departure.naive_utc();
    let local = departure + zone.unwrap_or(Tz::UTC).offset_from_utc_datetime(&departure).fix();
    format!("{:04}-{:02}", local.year(), local.month())
}
