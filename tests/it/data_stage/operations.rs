//! Point in time: nothing that happens after `t` may move a signal at `t`.

use chrono::TimeDelta;
use delayd_data::{FlightRecord, OperationsIndex};
use delayd_features::NumericInput;
use proptest::prelude::*;

use crate::data_stage::support::{airports, flight, utc};

fn signals(records: &[FlightRecord], of: &FlightRecord, at: &str) -> impl Fn(NumericInput) -> f32 {
    let index = OperationsIndex::new(records, &airports()).unwrap();
    let signals = index.signals(&of.scheduled_row(), utc(at));
    move |input| signals[&input]
}

#[test]
fn a_flight_is_overdue_from_its_schedule_until_it_leaves() {
    let records = vec![
        flight(2, "LAX", "2013-07-01T12:00:00Z", 90, 80),
        flight(4, "LAX", "2013-07-01T12:30:00Z", 0, 0),
        flight(6, "LAX", "2013-07-01T18:00:00Z", 0, 0),
    ];
    let overdue = |at| signals(&records, &records[2], at)(NumericInput::OriginOverdue);
    assert_eq!(overdue("2013-07-01T11:59:00Z"), 0.0);
    assert_eq!(overdue("2013-07-01T12:00:00Z"), 1.0);
    assert_eq!(overdue("2013-07-01T13:29:00Z"), 1.0);
    assert_eq!(overdue("2013-07-01T13:30:00Z"), 0.0);
    let minutes = signals(&records, &records[2], "2013-07-01T13:00:00Z")(NumericInput::OriginCarrierOverdueMinutes);
    assert_eq!(minutes, 60.0);
}

#[test]
fn a_cancelled_flight_looks_overdue_until_three_hours_after_schedule() {
    let mut gone = flight(2, "LAX", "2013-07-01T12:00:00Z", 0, 0);
    (gone.cancelled, gone.departed_at, gone.arrived_at, gone.arrival_delay_minutes) = (true, None, None, None);
    let records = vec![gone, flight(6, "LAX", "2013-07-01T18:00:00Z", 0, 0)];
    let overdue = |at| signals(&records, &records[1], at)(NumericInput::OriginOverdue);
    assert_eq!(overdue("2013-07-01T14:59:00Z"), 1.0);
    assert_eq!(overdue("2013-07-01T15:00:00Z"), 0.0);
}

#[test]
fn means_are_smoothed_towards_the_prior_and_cohorts_count_every_scheduled_flight() {
    let records = vec![
        flight(2, "LAX", "2013-07-01T12:00:00Z", 30, 28),
        flight(4, "LAX", "2013-07-01T12:10:00Z", 0, 0),
        flight(6, "LAX", "2013-07-01T15:00:00Z", 0, 0),
    ];
    let at = signals(&records, &records[2], "2013-07-01T13:00:00Z");
    assert!((at(NumericInput::OriginDepartureDelay3h) - (30.0 + 0.0 + 8.0) / 3.0).abs() < 1e-5);
    assert!((at(NumericInput::OriginLate3h) - (1.0 + 0.24) / 3.0).abs() < 1e-6);
    assert!((at(NumericInput::OriginDayShare) - 1.0).abs() < 1e-6);
    assert_eq!(at(NumericInput::OriginScheduledAhead), 1.0);
    assert!((at(NumericInput::RouteCarrierArrivalDelay24h) - 8.0).abs() < 1e-6, "nothing has landed yet");
    let later = signals(&records, &records[2], "2013-07-01T19:00:00Z");
    assert!((later(NumericInput::RouteCarrierArrivalDelay24h) - (28.0 + 0.0 + 8.0) / 3.0).abs() < 1e-5);
}

#[derive(Debug, Clone)]
struct Life {
    minute: i64,
    number: u32,
    to_iah: bool,
    departure_delay: i64,
    arrival_delay: i32,
    fate: u8,
}

fn life() -> impl Strategy<Value = Life> {
    (0_i64..900, 1_u32..6, any::<bool>(), -15_i64..300, -40_i32..300, 0_u8..10).prop_map(
        |(minute, number, to_iah, departure_delay, arrival_delay, fate)| Life {
            minute,
            number,
            to_iah,
            departure_delay,
            arrival_delay,
            fate,
        },
    )
}

fn record(life: &Life) -> FlightRecord {
    let start = utc("2013-07-01T08:00:00Z") + TimeDelta::minutes(life.minute);
    let dest = if life.to_iah { "IAH" } else { "LAX" };
    let arrival_delay = life.arrival_delay.max(life.departure_delay as i32 - 60);
    let mut record = flight(life.number, dest, &start.to_rfc3339(), life.departure_delay, arrival_delay);
    match life.fate {
        0 => {
            record.cancelled = true;
            (record.departed_at, record.arrived_at, record.arrival_delay_minutes) = (None, None, None);
        }
        1 => {
            record.diverted = true;
            record.arrival_delay_minutes = None;
        }
        _ => {}
    }
    record
}

/// The same flight with another future: what is not known at `at` is replaced.
fn another_future(record: &FlightRecord, other: &Life, at: chrono::DateTime<chrono::Utc>) -> FlightRecord {
    let mut changed = record.clone();
    let departed = record.departed_at.is_some_and(|moment| moment <= at);
    let cancellation_known = record.cancelled && record.scheduled_departure + TimeDelta::hours(3) <= at;
    if cancellation_known || record.arrived_at.is_some_and(|moment| moment <= at) {
        return changed;
    }
    let later = |minutes: i64| at + TimeDelta::minutes(1 + minutes.abs());
    if !departed {
        let may_cancel = record.scheduled_departure + TimeDelta::hours(3) > at;
        changed.cancelled = may_cancel && other.fate < 3;
        let leaves = later(other.departure_delay).max(record.scheduled_departure - TimeDelta::minutes(15));
        changed.departed_at = (!changed.cancelled && other.fate != 3).then_some(leaves);
    }
    changed.arrived_at = changed.departed_at.map(|left| left.max(at) + TimeDelta::minutes(61));
    changed.arrival_delay_minutes = changed.arrived_at.map(|_| other.arrival_delay);
    changed.diverted = false;
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_after_the_prediction_moves_no_signal(
        lives in proptest::collection::vec(life(), 1..60),
        others in proptest::collection::vec(life(), 60),
        minute in 0_i64..1200,
    ) {
        let at = utc("2013-07-01T08:00:00Z") + TimeDelta::minutes(minute);
        let records: Vec<FlightRecord> = lives.iter().map(record).collect();
        let changed: Vec<FlightRecord> =
            records.iter().zip(&others).map(|(record, other)| another_future(record, other, at)).collect();
        let before = OperationsIndex::new(&records, &airports()).unwrap();
        let after = OperationsIndex::new(&changed, &airports()).unwrap();
        for record in &records {
            let row = record.scheduled_row();
            prop_assert_eq!(before.signals(&row, at), after.signals(&row, at));
        }
    }

    #[test]
    fn an_index_of_what_was_known_then_answers_as_one_of_what_is_known_now(
        lives in proptest::collection::vec(life(), 1..60),
        minute in 0_i64..1200,
    ) {
        let at = utc("2013-07-01T08:00:00Z") + TimeDelta::minutes(minute);
        let records: Vec<FlightRecord> = lives.iter().map(record).collect();
        let then: Vec<FlightRecord> = records.iter().map(|record| record.known_at(at)).collect();
        let now = OperationsIndex::new(&records, &airports()).unwrap();
        let then = OperationsIndex::new(&then, &airports()).unwrap();
        for record in &records {
            let row = record.scheduled_row();
            prop_assert_eq!(now.signals(&row, at), then.signals(&row, at));
        }
    }
}
