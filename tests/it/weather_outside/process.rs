//! `delayd` as a process: what `check` says, and what the status endpoint tells.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::weather_outside::document_server::DocumentServer;
use crate::weather_outside::world::{NOW, World};

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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
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

const AIRPORTS: &str = "faa,name,lat,lon,alt,tz,dst,tzone\nJFK,Kennedy,40.6398,-73.7789,13,-5,A,America/New_York\n";
const CALENDAR: &str =
    "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20130812\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

#[tokio::test]
async fn check_tells_of_the_weather_and_of_each_document_and_changes_nothing() {
    let Some(world) = World::at("check_tells_of_the_weather…", NOW).await else { return };
    // `check` asks for the real yesterday, which the server's archive must allow.
    world.server.set_now(crate::weather_outside::world::utc("2100-01-01T00:00:00Z"));
    let (airports, holidays) = (DocumentServer::start(AIRPORTS), DocumentServer::start(CALENDAR));
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

/// Killed at the end.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_status_endpoint_tells_the_reference_data_and_their_changes() {
    let test = "the_status_endpoint_tells_the_reference_data…";
    let Some(world) = World::at(test, NOW).await else { return };
    let Some(service) = std::env::var_os("DELAYD_SERVE_BIN").filter(|path| Path::new(path).is_file()) else {
        eprintln!("SKIPPED: {test}: the service is missing; build it and name it in DELAYD_SERVE_BIN (make test does)");
        return;
    };
    let (airports, holidays) = (DocumentServer::start(AIRPORTS), DocumentServer::start(CALENDAR));
    let config = write_config(world.folder(), &world.server.url(), &airports.url(), &holidays.url());
    let text = std::fs::read_to_string(&config).unwrap();
    let address = text.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap().trim_matches('"').to_owned();
    let log = world.folder().join("daemon.log");
    let mut command = delayd(&config);
    command.arg("run").env("DELAYD_SERVE_BIN", service).stdout(Stdio::null());
    let _daemon = Daemon(command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let url = format!("http://{address}/api/v1/reference");
    let client = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let document: Value = loop {
        if let Ok(answer) = client.get(&url).send().await
            && let Ok(document) = answer.json::<Value>().await
            && document["current"].as_array().is_some_and(|current| current.len() == 2)
        {
            break document;
        }
        let told =
            || BufReader::new(std::fs::File::open(&log).unwrap()).lines().map_while(Result::ok).collect::<Vec<_>>();
        assert!(Instant::now() < deadline, "{:#?}", told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(document["current"][0]["kind"], "airports");
    assert_eq!(document["current"][0]["origin"], "url");
    assert_eq!(document["current"][0]["entries"], 1);
    assert_eq!(document["versions"].as_array().unwrap().len(), 2);
    assert_eq!(document["versions"][0]["changes"]["what"], "first");
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(!told.contains(KEY) && !told.contains("private-0815"), "{told}");
}
