//! What is asked, how often, and what is answered of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_outside::cloud::OpenMeteoSettings;
use delayd_outside::local::FolderStore;
use delayd_outside::wrap::{Failing, PlannedFailures};

use crate::weather_outside::world::{AIRPORTS, NOW, World, asked, newest, settings, utc};
use delayd_testkit::contracts::weather::{Behaviour, Seen};

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
async fn a_damaged_cache_is_asked_for_again_and_a_store_that_is_away_does_not_matter() {
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
async fn what_was_known_of_a_day_is_not_lost_when_a_service_tells_less_of_it() {
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
