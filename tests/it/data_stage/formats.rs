//! Every known layout, every container, every way of being broken.

use std::io::Write;

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_data::formats::{ColumnMapping, Container, ParseLimits, ParsedObject, TimeMeaning, parquet, parse_flights};
use delayd_data::{DataError, TimeZones};

use crate::data_stage::support::{airports, flight, utc};

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
fn gzip_zip_and_parquet_are_told_by_their_content() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(NYC.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("flights.csv", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(NYC.as_bytes()).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let plain = parse("a.csv", NYC).unwrap();
    let records: Vec<_> = plain.flights.iter().map(|(_, flight)| flight.clone()).collect();
    let parquet = parquet::write_flights(&records).unwrap();
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
    let bytes = parquet::write_flights(&records).unwrap();
    assert_eq!(bytes, parquet::write_flights(&records).unwrap(), "the same flights give the same bytes");
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
