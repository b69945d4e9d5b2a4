//! Taking in objects, and datasets that can be told apart and made again.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{NaiveDate, TimeDelta};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectStore, WeatherSource};
use delayd_data::airports::{AirportChanges, parse_airports};
use delayd_data::contract::Contract;
use delayd_data::dataset::{self, BuiltDataset, DatasetWindow};
use delayd_data::formats::{ParseLimits, parquet};
use delayd_data::holidays::{extend_calendar, parse_events_csv, parse_icalendar};
use delayd_data::ingest::{KnownObject, ObjectNews};
use delayd_data::parts::{Part, store_part};
use delayd_data::weather::{WeatherHistory, parse_weather_csv};
use delayd_data::{DatasetRows, FlightRecord, assemble};
use delayd_features::{HolidayCalendar, NumericInput};
use delayd_outside::local::WeatherCsv;
use delayd_testkit::data_support::{MemoryStore, Pass, airports, flight, judge, utc};

fn day(day: u32, flights: u32) -> Vec<u8> {
    let rows: Vec<_> =
        (1..=flights).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect();
    parquet::write_flights(&rows, None).unwrap()
}

const NOW: &str = "2013-08-01T00:00:00Z";

async fn ingest(store: &Arc<MemoryStore>, known: &BTreeMap<String, KnownObject>) -> Pass {
    let port: Arc<dyn ObjectStore> = store.clone();
    Pass::over(&port, known, judge(), NOW).await
}

/// The parts of logs under these keys, each made again from its bytes.
async fn parts_of(store: &MemoryStore, logs: &[(&str, Vec<u8>)]) -> Vec<(String, Part)> {
    let mut parts = Vec::new();
    for (key, body) in logs {
        let body = Bytes::from(body.clone());
        let sha256 = Digest::of(&body);
        let judged = judge().judge(key, &sha256, &body, utc(NOW)).unwrap();
        let (part, bytes) = judge().part(&sha256, &judged.validated).unwrap();
        store_part(store, &part, bytes).await.unwrap();
        parts.push(((*key).to_owned(), part));
    }
    parts
}

async fn rows_of(store: &Arc<MemoryStore>, version: &Digest) -> Vec<FlightRecord> {
    let store: Arc<dyn ObjectStore> = store.clone();
    let manifest = dataset::load_manifest(store.as_ref(), version).await.unwrap();
    let (version, runtime) = (version.clone(), tokio::runtime::Handle::current());
    let read = move || DatasetRows::open(store, runtime, &version, manifest)?.collect::<Result<Vec<_>, _>>();
    tokio::task::spawn_blocking(read).await.unwrap().unwrap()
}

#[tokio::test]
async fn only_what_is_new_late_or_changed_is_read() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-04T00:00:00Z");
    store.write("other/x", "x", "2013-07-02T00:00:00Z");
    let first = ingest(&store, &BTreeMap::new()).await;
    let seen = first.seen(&BTreeMap::new());
    assert_eq!((first.accepted(), first.objects.len(), seen.len()), (6, 2, 2));
    let gets = store.gets.load(Ordering::SeqCst);
    let second = ingest(&store, &seen).await;
    assert_eq!((second.accepted(), second.objects.len()), (0, 0));
    assert_eq!(store.gets.load(Ordering::SeqCst), gets, "nothing was fetched again");
    store.write("flights/1.parquet", day(1, 4), "2013-07-05T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-06T00:00:00Z");
    let third = ingest(&store, &seen).await;
    let news: BTreeMap<_, _> =
        third.objects.iter().map(|o| (o.report.meta.key.as_str(), o.report.news.unwrap())).collect();
    assert_eq!(news["flights/1.parquet"], ObjectNews::Changed);
    assert_eq!(news["flights/2.parquet"], ObjectNews::Late);
    assert_eq!(news["flights/3.parquet"], ObjectNews::Unchanged);
    assert_eq!(third.accepted(), 7);
}

#[tokio::test]
async fn one_bad_object_does_not_stop_the_others_and_is_not_tried_until_it_changes() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/bad.csv.gz", vec![0x1f, 0x8b, 8, 0, 1, 2], "2013-07-02T00:00:00Z");
    store.write("flights/empty.csv", "", "2013-07-02T00:00:00Z");
    store.write("flights/good.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted(), 3);
    let errors: Vec<_> = pass.objects.iter().filter_map(|object| object.report.error.as_deref()).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("flights/bad.csv.gz") && errors[1].contains("the object is empty"), "{errors:?}");
    assert_eq!(pass.seen(&BTreeMap::new()).len(), 3);
    assert_eq!(pass.objects[2].report.rows_accepted, 3);
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_tried_again_and_one_that_stays_down_is_left_for_later() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.failures.store(3, Ordering::SeqCst);
    assert_eq!(ingest(&store, &BTreeMap::new()).await.accepted(), 3);
    store.failures.store(100, Ordering::SeqCst);
    let down = ingest(&store, &BTreeMap::new()).await;
    assert!(down.objects[0].report.retryable && down.objects[0].seen.is_none());
}

#[tokio::test]
async fn an_object_with_too_many_bad_rows_is_refused_as_a_whole() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    for row in rows.iter_mut().take(100) {
        row.dest = "XXX".into();
    }
    store.write("flights/1.parquet", parquet::write_flights(&rows, None).unwrap(), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted(), 3);
    let error = pass.objects[0].report.error.as_deref().unwrap();
    assert!(error.contains("100 of 300 rows are quarantined") && error.contains("unknown_airport"), "{error}");
}

fn window(until: &str) -> DatasetWindow {
    let (from, until) = (utc("2013-07-01T00:00:00Z"), utc(until));
    DatasetWindow { from, until, as_of: until, policy: "fresh 7 days".into() }
}

async fn built(store: &MemoryStore, parts: Vec<(String, Part)>, window: &DatasetWindow) -> BuiltDataset {
    dataset::build_dataset(store, parts, Vec::new(), window, &Contract::built_in().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_dataset_is_stored_read_verified_and_made_again_and_every_difference_is_reported() {
    let store = Arc::new(MemoryStore::default());
    let logs = [("flights/1.parquet", day(1, 30)), ("flights/2.parquet", day(2, 20))];
    logs.iter().for_each(|(key, body)| store.write(key, body.clone(), "2013-07-02T00:00:00Z"));
    let parts = parts_of(&store, &logs).await;
    let built = built(&store, parts.clone(), &window("2013-07-03T00:00:00Z")).await;
    assert_eq!((built.manifest.rows, built.manifest.sources[1].rows_accepted, built.arrived), (50, 20, 50));
    let version = dataset::store_dataset(store.as_ref(), &built.manifest).await.unwrap();
    assert_eq!(version, dataset::store_dataset(store.as_ref(), &built.manifest).await.unwrap());
    assert_eq!(dataset::load_manifest(store.as_ref(), &version).await.unwrap(), built.manifest);
    let rows = rows_of(&store, &version).await;
    assert_eq!(rows.len(), 50);
    assert!(rows.is_sorted_by(|a, b| a.in_time_order(b).is_lt()), "in time order, each once");
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(store.as_ref(), &version, &judge()).await.unwrap(), 50);

    store.write("flights/2.parquet", day(2, 21), "2013-07-04T00:00:00Z");
    let verification = dataset::verify_dataset(store.as_ref(), &version).await.unwrap();
    assert!(verification.rows.is_empty() && verification.sources.len() == 1, "{verification:?}");
    let error = dataset::rebuild_dataset(store.as_ref(), &version, &judge()).await.unwrap_err().to_string();
    assert!(error.contains("flights/2.parquet of sha256:") && error.contains("cannot be read any more"), "{error}");

    store.write(&parts[0].1.key(), day(1, 29), "2013-07-04T00:00:00Z");
    let rows = dataset::verify_dataset(store.as_ref(), &version).await.unwrap().rows;
    assert!(rows.len() == 1 && rows[0].contains(&parts[0].1.key()) && rows[0].contains("the next dataset"), "{rows:?}");
    let manifest_key = format!("datasets/{}/manifest.json", version.hex());
    store.write(&manifest_key, "{}", "2013-07-04T00:00:00Z");
    let error = dataset::load_manifest(store.as_ref(), &version).await.unwrap_err().to_string();
    assert!(error.contains("backup"), "{error}");
}

#[tokio::test]
async fn a_dataset_of_the_first_format_is_still_read_and_checked() {
    let store = Arc::new(MemoryStore::default());
    let flights: Vec<_> = (1..=30).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    let manifest = r#"{"format":1,"sources":[],"contract":"CONTRACT","window_from":"1970-01-01T00:00:00Z","window_until":"2013-07-03T00:00:00Z","as_of":"2013-07-03T00:00:00Z","policy":"all","rows":30,"rows_sha256":"ROWS"}"#;
    let mut lines = Vec::new();
    for flight in &flights {
        lines.extend(serde_json::to_vec(flight).unwrap());
        lines.push(b'\n');
    }
    let manifest = manifest.replace("CONTRACT", Digest::of(b"").as_str()).replace("ROWS", Digest::of(&lines).as_str());
    let version = Digest::of(manifest.as_bytes());
    let folder = format!("datasets/{}", version.hex());
    store.write(&format!("{folder}/manifest.json"), manifest, "2013-07-04T00:00:00Z");
    let rows_key = format!("{folder}/flights.parquet");
    store.write(&rows_key, parquet::write_flights(&flights, None).unwrap(), "2013-07-04T00:00:00Z");
    assert_eq!(rows_of(&store, &version).await, flights);
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    store.write(&rows_key, parquet::write_flights(&flights[1..], None).unwrap(), "2013-07-04T00:00:00Z");
    assert_eq!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn of_two_logs_that_tell_of_the_same_flight_the_newer_counts_and_what_differs_is_set_aside() {
    let store = Arc::new(MemoryStore::default());
    let mut corrected: Vec<_> = (1..=20).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    corrected[3].distance_miles = Some(2470.0);
    let correction = parquet::write_flights(&corrected, None).unwrap();
    let logs = [("flights/old.parquet", day(1, 30)), ("flights/new.parquet", correction)];
    let parts = parts_of(&store, &logs).await;
    let until = window("2013-07-03T00:00:00Z");
    let first = built(&store, parts.clone(), &until).await;
    let report = &first.report;
    assert_eq!((report.rows, report.accepted, first.manifest.rows, first.arrived), (50, 30, 30, 30));
    assert_eq!((report.exact_duplicates, report.conflicting_duplicates, report.quarantined), (19, 1, 1));
    assert_eq!((first.manifest.sources[0].rows_accepted, first.manifest.sources[1].rows_accepted), (10, 20));
    let [row] = first.quarantined.as_slice() else { panic!("{:?}", first.quarantined) };
    assert_eq!((row.object.as_str(), row.line), ("flights/old.parquet", 4));
    assert!(row.reasons[0].contains("flights/new.parquet line 4 differs and is newer"), "{row:?}");
    let version = dataset::store_dataset(store.as_ref(), &first.manifest).await.unwrap();
    let rows = rows_of(&store, &version).await;
    assert_eq!(rows.len(), 30);
    assert_eq!(rows.iter().find(|row| row.flight_number == 4).unwrap().distance_miles, Some(2470.0));

    // What was counted once is not read again, and counts the same; of a window that cuts, what lies inside.
    let [counted] = first.counted.as_slice() else { panic!("{:?}", first.counted) };
    let parts = vec![(parts[0].0.clone(), counted.clone()), parts[1].clone()];
    let gets = store.gets.load(Ordering::SeqCst);
    let again = built(&store, parts.clone(), &until).await;
    assert_eq!((&again.manifest, again.counted.len()), (&first.manifest, 0));
    assert_eq!(store.gets.load(Ordering::SeqCst), gets, "nothing was read");
    let cut = built(&store, parts, &window("2013-07-01T12:00:00Z")).await;
    assert_eq!((cut.manifest.rows, cut.arrived, cut.manifest.span), (0, 0, None));
}

#[tokio::test]
async fn a_dataset_of_a_moment_knows_nothing_later() {
    let store = Arc::new(MemoryStore::default());
    let parts = parts_of(&store, &[("flights/1.parquet", day(1, 30))]).await;
    let (from, until) = (utc("2013-07-01T00:00:00Z"), utc("2013-07-03T00:00:00Z"));
    let in_the_air = DatasetWindow { from, until, as_of: utc("2013-07-01T15:00:00Z"), policy: "all".into() };
    let built = built(&store, parts, &in_the_air).await;
    assert_eq!((built.manifest.rows, built.arrived), (30, 0), "gone, and not there yet");
    let version = dataset::store_dataset(store.as_ref(), &built.manifest).await.unwrap();
    let rows = rows_of(&store, &version).await;
    assert!(rows.iter().all(|row| row.departed_at.is_some() && row.arrived_at.is_none()), "{rows:?}");
}

#[tokio::test]
async fn rows_are_counted_by_what_became_of_them_and_the_refused_ones_are_kept() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=10).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.push(rows[0].clone());
    rows[9].dest = "XXX".into();
    store.write("flights/1.parquet", parquet::write_flights(&rows, None).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    let object = &pass.objects[0].report;
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (11, 9, 1, 1));

    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.iter_mut().take(100).for_each(|row| row.dest = "XXX".into());
    store.write("flights/2.parquet", parquet::write_flights(&rows, None).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &pass.seen(&BTreeMap::new())).await;
    let object = &pass.objects[0].report;
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (300, 0, 100, 0));
    assert_eq!(pass.objects[0].quarantined.len(), 100, "an administrator sees which rows are the fault");
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
    let example = |hours| {
        assemble(std::slice::from_ref(&record), &airports(), &history, TimeDelta::hours(hours)).unwrap().remove(0)
    };
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
