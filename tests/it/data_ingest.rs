//! Taking in objects, and datasets that can be told apart and made again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chrono::{NaiveDate, TimeDelta};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectStore, WeatherSource};
use delayd_data::airports::{AirportChanges, parse_airports};
use delayd_data::contract::Contract;
use delayd_data::dataset::{self, BuildContext, DatasetWindow};
use delayd_data::formats::{ParseLimits, parquet};
use delayd_data::holidays::{extend_calendar, parse_events_csv, parse_icalendar};
use delayd_data::ingest::{IngestOptions, Ingested, KnownObject, ObjectNews, ingest_new};
use delayd_data::sources::{SourceVersion, copy_key};
use delayd_data::weather::{WeatherHistory, parse_weather_csv};
use delayd_data::{OperationsIndex, assemble};
use delayd_features::{HolidayCalendar, NumericInput};
use delayd_outside::local::WeatherCsv;
use delayd_testkit::data_support::{MemoryStore, airports, flight, utc};

fn day(day: u32, flights: u32) -> Vec<u8> {
    let rows: Vec<_> =
        (1..=flights).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect();
    parquet::write_flights(&rows).unwrap()
}

async fn ingest(store: &Arc<MemoryStore>, known: &BTreeMap<String, KnownObject>) -> Ingested {
    let port: Arc<dyn ObjectStore> = store.clone();
    let options = IngestOptions { retry_pause: Duration::from_millis(1), ..IngestOptions::default() };
    let contract = Contract::built_in().unwrap();
    ingest_new(&port, known, &options, &contract, &airports(), utc("2013-08-01T00:00:00Z")).await.unwrap()
}

#[tokio::test]
async fn only_what_is_new_late_or_changed_is_read() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-04T00:00:00Z");
    store.write("other/x", "x", "2013-07-02T00:00:00Z");
    let first = ingest(&store, &BTreeMap::new()).await;
    assert_eq!((first.accepted.len(), first.report.listed, first.seen.len()), (6, 2, 2));
    let gets = store.gets.load(Ordering::SeqCst);
    let second = ingest(&store, &first.seen).await;
    assert_eq!((second.accepted.len(), second.report.seen_before), (0, 2));
    assert_eq!(store.gets.load(Ordering::SeqCst), gets, "nothing was fetched again");
    store.write("flights/1.parquet", day(1, 4), "2013-07-05T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-06T00:00:00Z");
    let third = ingest(&store, &first.seen).await;
    let news: BTreeMap<_, _> = third.report.objects.iter().map(|o| (o.meta.key.as_str(), o.news.unwrap())).collect();
    assert_eq!(news["flights/1.parquet"], ObjectNews::Changed);
    assert_eq!(news["flights/2.parquet"], ObjectNews::Late);
    assert_eq!(news["flights/3.parquet"], ObjectNews::Unchanged);
    assert_eq!(third.accepted.len(), 7);
}

#[tokio::test]
async fn one_bad_object_does_not_stop_the_others_and_is_not_tried_until_it_changes() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/bad.csv.gz", vec![0x1f, 0x8b, 8, 0, 1, 2], "2013-07-02T00:00:00Z");
    store.write("flights/empty.csv", "", "2013-07-02T00:00:00Z");
    store.write("flights/good.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 3);
    let errors: Vec<_> = pass.report.objects.iter().filter_map(|object| object.error.as_deref()).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("flights/bad.csv.gz") && errors[1].contains("the object is empty"), "{errors:?}");
    assert_eq!(pass.seen.len(), 3);
    assert_eq!(pass.report.objects[2].rows_accepted, 3);
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_tried_again_and_one_that_stays_down_is_left_for_later() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.failures.store(3, Ordering::SeqCst);
    assert_eq!(ingest(&store, &BTreeMap::new()).await.accepted.len(), 3);
    store.failures.store(100, Ordering::SeqCst);
    let down = ingest(&store, &BTreeMap::new()).await;
    assert!(down.report.objects[0].retryable && down.seen.is_empty());
}

#[tokio::test]
async fn an_object_with_too_many_bad_rows_is_refused_as_a_whole() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    for row in rows.iter_mut().take(100) {
        row.dest = "XXX".into();
    }
    store.write("flights/1.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 3);
    let error = pass.report.objects[0].error.as_deref().unwrap();
    assert!(error.contains("100 of 300 rows are quarantined") && error.contains("unknown_airport"), "{error}");
}

#[tokio::test]
async fn a_dataset_is_stored_read_verified_and_made_again_and_every_difference_is_reported() {
    let store = MemoryStore::default();
    store.write("flights/1.parquet", day(1, 30), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 20), "2013-07-03T00:00:00Z");
    let contract = Contract::built_in().unwrap();
    let limits = ParseLimits::default();
    let airports = airports();
    let context = BuildContext { contract: &contract, airports: &airports, mapping: None, limits: &limits };
    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-03T00:00:00Z"),
        as_of: utc("2013-07-03T00:00:00Z"),
        policy: "fresh 7 days".into(),
    };
    let sources =
        [SourceVersion::of("flights/1.parquet", &day(1, 30)), SourceVersion::of("flights/2.parquet", &day(2, 20))];
    let built = dataset::build_dataset(&store, &sources, &window, context).await.unwrap();
    assert_eq!((built.manifest.rows, built.manifest.sources[1].rows_accepted), (50, 20));
    let version = dataset::store_dataset(&store, &built.manifest, &built.records).await.unwrap();
    assert_eq!(version, dataset::store_dataset(&store, &built.manifest, &built.records).await.unwrap());
    let (manifest, records) = dataset::load_dataset(&store, &version).await.unwrap();
    assert_eq!((manifest, &records), (built.manifest.clone(), &built.records));
    assert!(dataset::verify_dataset(&store, &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(&store, &version, context).await.unwrap(), records);

    store.write("flights/2.parquet", day(2, 21), "2013-07-04T00:00:00Z");
    let verification = dataset::verify_dataset(&store, &version).await.unwrap();
    assert!(verification.rows.is_empty() && verification.sources.len() == 1, "{verification:?}");
    let error = dataset::rebuild_dataset(&store, &version, context).await.unwrap_err().to_string();
    assert!(
        error.contains("flights/2.parquet of sha256:")
            && error.contains("cannot be read any more")
            && error.contains("30 rows; the manifest says 50"),
        "{error}"
    );

    let rows_key = format!("datasets/{}/flights.parquet", version.hex());
    store.write(&rows_key, parquet::write_flights(&records[1..]).unwrap(), "2013-07-04T00:00:00Z");
    assert_eq!(dataset::verify_dataset(&store, &version).await.unwrap().rows.len(), 2);
    let manifest_key = format!("datasets/{}/manifest.json", version.hex());
    store.write(&manifest_key, "{}", "2013-07-04T00:00:00Z");
    assert!(dataset::load_manifest(&store, &version).await.unwrap_err().to_string().contains("backup"));
}

#[tokio::test]
async fn a_dataset_is_made_and_made_again_after_its_logs_were_deleted_or_overwritten() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 30), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 20), "2013-07-03T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 50);
    store.delete("flights/1.parquet").await.unwrap();
    store.write("flights/2.parquet", "dear sir or madam", "2013-07-04T00:00:00Z");
    let contract = Contract::built_in().unwrap();
    let (airports, limits) = (airports(), ParseLimits::default());
    let context = BuildContext { contract: &contract, airports: &airports, mapping: None, limits: &limits };
    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-03T00:00:00Z"),
        as_of: utc("2013-07-03T00:00:00Z"),
        policy: "all".into(),
    };
    let sources: Vec<SourceVersion> = pass
        .seen
        .values()
        .map(|known| SourceVersion { key: known.meta.key.clone(), sha256: known.sha256.clone() })
        .collect();
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    assert_eq!((built.records.len(), built.report.left_out.len()), (50, 0));
    let version = dataset::store_dataset(store.as_ref(), &built.manifest, &built.records).await.unwrap();
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(store.as_ref(), &version, context).await.unwrap().len(), 50);

    // Of a log without a copy the others are left, and the report says which one is missing, and why.
    store.delete(&copy_key(&Digest::of(&day(1, 30)))).await.unwrap();
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    assert_eq!((built.records.len(), built.report.failures.len()), (20, 0));
    let [lost] = built.report.left_out.as_slice() else { panic!("{:?}", built.report.left_out) };
    assert!(lost.key == "flights/1.parquet" && lost.reason.contains("no such object"), "{lost:?}");
    // A damaged copy does not count for what it is not.
    let copy = copy_key(&Digest::of(&day(2, 20)));
    store.write(&copy, "damaged", "2013-07-04T00:00:00Z");
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    let failure = built.report.failures.join("; ");
    assert!(failure.contains("none of the 2 flight logs can be read any more"), "{failure}");
}

#[tokio::test]
async fn rows_are_counted_by_what_became_of_them_and_the_refused_ones_are_kept() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=10).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.push(rows[0].clone());
    rows[9].dest = "XXX".into();
    store.write("flights/1.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    let object = &pass.report.objects[0];
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (11, 9, 1, 1));

    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.iter_mut().take(100).for_each(|row| row.dest = "XXX".into());
    store.write("flights/2.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &pass.seen).await;
    let object = &pass.report.objects[0];
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (300, 0, 100, 0));
    assert_eq!(pass.quarantined.len(), 100, "an administrator sees which rows are the fault");
    assert!(store.list("sources/").await.unwrap().len() == 1, "nothing is kept of what was refused");
}

// ----------------------------------------------------------------
// Airports, weather, calendars.

const WEATHER: &str =
    "origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
JFK,2013,7,1,1,50,41,60,90,10,NA,0.1,1010,10,2013-07-01T06:00:00Z
JFK,2013,7,1,2,NA,41,60,90,1048.36,30,0,NA,5,2013-07-01T09:00:00Z
LGA,2013,7,1,2,50,41,60,270,10,NA,0.5,1010,1,2013-07-01T09:00:00Z
JFK,2013,7,1,2,oops,41,60,270,10,NA,0,1010,1,2013-07-01T10:00:00Z
";

fn limits() -> ParseLimits {
    ParseLimits::default()
}

#[test]
fn weather_is_converted_and_a_wind_of_1048_mph_is_not_a_wind() {
    let (observations, report) = parse_weather_csv("w.csv", &Bytes::from(WEATHER), &limits()).unwrap();
    assert_eq!((observations.len(), report.rejected_count), (3, 1));
    assert_eq!(report.implausible, BTreeMap::from([("wind_speed".to_owned(), 1)]));
    assert!(report.rejected[0].contains("line 5: column `temp`: found `oops`"), "{:?}", report.rejected);
    let first = &observations[0];
    assert!((first.temperature_c - 10.0).abs() < 1e-4 && (first.precipitation_mm - 2.54).abs() < 1e-4);
    assert!((first.wind_speed_kmh - 16.09344).abs() < 1e-3 && (first.visibility_km - 16.09344).abs() < 1e-3);
    let error = parse_weather_csv("w.csv", &Bytes::from("origin,temp\nJFK,1\n"), &limits()).unwrap_err().to_string();
    assert!(error.contains("time_hour") && error.contains("visib"), "{error}");
}

#[test]
fn the_weather_is_the_last_known_then_and_none_after_six_hours() {
    let (observations, _) = parse_weather_csv("w.csv", &Bytes::from(WEATHER), &limits()).unwrap();
    let history = WeatherHistory::new(&observations);
    let record = flight(2, "LAX", "2013-07-01T12:00:00Z", 5, 3);
    let operations = OperationsIndex::new(std::slice::from_ref(&record), &airports()).unwrap();
    let example =
        |hours| assemble(std::slice::from_ref(&record), &operations, &history, TimeDelta::hours(hours)).remove(0);
    let nine = example(3).row;
    assert_eq!(nine.get(NumericInput::WeatherAge), 0.0);
    assert!((nine.get(NumericInput::Temperature) - 10.0).abs() < 1e-4, "taken from three hours before");
    assert!((nine.get(NumericInput::WindSpeed) - 16.09344).abs() < 1e-3);
    assert!((nine.get(NumericInput::WindFromEast) - 16.09344).abs() < 1e-3);
    assert!((nine.get(NumericInput::Precipitation6h) - 2.54).abs() < 1e-3);
    assert!((nine.get(NumericInput::VisibilityLowest) - 1.609_344).abs() < 1e-4);
    assert!((nine.get(NumericInput::PrecipitationHighest) - 12.7).abs() < 1e-3);
    let before_nine = example(4).row;
    assert_eq!(before_nine.get(NumericInput::WeatherAge), 2.0);
    assert!(before_nine.get(NumericInput::PressureChange).is_nan());
    assert_eq!(before_nine.get(NumericInput::VisibilityLowest), before_nine.get(NumericInput::Visibility));
    let late = history.at("JFK", utc("2013-07-01T15:00:01Z"));
    assert!(late.is_none() && history.at("JFK", utc("2013-07-01T05:59:00Z")).is_none());
    assert!(history.at("XXX", utc("2013-07-01T09:00:00Z")).is_none());
}

#[tokio::test]
async fn the_csv_source_answers_its_window_and_notices_a_new_file() {
    let store = Arc::new(MemoryStore::default());
    store.write("weather/a.csv", WEATHER, "2013-07-02T00:00:00Z");
    let source = WeatherCsv::new(store.clone(), "weather/");
    let asked = ["JFK".to_owned()];
    let window = (utc("2013-07-01T06:00:00Z"), utc("2013-07-01T09:00:00Z"));
    assert_eq!(source.observations(&asked, window.0, window.1).await.unwrap().len(), 1);
    store.write("weather/b.csv", WEATHER.replace("T06:00", "T07:00"), "2013-07-03T00:00:00Z");
    assert_eq!(source.observations(&asked, window.0, window.1).await.unwrap().len(), 2);
    store.write("weather/c.csv", "no,weather\n", "2013-07-03T00:00:00Z");
    let error = source.observations(&asked, window.0, window.1).await.unwrap_err();
    assert!(error.to_string().contains("weather/c.csv"), "{error}");
}

#[test]
fn both_airport_files_are_read_and_changes_are_noticed() {
    let ours = "id,ident,type,name,latitude_deg,longitude_deg,elevation_ft,continent,iso_country,iso_region,iata_code\n\
        1,KJFK,large_airport,Kennedy,40.6398,-73.7789,13,NA,US,US-NY,JFK\n\
        2,KTYS,medium_airport,Knoxville,35.811,-83.994,981,NA,US,US-TN,TYS\n\
        3,KBNA,large_airport,Nashville,36.1245,-86.6782,599,NA,US,US-TN,BNA\n\
        4,KOLD,closed,Old,36,-86,,NA,US,US-TN,OLD\n\
        5,XX,large_airport,Far,1,2,3,XX,XX,XX-1,FAR\n\
        6,KBAD,large_airport,Bad,200,2,3,NA,US,US-TN,BAD\n\
        7,HELI,heliport,None,1,2,3,NA,US,US-TN,\n";
    let (after, report) = parse_airports("a.csv", &Bytes::from(ours), &BTreeMap::new(), &limits()).unwrap();
    let zone = |code: &str| after[code].time_zone.clone();
    assert_eq!(
        (zone("JFK"), zone("TYS"), zone("BNA")),
        ("America/New_York".into(), "America/New_York".into(), "America/Chicago".into())
    );
    assert_eq!(report.without_time_zone, BTreeMap::from([("XX-1".to_owned(), 1)]));
    assert_eq!((report.rejected_count, report.supplemented.len()), (1, 4));
    let configured = BTreeMap::from([("XX".to_owned(), "Europe/Paris".to_owned())]);
    assert!(parse_airports("a.csv", &Bytes::from(ours), &configured, &limits()).unwrap().0.contains_key("FAR"));
    let wrong = BTreeMap::from([("XX".to_owned(), "Europe/Nowhere".to_owned())]);
    let error = parse_airports("a.csv", &Bytes::from(ours), &wrong, &limits()).unwrap_err().to_string();
    assert!(error.contains("FAR") && error.contains("Europe/Nowhere"), "{error}");

    let nyc = "faa,name,lat,lon,alt,tz,dst,tzone\nJFK,Kennedy,40.7398,-73.7789,13,-5,A,America/New_York\nLGA,La Guardia,40.7,-73.8,22,-5,A,America/New_York\n";
    let (before, _) = parse_airports("b.csv", &Bytes::from(nyc), &BTreeMap::new(), &limits()).unwrap();
    let changes = AirportChanges::between(&before, &after);
    assert_eq!((changes.opened, changes.closed), (vec!["BNA".to_owned(), "TYS".into()], vec!["LGA".to_owned()]));
    assert!(changes.moved.len() == 1 && (changes.moved[0].miles - 6.9).abs() < 0.1, "{:?}", changes.moved);
}

#[test]
fn calendars_and_events_add_days_and_faults_are_reported() {
    let date = |text: &str| text.parse::<NaiveDate>().unwrap();
    let ics = "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20130704\r\nDTEND;VALUE=DATE:20130706\r\nSUMMARY:Long\r\n  weekend\\, fun\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nDTSTART:oops\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nDTSTART:20131031T000000Z\r\nRRULE:FREQ=YEARLY\r\nSUMMARY:Halloween\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
    let (days, faults) = parse_icalendar("h.ics", &Bytes::from(ics), &limits()).unwrap();
    assert_eq!(days[&date("2013-07-05")], "Long weekend, fun");
    assert!(days.contains_key(&date("2014-10-31")) && !days.contains_key(&date("2013-07-06")));
    assert!(days.contains_key(&date("2063-10-31")), "a yearly day does not end by itself");
    for (rule, last, after) in [
        ("FREQ=YEARLY;COUNT=3", "2015-10-31", "2016-10-31"),
        ("FREQ=YEARLY;UNTIL=20171101T000000Z;BYMONTH=10", "2017-10-31", "2018-10-31"),
    ] {
        let (days, faults) =
            parse_icalendar("h.ics", &Bytes::from(ics.replace("FREQ=YEARLY", rule)), &limits()).unwrap();
        assert!(days.contains_key(&date(last)) && !days.contains_key(&date(after)), "{rule}");
        assert_eq!(faults.len(), 1, "{rule}: {faults:?}");
    }
    for rule in ["FREQ=YEARLY;INTERVAL=4", "FREQ=YEARLY;BYDAY=1SU;BYMONTH=10", "FREQ=WEEKLY"] {
        let (_, faults) = parse_icalendar("h.ics", &Bytes::from(ics.replace("FREQ=YEARLY", rule)), &limits()).unwrap();
        assert!(faults.len() == 2 && faults[1].contains(rule), "{rule}: {faults:?}");
    }
    assert!(faults.len() == 1 && faults[0].contains("line 8") && faults[0].contains("oops"), "{faults:?}");
    assert!(parse_icalendar("h.ics", &Bytes::from("hello"), &limits()).unwrap_err().to_string().contains("VCALENDAR"));

    let events = "date,name,airport\n2013-02-03,Super Bowl,\n2013-02-04,Parade,LAX\nsoon,x,\n";
    let (days, faults) = parse_events_csv("e.csv", &Bytes::from(events), &limits()).unwrap();
    assert_eq!((days.len(), faults.len()), (1, 2));
    assert!(faults[0].contains("line 3: column `airport`: found `LAX`"), "{faults:?}");
    let mut calendar = HolidayCalendar::us_federal();
    extend_calendar(&mut calendar, days);
    assert_eq!(calendar.name_of(date("2013-02-03")), Some("Super Bowl".to_owned()));
}
