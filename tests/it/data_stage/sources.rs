//! Airports, weather, calendars.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{NaiveDate, TimeDelta};
use delayd_core::ports::WeatherSource;
use delayd_data::airports::{AirportChanges, parse_airports};
use delayd_data::formats::ParseLimits;
use delayd_data::holidays::{extend_calendar, parse_events_csv, parse_icalendar};
use delayd_data::weather::{WeatherHistory, parse_weather_csv};
use delayd_data::{OperationsIndex, assemble};
use delayd_features::{HolidayCalendar, NumericInput};
use delayd_outside::local::WeatherCsv;

use crate::data_stage::support::{MemoryStore, airports, flight, utc};

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
fn weather_is_converted_and_a_wind_of_1048_mph_is_no_wind() {
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
fn calendars_and_events_add_days_and_faults_are_told() {
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
