//! Airports and holidays by URL: fetched conditionally, never replaced by nonsense,
//! and every change noticed.

use bytes::Bytes;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use delayd::config::Settings;
use delayd::env::Env;
use delayd::open;
use delayd::stages::ingest::DataStage;
use delayd_core::clock::ReplayClock;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::{
    DocumentSource, FetchedDocument, ObjectStore, ReferenceKind, Severity, Validators, WeatherSource,
};
use delayd_core::secret::Secret;
use delayd_ledger::{Page, ReferenceOrigin};
use delayd_outside::cloud::{HttpDocument, HttpDocumentSettings};
use delayd_outside::local::{FolderStore, WeatherCsv};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood, TlsFront};
use delayd_testkit::contracts::surroundings;
use delayd_testkit::tools::assert_error;

use crate::weather_stage::utc;

/// A daemon's surroundings with a store of its own.
pub fn env(
    folder: &Path,
    clock: Arc<ReplayClock>,
    store: Arc<dyn ObjectStore>,
    weather: Arc<dyn WeatherSource>,
) -> Env {
    Env { clock, weather, object_store: store, ..surroundings::env(folder) }
}

pub async fn alerts(env: &Env) -> Vec<(Severity, String, String)> {
    let alerts = env.ledger.alerts(Page { offset: 0, limit: 50 }).await.unwrap();
    alerts.into_iter().rev().map(|alert| (alert.alert.severity, alert.alert.title, alert.alert.body)).collect()
}

const HEADER: &str = "faa,name,lat,lon,alt,tz,dst,tzone\n";

fn airports(rows: &[(&str, f64, f64)]) -> String {
    let row = |(code, lat, lon): &(&str, f64, f64)| format!("{code},A name,{lat},{lon},10,-5,A,America/New_York\n");
    rows.iter().fold(HEADER.to_owned(), |text, airport| text + &row(airport))
}

const FOUR: [(&str, f64, f64); 4] =
    [("EWR", 40.6925, -74.1687), ("JFK", 40.6398, -73.7789), ("LGA", 40.7772, -73.8726), ("BOS", 42.3643, -71.0052)];

struct Home {
    env: Env,
    settings: Settings,
    clock: Arc<ReplayClock>,
    _folder: tempfile::TempDir,
}

fn quick() -> HttpDocumentSettings {
    HttpDocumentSettings {
        attempts: 2,
        retry_pause_secs: 0.01,
        longest_pause_secs: 5.0,
        request_timeout_secs: 20,
        http: HttpClientSettings { connect_timeout_secs: 5, ..HttpClientSettings::default() },
        ..HttpDocumentSettings::default()
    }
}

impl Home {
    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&folder.path().join("store")).unwrap());
        let clock = Arc::new(ReplayClock::starting_at(utc("2013-07-15T00:00:00Z")));
        let weather = Arc::new(WeatherCsv::new(store.clone(), "weather/"));
        let mut settings = Settings::default();
        settings.ingestion.fetch = quick();
        change(&mut settings);
        Self { env: env(folder.path(), clock.clone(), store, weather), settings, clock, _folder: folder }
    }

    fn of_airports(url: &str) -> Self {
        Self::with(|settings| settings.ingestion.airports_url = Secret::new(url))
    }

    /// A stage as a freshly started daemon has it.
    fn stage(&self) -> DataStage {
        let documents = open::reference_documents(&self.settings).unwrap();
        let settings = Arc::new(self.settings.clone());
        DataStage::new(self.env.clone(), settings).unwrap().with_documents(documents)
    }

    async fn codes(&self, stage: &DataStage) -> Vec<String> {
        let supplement = ["BQN", "PSE", "SJU", "STT"];
        let all = stage.reference().await.unwrap().airports.into_keys();
        all.filter(|code| !supplement.contains(&code.as_str())).collect()
    }
}

#[tokio::test]
async fn airports_are_fetched_once_kept_and_asked_for_again_only_when_due_and_changed() {
    let server = DocumentServer::start(airports(&FOUR[..3]));
    let home = Home::of_airports(&server.url());
    let stage = home.stage();
    assert_eq!(home.codes(&stage).await, ["EWR", "JFK", "LGA"]);
    assert_eq!(home.codes(&stage).await.len(), 3);
    assert_eq!(server.take_answers(), [200]);
    let copy = home.env.object_store.get("reference/airports.csv").await.unwrap();
    assert_eq!(copy, Bytes::from(airports(&FOUR[..3])));
    home.clock.advance_to(utc("2013-07-16T00:00:00Z"));
    assert_eq!(home.codes(&stage).await.len(), 3);
    // A restart asks too, and is told that nothing changed.
    assert_eq!(home.codes(&home.stage()).await.len(), 3);
    assert_eq!(server.take_answers(), [304, 304]);
    server.publish(airports(&FOUR), "\"v2\"");
    assert_eq!(home.codes(&stage).await.len(), 3, "it is not due yet");
    home.clock.advance_to(utc("2013-07-17T00:00:00Z"));
    assert_eq!(home.codes(&stage).await.len(), 4);
    assert_eq!(server.take_answers(), [200]);
}

#[tokio::test]
async fn a_date_serves_where_there_is_no_tag_and_neither_means_a_whole_fetch() {
    let server = DocumentServer::start("");
    let home = Home::of_airports(&server.url());
    let dated = Some("Mon, 15 Jul 2013 00:00:00 GMT");
    server.serve(Served { body: airports(&FOUR).into(), last_modified: dated, ..Served::default() });
    home.codes(&home.stage()).await;
    home.codes(&home.stage()).await;
    assert_eq!(server.take_answers(), [200, 304]);
    server.serve(Served { body: airports(&FOUR).into(), ..Served::default() });
    home.codes(&home.stage()).await;
    home.codes(&home.stage()).await;
    assert_eq!(server.take_answers(), [200, 200]);
    assert_eq!(home.env.ledger.reference_versions(Page::newest(9)).await.unwrap().len(), 1, "the same bytes");
}

#[tokio::test]
async fn opened_closed_and_moved_airports_are_recorded_and_reported() {
    let server = DocumentServer::start(airports(&FOUR[..3]));
    let home = Home::of_airports(&server.url());
    let stage = home.stage();
    stage.reference().await.unwrap();
    assert!(alerts(&home.env).await.is_empty(), "the first version is no change");
    server.publish(airports(&[FOUR[0], ("JFK", 40.7398, -73.7789), FOUR[3]]), "\"v2\"");
    home.clock.advance_to(utc("2013-07-16T00:00:00Z"));
    stage.reference().await.unwrap();
    stage.reference().await.unwrap();
    let told = alerts(&home.env).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let (severity, title, body) = &told[0];
    assert_eq!((*severity, title.as_str()), (Severity::Warning, "airports changed: 1 new, 1 closed, 1 moved"));
    assert!(body.contains("New: BOS. Closed: LGA. Moved: JFK (6.9 miles)."), "{body}");
    let versions = home.env.ledger.reference_versions(Page::newest(9)).await.unwrap();
    assert_eq!(versions.len(), 2);
    let newest = &versions[0].version;
    assert_eq!((newest.kind, newest.origin, newest.entries), (ReferenceKind::Airports, ReferenceOrigin::Url, 3));
    assert_eq!(serde_json::to_value(&newest.changes).unwrap()["closed"], serde_json::json!(["LGA"]));
    assert_eq!(serde_json::to_value(&versions[1].version.changes).unwrap()["what"], "first");
    let first = home.env.object_store.get(&versions[1].version.object_key).await.unwrap();
    assert_eq!(first, Bytes::from(airports(&FOUR[..3])), "the earlier version is still there");
}

#[tokio::test]
async fn a_change_by_hand_in_the_store_is_noticed_too() {
    let home = Home::with(|_| ());
    let store = &home.env.object_store;
    store.put("reference/airports.csv", airports(&FOUR[..3]).into()).await.unwrap();
    let stage = home.stage();
    stage.reference().await.unwrap();
    store.put("reference/airports.csv", airports(&FOUR).into()).await.unwrap();
    assert_eq!(home.codes(&stage).await.len(), 4);
    assert_eq!(home.codes(&home.stage()).await.len(), 4);
    let told = alerts(&home.env).await;
    assert_eq!((told.len(), told[0].0), (1, Severity::Info), "{told:?}");
    assert_eq!(
        home.env.ledger.newest_reference(ReferenceKind::Airports).await.unwrap().unwrap().version.origin,
        ReferenceOrigin::Store
    );
}

#[tokio::test]
async fn nonsense_and_a_shrunk_list_do_not_replace_the_copy_and_are_reported_once_a_day() {
    let server = DocumentServer::start(airports(&FOUR));
    let home = Home::of_airports(&server.url());
    let stage = home.stage();
    assert_eq!(home.codes(&stage).await.len(), 4);
    let mut moment = utc("2013-07-16T00:00:00Z");
    for (body, told) in [
        ("<html>Service moved</html>".to_owned(), "cannot be read"),
        (String::new(), "cannot be read"),
        (airports(&FOUR[..1]), "1 entries and the copy 4"),
        (HEADER.to_owned() + "EWR,A name,north,-74,10,-5,A,America/New_York\n", "no entry at all"),
    ] {
        server.publish(body, "\"bad\"");
        home.clock.advance_to(moment);
        assert_eq!(home.codes(&stage).await.len(), 4, "{told}");
        assert_eq!(home.codes(&stage).await.len(), 4, "{told}");
        assert_eq!(server.take_answers().last(), Some(&200));
        let (severity, title, text) = alerts(&home.env).await.pop().unwrap();
        assert_eq!((severity, title.as_str()), (Severity::Warning, "airports cannot be refreshed from their URL"));
        assert!(text.contains(told) && text.contains("reference/airports.csv"), "{text}");
        moment += chrono::Duration::days(1);
    }
    let before = alerts(&home.env).await.len();
    assert_eq!(before, 4, "one a day");
    // A quarter of an hour later it is tried again, and told no second time on that day.
    home.clock.advance_to(utc("2013-07-19T00:15:00Z"));
    home.codes(&stage).await;
    assert_eq!((server.take_answers(), alerts(&home.env).await.len()), (vec![200], before));
    // The small list is right after all: without a copy it is taken as the first.
    server.publish(airports(&FOUR[..1]), "\"small\"");
    home.env.object_store.delete("reference/airports.csv").await.unwrap();
    assert_eq!(home.codes(&stage).await, ["EWR"]);
}

#[tokio::test]
async fn without_a_copy_a_url_that_is_unavailable_is_a_clear_error_and_with_one_it_is_a_warning() {
    let server = DocumentServer::start(airports(&FOUR));
    let proxy = FlakyProxy::before(server.address()).await;
    let home = Home::of_airports(&format!("{}{PATH}", proxy.url()));
    proxy.set(Mood::Down);
    let stage = home.stage();
    let failure = stage.reference().await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
    let text = failure.to_string();
    assert!(text.contains("fetching the document of ingestion.airports_url"), "{text}");
    assert!(text.contains("no earlier copy in the object store under reference/airports.csv"), "{text}");
    assert!(!text.contains("private-0815"), "{text}");
    proxy.set(Mood::Pass);
    assert_eq!(home.codes(&stage).await.len(), 4, "no waiting while there is no copy");
    proxy.set(Mood::Refuse(503));
    let stage = home.stage();
    assert_eq!(home.codes(&stage).await.len(), 4);
    let told = alerts(&home.env).await;
    assert!(told.len() == 1 && told[0].2.contains("503"), "{told:?}");
    assert!(!format!("{told:?}").contains("private-0815"), "{told:?}");
    proxy.set(Mood::Pass);
    server.publish(airports(&FOUR[..3]), "\"v2\"");
    assert_eq!(home.codes(&stage).await.len(), 4, "tried a moment ago");
    home.clock.advance_to(utc("2013-07-15T00:15:00Z"));
    assert_eq!(home.codes(&stage).await.len(), 3, "back again");
}

#[tokio::test]
async fn a_copy_that_was_changed_by_hand_is_fetched_whole_again() {
    let server = DocumentServer::start(airports(&FOUR));
    let home = Home::of_airports(&server.url());
    home.codes(&home.stage()).await;
    home.env.object_store.put("reference/airports.csv", airports(&FOUR[..2]).into()).await.unwrap();
    assert_eq!(home.codes(&home.stage()).await.len(), 4);
    home.env.object_store.put("reference/airports.csv.fetched.json", Bytes::from_static(b"{")).await.unwrap();
    assert_eq!(home.codes(&home.stage()).await.len(), 4);
    assert_eq!(server.take_answers(), [200, 200, 200]);
}

fn calendar(days: &[&str]) -> String {
    let event = |day: &&str| format!("BEGIN:VEVENT\r\nDTSTART;VALUE=DATE:{day}\r\nSUMMARY:Holiday\r\nEND:VEVENT\r\n");
    let events: String = days.iter().map(event).collect();
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{events}END:VCALENDAR\r\n")
}

#[tokio::test]
async fn holidays_by_url_count_their_changes_are_reported_and_nonsense_is_not_taken() {
    let server = DocumentServer::start(calendar(&["20130812", "20130813"]));
    let home = Home::with(|settings| settings.ingestion.holidays_url = Secret::new(server.url()));
    home.env.object_store.put("reference/airports.csv", airports(&FOUR).into()).await.unwrap();
    let stage = home.stage();
    let days = async || -> Vec<String> {
        stage.reference().await.unwrap().holidays.extra.into_keys().map(|day| day.to_string()).collect()
    };
    assert_eq!(days().await, ["2013-08-12", "2013-08-13"]);
    assert!(home.env.object_store.get("reference/holidays.ics").await.is_ok());
    server.publish(calendar(&["20130812", "20130902"]), "\"v2\"");
    home.clock.advance_to(utc("2013-07-16T00:00:00Z"));
    assert_eq!(days().await, ["2013-08-12", "2013-09-02"]);
    server.publish("BEGIN:VCARD\r\n", "\"v3\"");
    home.clock.advance_to(utc("2013-07-17T00:00:00Z"));
    assert_eq!(days().await, ["2013-08-12", "2013-09-02"]);
    let told = alerts(&home.env).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[0].0, told[0].1.as_str()), (Severity::Info, "holidays changed: 1 days more, 1 days less"));
    assert!(told[1].1.contains("holidays cannot be refreshed") && told[1].2.contains("VCALENDAR"), "{told:?}");
}

fn http_document(url: &str, settings: HttpDocumentSettings) -> HttpDocument {
    HttpDocument::new("ingestion.airports_url", Secret::new(url), settings).unwrap()
}

#[tokio::test]
async fn every_failure_of_a_document_has_its_kind_and_shows_no_address() {
    let server = DocumentServer::start(airports(&FOUR));
    let proxy = FlakyProxy::before(server.address()).await;
    let url = format!("{}{PATH}", proxy.url());
    let impatient = HttpDocumentSettings { request_timeout_secs: 1, ..quick() };
    for (mood, kind, attempts) in [
        (Mood::Down, ErrorKind::Unavailable, 2),
        (Mood::Slow(Duration::from_secs(30)), ErrorKind::Timeout, 2),
        (Mood::CutAfter(150), ErrorKind::Unavailable, 2),
        (Mood::Refuse(401), ErrorKind::Denied, 1),
        (Mood::Refuse(403), ErrorKind::Denied, 1),
        (Mood::Refuse(404), ErrorKind::NotFound, 1),
        (Mood::Refuse(409), ErrorKind::Conflict, 2),
        (Mood::Refuse(429), ErrorKind::Unavailable, 2),
        (Mood::Refuse(500), ErrorKind::Unavailable, 2),
        (Mood::Refuse(503), ErrorKind::Unavailable, 2),
    ] {
        proxy.set(mood);
        let before = proxy.connections();
        let source = http_document(&url, impatient.clone());
        let error = source.fetch(&Validators::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{mood:?}: {error}");
        // The HTTP client itself repeats a request whose connection was closed at once.
        assert!(proxy.connections() - before >= attempts, "{mood:?}");
        let told = format!("{error} {error:?} {} {source:?}", chain(&error));
        assert!(told.contains("ingestion.airports_url") && !told.contains("private-0815"), "{told}");
    }
    proxy.set_for(Mood::Refuse(503), 1);
    let fetched = http_document(&url, quick()).fetch(&Validators::default()).await.unwrap();
    assert!(matches!(fetched, FetchedDocument::Changed { body, .. } if body == airports(&FOUR).as_bytes()));
}

#[tokio::test]
async fn a_document_without_end_is_refused_and_a_long_retry_after_is_not_waited_for() {
    let server = DocumentServer::start(vec![b'x'; 10_000]);
    let small = HttpDocumentSettings { max_bytes: 1024, ..quick() };
    let error = http_document(&server.url(), small).fetch(&Validators::default()).await.unwrap_err();
    assert_error(&error, ErrorKind::Invalid, &["longer than 1024 bytes"]);
    server.take_answers();
    server.serve(Served { refuses: Some((9, 503, Some(3600))), ..Served::default() });
    let error = http_document(&server.url(), quick()).fetch(&Validators::default()).await.unwrap_err();
    assert_eq!((error.kind(), server.take_answers()), (ErrorKind::Unavailable, vec![503]));
    server.serve(Served { refuses: Some((1, 503, Some(0))), body: b"a".to_vec(), ..Served::default() });
    http_document(&server.url(), quick()).fetch(&Validators::default()).await.unwrap();
}

#[tokio::test]
async fn a_documents_certificate_is_checked_and_a_probe_reads_no_body() {
    let server = DocumentServer::start(airports(&FOUR));
    let front = TlsFront::before(server.address()).await;
    let url = format!("https://localhost:{}{PATH}", front.address.port());
    let error = http_document(&url, quick()).fetch(&Validators::default()).await.unwrap_err();
    assert_error(&error, ErrorKind::Unavailable, &["certificate"]);
    let http = HttpClientSettings { ca_path: front.ca_path.clone(), ..HttpClientSettings::default() };
    let trusting = http_document(&url, HttpDocumentSettings { http, ..quick() });
    assert!(trusting.fetch(&Validators::default()).await.is_ok());
    let told = trusting.probe().await.unwrap();
    assert!(told.contains("versioned") && !told.contains("private-0815"), "{told}");
    server.serve(Served { refuses: Some((9, 403, None)), ..Served::default() });
    assert_eq!(trusting.probe().await.unwrap_err().kind(), ErrorKind::Denied);
}

// ----------------------------------------------------------------
// A web server with one document, which answers conditional requests (RFC 9110)
// and can be told to misbehave.

/// The path under which the document lies: part of a secret address.
pub const PATH: &str = "/private-0815/document";

#[derive(Debug, Clone, Default)]
pub struct Served {
    pub body: Vec<u8>,
    pub etag: Option<&'static str>,
    pub last_modified: Option<&'static str>,
    /// Answers so many requests with this status instead.
    pub refuses: Option<(usize, u16, Option<u64>)>,
}

#[derive(Default)]
struct State {
    served: Mutex<Served>,
    /// The status of every answer.
    answers: Mutex<Vec<u16>>,
}

pub struct DocumentServer {
    address: SocketAddr,
    state: Arc<State>,
    handle: ServerHandle,
}

impl DocumentServer {
    pub fn start(body: impl Into<Vec<u8>>) -> Self {
        let state = Arc::new(State::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data = web::Data::from(state.clone());
        let server = HttpServer::new(move || App::new().app_data(data.clone()).route(PATH, web::get().to(document)));
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        std::thread::spawn(move || actix_web::rt::System::new().block_on(server));
        let server = Self { address, state, handle };
        server.serve(Served { body: body.into(), etag: Some("\"v1\""), ..Served::default() });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    pub fn serve(&self, served: Served) {
        *self.state.served.lock().unwrap() = served;
    }

    /// The document, with another tag than before.
    pub fn publish(&self, body: impl Into<Vec<u8>>, etag: &'static str) {
        self.serve(Served { body: body.into(), etag: Some(etag), ..Served::default() });
    }

    /// The statuses answered since the last time this was asked.
    pub fn take_answers(&self) -> Vec<u16> {
        std::mem::take(&mut *self.state.answers.lock().unwrap())
    }
}

impl Drop for DocumentServer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn document(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let mut served = state.served.lock().unwrap();
    let refusal = served.refuses.as_mut().filter(|(left, ..)| *left > 0).map(|(left, status, retry_after)| {
        *left -= 1;
        (*status, *retry_after)
    });
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let unchanged = match header(IF_NONE_MATCH) {
        Some(tag) => served.etag == Some(tag),
        None => header(IF_MODIFIED_SINCE).is_some_and(|date| served.last_modified == Some(date)),
    };
    let response = if let Some((status, retry_after)) = refusal {
        let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
        if let Some(secs) = retry_after {
            response.insert_header(("retry-after", secs.to_string()));
        }
        response.body("refused")
    } else if unchanged {
        HttpResponse::NotModified().finish()
    } else {
        let mut response = HttpResponse::Ok();
        if let Some(etag) = served.etag {
            response.insert_header((ETAG, etag));
        }
        if let Some(date) = served.last_modified {
            response.insert_header((LAST_MODIFIED, date));
        }
        response.body(served.body.clone())
    };
    state.answers.lock().unwrap().push(response.status().as_u16());
    response
}
