//! Every way in which the API can fail, and what is left of a question then.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::WeatherSource;
use delayd_outside::cloud::OpenMeteoSettings;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::weather::Behaviour;
use delayd_testkit::site::Running;
use delayd_testkit::tools::{assert_error, free_port, until};
use serde_json::Value;

use crate::weather_documents::DocumentServer;
use crate::weather_stage::{AIRPORTS, NOW, World, asked, codes, settings, utc};

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
async fn down_slow_and_interrupted_are_outages_and_nothing_half_read_is_kept() {
    let Some(world) = World::at("down_slow_and_interrupted…", NOW).await else { return };
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
    assert_error(&error, ErrorKind::Unavailable, &["is not a whole JSON document"]);
    world.server.behave(Behaviour { breaks_off: 1, ..Behaviour::default() });
    assert_eq!(asked(&source, &AIRPORTS, DAY.0, DAY.1).await.len(), 72);
}

#[tokio::test]
async fn another_unit_than_asked_for_is_refused_by_name() {
    let Some(world) = World::at("another_unit_than_asked_for…", NOW).await else { return };
    let units = [("temperature_2m", "°F")].into();
    world.server.behave(Behaviour { units, ..Behaviour::default() });
    let error = failure(&world.direct()).await;
    assert_error(&error, ErrorKind::Invalid, &["temperature_2m in °F instead of °C"]);
    assert_eq!(world.server.take_seen().len(), 1);
}

#[tokio::test]
async fn an_unknown_certificate_is_reported_and_a_known_authority_is_trusted() {
    let Some(world) = World::at("an_unknown_certificate_is_reported…", NOW).await else { return };
    let front = TlsFront::before(world.server.address()).await;
    let url = format!("https://localhost:{}", front.address.port());
    let error = failure(&world.source(settings(&url))).await;
    assert_error(&error, ErrorKind::Unavailable, &["certificate"]);
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
        assert_error(&error, ErrorKind::Unavailable, &[told, reason]);
        assert_eq!(world.server.take_seen().len(), 1);
        let again = failure(&source).await;
        assert!(again.to_string().contains("left alone"), "{again}");
        assert!(world.server.take_seen().is_empty());
    }
}

#[tokio::test]
async fn what_could_be_had_is_available_while_the_rest_is_unavailable() {
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

// ----------------------------------------------------------------
// `delayd` as a process: what `check` says, and what the status endpoint tells.

const KEY: &str = "k3y-of-a-customer-4711";

fn delayd(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_delayd"));
    command.arg("--config").arg(config).env_remove("HTTP_PROXY").env_remove("http_proxy");
    command
}

fn check(config: &Path) -> Value {
    let Output { stdout, stderr, .. } = delayd(config).args(["check", "--json"]).output().unwrap();
    let text = if stdout.is_empty() { stderr } else { stdout };
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains(KEY) && !text.contains("private-0815"), "{text}");
    let json = &text[text.find('[').unwrap()..=text.rfind(']').unwrap()];
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn finding(findings: &Value, what: &str) -> (bool, String) {
    let of = |finding: &&Value| finding["what"] == what;
    let found = findings.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("no {what} in {findings}"));
    (found["fine"].as_bool().unwrap(), found["detail"].as_str().unwrap().to_owned())
}

fn write_config(folder: &Path, weather: &str, airports: &str, holidays: &str) -> std::path::PathBuf {
    let port = free_port();
    let text = format!(
        "[daemon]\nstate_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n\
         [weather]\nkind = \"open_meteo\"\n\
         [weather.open_meteo]\narchive_url = \"{weather}\"\nforecast_url = \"{weather}\"\napi_key = \"{KEY}\"\nattempts = 1\n\
         archive_lag_days = 0\n\
         [ingestion]\ninterval_secs = 1\nairports_url = \"{airports}\"\nholidays_url = \"{holidays}\"\n\
         [ingestion.fetch]\nattempts = 1\n",
        folder.join("state").display()
    );
    let config = folder.join("delayd.toml");
    std::fs::write(&config, text).unwrap();
    config
}

const AIRPORTS_CSV: &str = "faa,name,lat,lon,alt,tz,dst,tzone\nJFK,Kennedy,40.6398,-73.7789,13,-5,A,America/New_York\n";
const CALENDAR: &str =
    "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20130812\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

#[tokio::test]
async fn check_reports_the_weather_and_each_document_and_changes_nothing() {
    let Some(world) = World::at("check_reports_the_weather…", NOW).await else { return };
    // `check` asks for the real yesterday, which the server's archive must allow.
    world.server.set_now(utc("2100-01-01T00:00:00Z"));
    let (airports, holidays) = (DocumentServer::start(AIRPORTS_CSV), DocumentServer::start(CALENDAR));
    let config = write_config(world.folder(), &world.server.url(), &airports.url(), &holidays.url());
    let findings = check(&config);
    let weather = finding(&findings, "weather");
    assert!(weather.0 && weather.1.contains("archive answers"), "{findings}");
    assert!(finding(&findings, "airports by URL").0 && finding(&findings, "holidays by URL").0, "{findings}");
    assert!(!world.folder().join("state").exists(), "nothing is made");
    assert_eq!((airports.take_answers(), holidays.take_answers()), (vec![200], vec![200]));
    let nowhere =
        write_config(world.folder(), "http://127.0.0.1:1", "http://127.0.0.1:1/private-0815", &holidays.url());
    let findings = check(&nowhere);
    let (fine, detail) = finding(&findings, "weather");
    assert!(!fine && detail.contains("weather.open_meteo.archive_url"), "{findings}");
    let (fine, detail) = finding(&findings, "airports by URL");
    assert!(!fine && detail.contains("ingestion.airports_url"), "{findings}");
    assert!(finding(&findings, "holidays by URL").0, "{findings}");
}

#[tokio::test]
async fn the_status_endpoint_reports_the_reference_data_and_their_changes() {
    let test = "the_status_endpoint_reports_the_reference_data…";
    let Some(world) = World::at(test, NOW).await else { return };
    let Some(service) = std::env::var_os("DELAYD_SERVE_BIN").filter(|path| Path::new(path).is_file()) else {
        eprintln!("SKIPPED: {test}: the service is missing; build it and name it in DELAYD_SERVE_BIN (make test does)");
        return;
    };
    let (airports, holidays) = (DocumentServer::start(AIRPORTS_CSV), DocumentServer::start(CALENDAR));
    let config = write_config(world.folder(), &world.server.url(), &airports.url(), &holidays.url());
    let text = std::fs::read_to_string(&config).unwrap();
    let address = text.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap().trim_matches('"').to_owned();
    let log = world.folder().join("daemon.log");
    let mut command = delayd(&config);
    command.arg("run").env("DELAYD_SERVE_BIN", service);
    let _daemon = Running::start(command, &world.folder().join("state"), &log);
    let url = format!("http://{address}/api/v1/reference");
    let client = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
    let document = until("both documents are there", async || {
        let document: Value = client.get(&url).send().await.ok()?.json().await.ok()?;
        (document["current"].as_array()?.len() == 2).then_some(document)
    })
    .await;
    assert_eq!(document["current"][0]["kind"], "airports");
    assert_eq!(document["current"][0]["origin"], "url");
    assert_eq!(document["current"][0]["entries"], 1);
    assert_eq!(document["versions"].as_array().unwrap().len(), 2);
    assert_eq!(document["versions"][0]["changes"]["what"], "first");
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(!told.contains(KEY) && !told.contains("private-0815"), "{told}");
}
