//! From flights to examples: the schedule of each with the weather and the
//! operations as they were known at its prediction time, and its outcome. This
//! is the only place where a record's outcome and a feature row meet.

use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::FlightRow;
use rayon::prelude::*;

use super::example::{Example, Outcome};
use super::flight::FlightRecord;
use super::operations::OperationsIndex;
use super::weather::WeatherHistory;

/// Minutes of delay from which an arrival counts as delayed (BTS's `ArrDel15`).
const DELAYED_FROM_MINUTES: i32 = 15;

/// The examples of some flights, sorted by scheduled departure and key, predicted
/// `horizon` before each departure.
#[must_use]
pub fn assemble(
    records: &[FlightRecord],
    operations: &OperationsIndex,
    weather: &WeatherHistory,
    horizon: TimeDelta,
) -> Vec<Example> {
    let mut order: Vec<&FlightRecord> = records.iter().collect();
    order.sort_by(|a, b| {
        let of = |r: &FlightRecord| (r.scheduled_departure, r.flight_number);
        of(a).cmp(&of(b)).then_with(|| (&a.carrier, &a.origin, &a.dest).cmp(&(&b.carrier, &b.origin, &b.dest)))
    });
    order
        .into_par_iter()
        .map(|record| {
            let prediction_time = record.scheduled_departure - horizon;
            let row = row_at(record.scheduled_row(), prediction_time, operations, weather);
            Example { row, prediction_time, outcome: outcome(record) }
        })
        .collect()
}

/// A scheduled row with everything that was known of its surroundings at `at`.
fn row_at(mut row: FlightRow, at: DateTime<Utc>, operations: &OperationsIndex, weather: &WeatherHistory) -> FlightRow {
    weather.fill(&mut row, at);
    operations.fill(&mut row, at);
    row
}

/// What came of a flight; `None` where it never arrived or has not yet.
#[must_use]
pub fn outcome(record: &FlightRecord) -> Option<Outcome> {
    if record.cancelled || record.diverted {
        return None;
    }
    let arrival_delay_minutes = record.arrival_delay_minutes?;
    let known_at = record.arrived_at?;
    Some(Outcome { delayed: arrival_delay_minutes >= DELAYED_FROM_MINUTES, arrival_delay_minutes, known_at })
}
