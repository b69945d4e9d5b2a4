//! The contract against good, bad and contradictory flights.

use delayd_data::contract::Contract;
use delayd_data::validation::{SourcedRecord, Validated, ValidationInput, quarantine_csv, validate};
use delayd_data::{DataError, FlightRecord};

use crate::data_stage::support::{airports, flight, utc};

fn judged(rows: Vec<(usize, FlightRecord)>) -> Validated {
    let records =
        rows.into_iter().zip(2..).map(|((source, record), line)| SourcedRecord { source, line, record }).collect();
    let input = ValidationInput { sources: vec!["old.csv".into(), "new.csv".into()], records, ..Default::default() };
    validate(input, &Contract::built_in().unwrap(), &airports(), utc("2013-08-01T00:00:00Z"))
}

fn good(number: u32) -> FlightRecord {
    flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)
}

#[test]
fn every_rule_that_a_row_breaks_is_told() {
    let mut bad = good(20_000);
    bad.dest = "XXX".into();
    bad.arrived_at = Some(bad.departed_at.unwrap());
    bad.distance_miles = Some(5.0);
    let validated = judged(vec![(0, good(2)), (0, bad)]);
    assert_eq!(validated.accepted.len(), 1);
    let reasons = validated.quarantined[0].reasons.join("\n");
    for part in ["flight_number.range", "unknown_airport: `XXX`", "arrival_not_after_departure", "distance_miles.range"]
    {
        assert!(reasons.contains(part), "{part} in {reasons}");
    }
    let csv = String::from_utf8(quarantine_csv(&validated.quarantined).unwrap()).unwrap();
    assert!(csv.starts_with("object,line,flight,reasons\nold.csv,3,B620000 JFK-XXX"), "{csv}");
}

#[test]
fn exact_duplicates_are_dropped_and_of_contradicting_ones_the_newer_object_wins() {
    let mut corrected = good(4);
    corrected.arrival_delay_minutes = Some(7);
    let validated = judged(vec![(0, good(2)), (1, good(2)), (1, corrected.clone()), (0, good(4))]);
    assert_eq!(validated.report.exact_duplicates, 1);
    assert_eq!(validated.report.conflicting_duplicates, 1);
    assert_eq!(validated.accepted, vec![good(2), corrected]);
    assert_eq!(validated.quarantined[0].object, "old.csv");
    assert!(validated.quarantined[0].reasons[0].contains("new.csv line 4"), "{:?}", validated.quarantined);
}

#[test]
fn a_flight_from_the_future_or_too_far_ahead_is_set_aside() {
    let future = flight(2, "LAX", "2013-09-01T12:00:00Z", 5, 3);
    let mut far = flight(4, "LAX", "2016-09-01T12:00:00Z", 5, 3);
    (far.departed_at, far.arrived_at, far.arrival_delay_minutes) = (None, None, None);
    let validated = judged(vec![(0, future), (0, far)]);
    assert_eq!(validated.report.violations["outcome_in_the_future"], 2);
    assert_eq!(validated.report.violations["departure_too_far_ahead"], 1);
    assert!(validated.accepted.is_empty());
}

#[test]
fn too_many_bad_rows_or_missing_values_fail_the_dataset() {
    let mut rows: Vec<_> = (1..=300).map(|number| (0, good(number))).collect();
    assert!(judged(rows.clone()).into_result().is_ok());
    for (_, record) in rows.iter_mut().take(60) {
        record.dest = "XXX".into();
        record.scheduled_arrival = None;
    }
    let error = judged(rows).into_result().unwrap_err();
    let DataError::ContractBroken { failures } = &error else { panic!("{error}") };
    assert_eq!(failures.len(), 2, "{error}");
    assert!(error.to_string().contains("scheduled_arrival") && error.to_string().contains("60 of 300"), "{error}");
}

#[test]
fn outliers_and_inconsistent_delays_are_flagged_and_kept() {
    let mut rows: Vec<_> = (1..=300).map(|number| (0, good(number))).collect();
    rows[0].1.departed_at = rows[0].1.departed_at.map(|moment| moment + chrono::TimeDelta::minutes(300));
    rows[1].1.arrival_delay_minutes = Some(90);
    let validated = judged(rows);
    assert_eq!(validated.accepted.len(), 300);
    assert_eq!(validated.report.outliers["departure_delay_minutes"], 1);
    assert_eq!(validated.report.violations["arrival_delay_inconsistent"], 1);
}

#[test]
fn a_feature_that_reads_the_future_is_refused_with_the_moment_it_is_known() {
    let contract = Contract::built_in().unwrap();
    let all = delayd_features::NumericInput::ALL.iter().map(|input| input.name());
    contract.feature_sources_check(all).unwrap();
    contract.feature_sources_check(["carrier", "distance_miles"]).unwrap();
    let error = contract.feature_sources_check(["distance_miles", "departed_at", "arrival_delay_minutes"]).unwrap_err();
    assert!(matches!(&error, DataError::FutureColumn { columns } if columns.len() == 2));
    assert!(error.to_string().contains("`departed_at` is known at departure"), "{error}");
    assert!(contract.feature_sources_check(["wings"]).unwrap_err().to_string().contains("wings"));
}

#[test]
fn a_contract_that_claims_to_know_the_future_is_refused() {
    let text = include_str!("../../../config/contract.toml");
    let lying = text.replace("known_when = \"departure\"", "known_when = \"schedule\"");
    let error = Contract::parse(&lying).unwrap_err().to_string();
    assert!(error.contains("columns.departed_at.known_when") && error.contains("columns.cancelled"), "{error}");
    let error = Contract::parse(&text.replace("format = 1", "format = 1\nwings = 2")).unwrap_err().to_string();
    assert!(error.contains("wings"), "{error}");
}
