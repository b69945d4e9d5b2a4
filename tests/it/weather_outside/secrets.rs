//! The API's key and private addresses reach no text.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use delayd::config::Settings;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::ports::WeatherSource;
use delayd_core::secret::Secret;
use delayd_outside::cloud::OpenMeteoSettings;

use crate::weather_outside::world::{AIRPORTS, NOW, World, asked, codes, settings, utc};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::contracts::weather::Behaviour;

const KEY: &str = "k3y-of-a-customer-4711";
const DAY: (&str, &str) = ("2013-07-01T00:00:00Z", "2013-07-02T00:00:00Z");

/// Everything that is logged, of whatever level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_sent_and_is_in_no_error_log_or_debug_text() {
    let Some(world) = World::at("the_key_is_sent…", NOW).await else { return };
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
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
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("weather is asked again"), "{logged}");
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
type Headers = Arc<Mutex<Vec<String>>>;

async fn note(request: HttpRequest, headers: web::Data<Mutex<Vec<String>>>) -> HttpResponse {
    headers.lock().unwrap().push(format!("{} {:?}", request.uri(), request.headers()));
    HttpResponse::Ok().body("not weather")
}

fn second_server() -> (String, Headers) {
    let headers = Headers::default();
    let data = web::Data::from(headers.clone());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(note)));
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    std::thread::spawn(move || actix_web::rt::System::new().block_on(server));
    (format!("http://{address}"), headers)
}

#[tokio::test]
async fn a_redirect_does_not_tell_the_key_to_another_server() {
    let Some(world) = World::at("a_redirect_does_not_tell_the_key…", NOW).await else { return };
    let (other, headers) = second_server();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = HttpServer::new(move || {
        let location = format!("{other}/elsewhere");
        App::new().default_service(web::to(move || {
            let location = location.clone();
            async move { HttpResponse::Found().insert_header(("location", location)).finish() }
        }))
    });
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    std::thread::spawn(move || actix_web::rt::System::new().block_on(server));
    let url = format!("http://{address}");
    let source = world.source(OpenMeteoSettings { api_key: Secret::new(KEY), attempts: 1, ..settings(&url) });
    source.observations(&codes(&AIRPORTS), utc(DAY.0), utc(DAY.1)).await.unwrap_err();
    let headers = headers.lock().unwrap();
    assert_eq!(headers.len(), 1, "{headers:?}");
    assert!(headers[0].starts_with("/elsewhere") && !headers[0].contains(KEY), "{headers:?}");
}
