//! The status endpoint as programs and administrators meet it: a running daemon,
//! asked over TCP, TLS and its local socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, dead_code, reason = "helpers are shared by inclusion")]

#[path = "http_api/access.rs"]
mod access;
#[path = "http_api/cli.rs"]
mod cli;
mod contracts;
#[path = "http_api/events.rs"]
mod events;
#[path = "http_api/records.rs"]
mod records;
#[path = "http_api/schema.rs"]
mod schema;
mod site;
#[path = "http_api/tls.rs"]
mod tls;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use delayd::ledger::Ledger;
use reqwest::Client;
use serde_json::Value;
use site::{Running, command, tail};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
const OPERATOR: &str = "operators-token-of-forty-characters-or-so";
const VIEWER: &str = "viewers-token-that-is-quite-as-long-as-that";

/// A daemon without data.
struct Daemon {
    place: TempDir,
    address: SocketAddr,
    running: Option<Running>,
}

impl Daemon {
    /// `http` are more keys of `[http]`; `{place}` is the daemon's folder.
    fn new(http: &str) -> Self {
        let place = TempDir::new().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http = http.replace("{place}", place.path().to_str().unwrap());
        let text = format!(
            "[http]\nlisten = \"{address}\"\n{http}\n\
             [[http.tokens]]\nname = \"oncall\"\nrole = \"operator\"\ntoken = \"{OPERATOR}\"\n\
             [[http.tokens]]\nname = \"wallboard\"\nrole = \"viewer\"\ntoken = \"{VIEWER}\"\n\
             [packaging]\nservice_binary = \"/bin/true\"\n"
        );
        fs::write(place.path().join("delayd.toml"), text).unwrap();
        fs::create_dir_all(place.path().join("state")).unwrap();
        Self { place, address, running: None }
    }

    fn started(http: &str) -> Self {
        let mut daemon = Self::new(http);
        daemon.start();
        daemon
    }

    fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    fn log(&self) -> PathBuf {
        self.place.path().join("daemon.log")
    }

    /// The ledger, before the daemon has it.
    fn ledger(&self) -> Ledger {
        Ledger::open(&self.state().join("ledger.sqlite")).unwrap()
    }

    fn start(&mut self) {
        self.running = Some(Running::start(self.command(&["run"]), &self.state(), &self.log()));
        let began = Instant::now();
        while !self.state().join("delayd.sock").exists() || std::net::TcpStream::connect(self.address).is_err() {
            assert!(began.elapsed() < DEADLINE, "waiting for the endpoint: {}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (config, state) = (self.place.path().join("delayd.toml"), self.state());
        let mut all = vec!["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
        all.extend(arguments);
        command(&all)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}\n{}", tail(&self.log()));
        out
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn client() -> Client {
    delayd::http_client::client_builder().no_proxy().timeout(DEADLINE).build().unwrap()
}

/// Status and body of a GET.
async fn get(url: &str) -> (u16, Value) {
    let answer = client().get(url).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}
