//! Every way in which the API can fail, and what is left of a question then.

use std::time::{Duration, Instant};

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::WeatherSource;
use delayd_outside::cloud::OpenMeteoSettings;

use crate::weather_outside::world::{AIRPORTS, NOW, World, asked, codes, settings, utc};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::weather::Behaviour;

const DAY: (&str, &str) = ("2013-07-01T00:00:00Z", "2013-07-02T00:00:00Z");

async fn failure(source: &dyn WeatherSource) -> PortError {
    source.observations(&codes(&AIRPORTS), utc(DAY.0), utc(DAY.1)).await.unwrap_err()
}

#[tokio::test]
async fn every_refusal_has_its_kind_and_only_what_may_pass_is_tried_again() {
    let Some(world) = World::at("every_refusal_has_its_kind…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    for (status, kind, attempts) in [
        (400, ErrorKind::Invalid, 1),
        (401, ErrorKind::Denied, 1),
        (403, ErrorKind::Denied, 1),
        (404, ErrorKind::NotFound, 1),
        (409, ErrorKind::Conflict, 2),
        (429, ErrorKind::Unavailable, 2),
        (500, ErrorKind::Unavailable, 2),
        (503, ErrorKind::Unavailable, 2),
        (504, ErrorKind::Timeout, 2),
    ] {
        proxy.set(Mood::Refuse(status));
        let before = proxy.connections();
        let error = failure(&world.source(settings(&proxy.url()))).await;
        assert_eq!((error.kind(), proxy.connections() - before), (kind, attempts), "{status}: {error}");
        let text = error.to_string();
        assert!(text.contains(&format!("answered {status}")) && text.contains("planned refusal"), "{text}");
        assert!(
            text.starts_with("asking 127.0.0.1 (weather.open_meteo.archive_url) for the archive of 3 places"),
            "{text}"
        );
        assert_eq!(text.contains("check weather.open_meteo.api_key"), kind == ErrorKind::Denied, "{text}");
    }
}

#[tokio::test]
async fn one_bad_answer_is_tried_again() {
    let Some(world) = World::at("one_bad_answer_is_tried_again", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    for mood in [Mood::Down, Mood::Refuse(503), Mood::Refuse(429), Mood::CutAfter(600)] {
        let fresh = OpenMeteoSettings {
            cache_prefix: format!("{mood:?}/").replace([' ', '(', ')'], "-"),
            ..settings(&proxy.url())
        };
        let source = world.source(fresh);
        proxy.set_for(mood, 1);
        assert_eq!(asked(&source, &AIRPORTS, DAY.0, DAY.1).await.len(), 72, "{mood:?}");
    }
}

#[tokio::test]
async fn down_slow_and_cut_off_are_outages_and_nothing_half_read_is_kept() {
    let Some(world) = World::at("down_slow_and_cut_off…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    let impatient = OpenMeteoSettings { request_timeout_secs: 1, ..settings(&proxy.url()) };
    for (mood, kind) in [
        (Mood::Down, ErrorKind::Unavailable),
        (Mood::Slow(Duration::from_secs(30)), ErrorKind::Timeout),
        (Mood::CutAfter(2000), ErrorKind::Unavailable),
        (Mood::CutAfter(10), ErrorKind::Unavailable),
    ] {
        proxy.set(mood);
        let error = failure(&world.source(impatient.clone())).await;
        assert_eq!(error.kind(), kind, "{mood:?}: {error}");
        assert!(world.store.list("weather-cache/").await.unwrap().is_empty(), "{mood:?}");
    }
    proxy.set(Mood::Pass);
    assert_eq!(asked(&world.source(impatient), &AIRPORTS, DAY.0, DAY.1).await.len(), 72);
}

#[tokio::test]
async fn an_answer_that_breaks_off_with_status_200_is_an_outage_and_is_tried_again() {
    let Some(world) = World::at("an_answer_that_breaks_off…", NOW).await else { return };
    world.server.behave(Behaviour { breaks_off: 2, ..Behaviour::default() });
    let source = world.direct();
    let error = failure(&source).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no whole JSON document"), "{error}");
    world.server.behave(Behaviour { breaks_off: 1, ..Behaviour::default() });
    assert_eq!(asked(&source, &AIRPORTS, DAY.0, DAY.1).await.len(), 72);
}

#[tokio::test]
async fn another_unit_than_asked_for_is_refused_by_name() {
    let Some(world) = World::at("another_unit_than_asked_for…", NOW).await else { return };
    let units = [("temperature_2m", "°F")].into();
    world.server.behave(Behaviour { units, ..Behaviour::default() });
    let error = failure(&world.direct()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("temperature_2m in °F instead of °C"), "{error}");
    assert_eq!(world.server.take_seen().len(), 1);
}

#[tokio::test]
async fn an_unknown_certificate_is_told_and_a_known_authority_is_trusted() {
    let Some(world) = World::at("an_unknown_certificate_is_told…", NOW).await else { return };
    let front = TlsFront::before(world.server.address()).await;
    let url = format!("https://localhost:{}", front.address.port());
    let error = failure(&world.source(settings(&url))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
    let trusting = settings(&url);
    let http = HttpClientSettings { ca_path: front.ca_path.clone(), ..trusting.http.clone() };
    let source = world.source(OpenMeteoSettings { http, ..trusting });
    assert_eq!(asked(&source, &AIRPORTS, DAY.0, DAY.1).await.len(), 72);
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let Some(world) = World::at("a_short_retry_after_is_waited_for", NOW).await else { return };
    let too_many = Some((1, "Too many concurrent requests", Some(1)));
    world.server.behave(Behaviour { too_many, ..Behaviour::default() });
    let begun = Instant::now();
    assert_eq!(asked(&world.direct(), &AIRPORTS, DAY.0, DAY.1).await.len(), 72);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(world.server.take_seen().len(), 2);
}

#[tokio::test]
async fn after_a_spent_quota_the_api_is_left_alone() {
    let Some(world) = World::at("after_a_spent_quota…", NOW).await else { return };
    for (reason, retry_after, told) in [
        ("Hourly API request limit exceeded. Please try again in the next hour.", None, "asked again in 1801 s"),
        ("Too many requests", Some(7200), "asked again in 7200 s"),
    ] {
        world.server.behave(Behaviour { too_many: Some((100, reason, retry_after)), ..Behaviour::default() });
        let source = world.direct();
        let error = failure(&source).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(told) && error.to_string().contains(reason), "{error}");
        assert_eq!(world.server.take_seen().len(), 1);
        let again = failure(&source).await;
        assert!(again.to_string().contains("left alone"), "{again}");
        assert!(world.server.take_seen().is_empty());
    }
}

#[tokio::test]
async fn what_could_be_had_is_available_while_the_rest_is_away() {
    let Some(world) = World::at("what_could_be_had_is_available…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    let forecast_away = OpenMeteoSettings { forecast_url: proxy.url(), ..settings(&world.server.url()) };
    let source = world.source(forecast_away);
    proxy.set(Mood::Down);
    let (from, until) = (utc("2013-07-09T00:00:00Z"), utc("2013-07-13T00:00:00Z"));
    let answer = source.available(&codes(&AIRPORTS), from, until).await;
    assert_eq!((answer.observations.len(), answer.failures.len()), (3 * 48, 1));
    assert!(answer.failures[0].to_string().contains("the forecast of 3 places"), "{}", answer.failures[0]);
    let error = source.observations(&codes(&AIRPORTS), from, until).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    proxy.set(Mood::Pass);
    assert_eq!(source.available(&codes(&AIRPORTS), from, until).await.observations.len(), 3 * 96);
}

#[tokio::test]
async fn an_outage_is_met_by_what_the_cache_has_though_it_is_not_fresh() {
    let Some(world) = World::at("an_outage_is_met_by_what_the_cache_has…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    let (from, until) = (utc("2013-07-09T00:00:00Z"), utc("2013-07-19T00:00:00Z"));
    let before = world.source(settings(&proxy.url())).observations(&codes(&AIRPORTS), from, until).await.unwrap();
    assert_eq!(before.len(), 3 * (8 * 24 + 11));
    // Two days on, the archive has two more days, and nobody answers.
    world.advance_to("2013-07-19T00:00:00Z");
    proxy.set(Mood::Down);
    let answer = world.source(settings(&proxy.url())).available(&codes(&AIRPORTS), from, until).await;
    assert_eq!(answer.observations.len(), before.len(), "the forecast's days stand in for the archive's");
    assert!(!answer.failures.is_empty());
}

#[tokio::test]
async fn after_one_outage_the_other_requests_of_a_question_are_left_out_and_counted() {
    let Some(world) = World::at("after_one_outage_the_other_requests…", NOW).await else { return };
    let proxy = FlakyProxy::before(world.server.address()).await;
    proxy.set(Mood::Refuse(503));
    let many = OpenMeteoSettings { days_per_call: 1, concurrency: 1, ..settings(&proxy.url()) };
    let (from, until) = (utc("2013-06-01T00:00:00Z"), utc("2013-07-01T00:00:00Z"));
    let answer = world.source(many).available(&codes(&AIRPORTS), from, until).await;
    let failures: Vec<String> = answer.failures.iter().map(ToString::to_string).collect();
    assert_eq!(proxy.connections(), 2, "one request with its two attempts");
    assert!(failures[1].contains("29 further requests were left out"), "{failures:?}");
}

#[tokio::test]
async fn a_day_outside_of_what_the_api_allows_does_not_stop_the_others() {
    let Some(world) = World::at("a_day_outside_of_what_the_api_allows…", NOW).await else { return };
    // The server's clock is behind, so that its archive ends before the daemon thinks it does.
    world.server.set_now(utc("2013-07-02T00:00:00Z"));
    let one_day = OpenMeteoSettings { days_per_call: 1, ..settings(&world.server.url()) };
    let (from, until) = (utc("2013-07-04T00:00:00Z"), utc("2013-07-14T00:00:00Z"));
    let answer = world.source(one_day).available(&codes(&["JFK"]), from, until).await;
    let told: Vec<String> = answer.failures.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|text| text.contains("'start_date' is out of allowed range from 1940-01-01")), "{told:?}");
    assert!(answer.failures.iter().all(|failure| failure.kind() == ErrorKind::Invalid), "{told:?}");
    assert_eq!((answer.failures.len(), answer.observations.len()), (7, 72), "the forecast's days are there");
}
