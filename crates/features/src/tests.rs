//! The transform as training and serving see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "helpers are shared by inclusion")]

use std::collections::BTreeMap;

use crate::{
    Airport, CategoryInput, Encoder, FeatureSpec, FitOptions, FlightRow, HolidayCalendar, NumericInput, SpecError,
};
use chrono::{DateTime, Utc};

fn airports() -> BTreeMap<String, Airport> {
    let airport = |latitude_deg, longitude_deg, zone: &str| Airport {
        latitude_deg,
        longitude_deg,
        elevation_ft: 10.0,
        time_zone: zone.to_owned(),
    };
    BTreeMap::from([
        ("JFK".to_owned(), airport(40.64, -73.78, "America/New_York")),
        ("LAX".to_owned(), airport(33.94, -118.41, "America/Los_Angeles")),
    ])
}

fn row(departure: &str) -> FlightRow {
    let departure: DateTime<Utc> = departure.parse().unwrap();
    let mut row = FlightRow::scheduled("B6", 23, "JFK", "LAX", departure);
    row.scheduled_arrival = Some(departure + chrono::Duration::minutes(375));
    row.set(NumericInput::Temperature, 5.0);
    row
}

fn spec() -> FeatureSpec {
    let rows: Vec<FlightRow> = (0..40)
        .map(|n| {
            let mut row = row("2013-03-05T15:00:00Z");
            row.set(NumericInput::Temperature, n as f32);
            row
        })
        .collect();
    FeatureSpec::fit(&rows, &airports(), &HolidayCalendar::us_federal(), &FitOptions::default()).unwrap()
}

fn hour_of(departure: &str) -> String {
    let encoder = Encoder::new(spec()).unwrap();
    let row = row(departure);
    encoder.raw(&row).with_category(&row, CategoryInput::DepartureHour, str::to_owned)
}

#[test]
fn the_hour_of_departure_is_the_airports_own_across_the_change_to_summer_time() {
    assert_eq!(hour_of("2013-03-09T12:00:00Z"), "7");
    assert_eq!(hour_of("2013-03-10T12:00:00Z"), "8");
    assert_eq!(hour_of("2013-11-02T12:00:00Z"), "8");
    assert_eq!(hour_of("2013-11-03T12:00:00Z"), "7");
}

#[test]
fn an_unseen_carrier_or_airport_falls_into_the_bucket_for_the_unseen() {
    let encoder = Encoder::new(spec()).unwrap();
    let known = encoder.encode(&row("2013-03-05T15:00:00Z"));
    let strange = encoder.encode(&FlightRow::scheduled("ZZ", 1, "JFK", "XXX", "2013-03-05T15:00:00Z".parse().unwrap()));
    assert_eq!(known.categories[0], 1);
    assert_eq!(strange.categories[0], 0);
    assert_eq!(strange.categories[2], 0);
    assert!(strange.numerics.iter().all(|value| value.is_finite()));
}

#[test]
fn a_missing_number_becomes_zero_and_a_wild_one_is_cut_off() {
    let encoder = Encoder::new(spec()).unwrap();
    let position = encoder.spec().numerics.iter().position(|f| f.input == "temperature_c").unwrap();
    let column: usize = encoder.spec().numerics[..position].iter().map(|f| 1 + usize::from(f.missing_indicator)).sum();
    let mut row = row("2013-03-05T15:00:00Z");
    row.set(NumericInput::Temperature, f32::NAN);
    assert_eq!(encoder.encode(&row).numerics[column], 0.0);
    row.set(NumericInput::Temperature, 1.0e30);
    assert_eq!(encoder.encode(&row).numerics[column], 5.0);
}

#[test]
fn the_hash_follows_the_content_and_survives_json() {
    let spec = spec();
    let json = serde_json::to_string(&spec).unwrap();
    let read: FeatureSpec = serde_json::from_str(&json).unwrap();
    assert_eq!(read.hash(), spec.hash());
    let mut other = spec.clone();
    other.numerics[0].mean += 0.5;
    assert_ne!(other.hash(), spec.hash());
}

#[test]
fn a_spec_with_an_input_of_the_future_is_refused() {
    let mut spec = spec();
    spec.numerics[0].input = "departure_delay_minutes".to_owned();
    assert_eq!(Encoder::new(spec).unwrap_err(), SpecError::UnknownInput("departure_delay_minutes".to_owned()));
}

#[test]
fn the_difference_of_two_specs_names_new_values_and_shifted_means() {
    let before = spec();
    let mut after = before.clone();
    after.categories[0].vocabulary.push("HA".to_owned());
    let temperature = after.numerics.iter_mut().find(|f| f.input == "temperature_c").unwrap();
    temperature.mean += 2.0 * temperature.std;
    let difference = after.difference_from(&before);
    assert_eq!(difference.added_values["carrier"], ["HA"]);
    assert!((difference.mean_shift["temperature_c"] - 2.0).abs() < 1e-3);
    assert!(difference.removed_values.is_empty());
}
