//! A daemon's folder, with the ways to look into it from outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use delayd_ledger::Ledger;

use crate::tools::{free_address, post_json};
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::json;
use tempfile::TempDir;

use super::{CYCLE_LIMIT, NEVER, Needs, QUICK, Running, cluster_state, command, ended, reduced, tail};

/// The body of a `POST /predict` about one flight.
pub fn one_flight() -> String {
    json!({ "flights": [{
        "carrier": "UA", "flight_number": 1545, "origin": "EWR", "dest": "IAH",
        "scheduled_departure": "2013-02-04T15:15:00Z", "scheduled_arrival": "2013-02-04T19:15:00Z",
        "distance_miles": 1400.0, "context": {},
    }] })
    .to_string()
}

/// Puts a month of recorded flights where a daemon's store will be; `scratch` is a folder on the same disk.
pub fn put_history(data: &Path, scratch: &Path, store: &Path) {
    let folder = scratch.join("data");
    reduced(data, &folder, (1, 1), (2, 3), |_, _, _| ());
    for (file, key) in [
        ("airports.csv", "reference/airports.csv"),
        ("weather.csv", "weather/weather.csv"),
        ("flights.csv", "flights/2013-01.csv"),
    ] {
        let target = store.join(key);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::rename(folder.join(file), target).unwrap();
    }
}

/// A daemon's folder, with the ways to look into it from outside.
pub struct Site {
    pub place: TempDir,
    pub service: PathBuf,
    /// Variables of the daemon's environment.
    pub environment: BTreeMap<&'static str, String>,
}

impl Site {
    /// A state folder whose store holds a month of flights.
    pub fn with_history(needs: &Needs) -> Self {
        let place = TempDir::new().unwrap();
        let site = Self { place, service: needs.service.clone(), environment: BTreeMap::new() };
        put_history(&needs.data, site.place.path(), &site.state().join("store"));
        fs::write(site.config(), format!("{QUICK}{NEVER}")).unwrap();
        site
    }

    pub fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    pub fn config(&self) -> PathBuf {
        self.place.path().join("delayd.toml")
    }

    /// Puts an object into the store, whole at once.
    pub fn put(&self, key: &str, body: &[u8]) {
        let target = self.state().join("store").join(key);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let beside = self.place.path().join("being-written");
        fs::write(&beside, body).unwrap();
        fs::rename(beside, target).unwrap();
    }

    /// `delayd` with this site's configuration and state.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let (config, state) = (self.config(), self.state());
        let place = ["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
        let mut command = command(&[&place[..], arguments].concat());
        command.env("DELAYD_SERVE_BIN", &self.service).envs(&self.environment);
        command
    }

    pub fn start(&self) -> Running {
        Running::start(self.command(&["run"]), &self.state(), &self.place.path().join("daemon.log"))
    }

    /// What a command prints that must succeed.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The ledger as it is now; `None` while there is none. A ledger that is only
    /// being made has no write-ahead log yet, and is left in peace.
    pub fn ledger(&self) -> Option<Connection> {
        if !self.state().join("ledger.sqlite-wal").exists() {
            return None;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.state().join("ledger.sqlite"), flags).ok()?;
        connection.busy_timeout(Duration::from_secs(5)).ok()?;
        Some(connection)
    }

    /// State and attempt of a step of the only cycle.
    pub fn step(&self, ledger: &Connection, name: &str) -> Option<(String, i64)> {
        let row = ledger.query_row("SELECT state, attempt FROM steps WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        // Before the first migration there is no table.
        row.optional().unwrap_or(None)
    }

    pub fn count(&self, query: &str) -> i64 {
        self.ledger().unwrap().query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Looks again and again until there is an answer; a daemon that ended, or a
    /// deadline that passed, fails with the daemon's last words.
    pub fn wait<T>(&self, daemon: &mut Running, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended ({status}) while waiting until {what}:\n{}", tail(&daemon.log));
            }
            assert!(
                began.elapsed() < CYCLE_LIMIT,
                "waited {CYCLE_LIMIT:?} in vain until {what}:\n{}",
                tail(&daemon.log)
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    pub fn wait_for_the_cycle(&self, daemon: &mut Running) {
        let (outcome, detail) = self.wait(daemon, "the cycle is finished", || {
            let ledger = self.ledger()?;
            let finished = "SELECT outcome, detail FROM cycles WHERE state = 'finished'";
            let row = ledger.query_row(finished, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
            row.optional().unwrap_or(None)
        });
        assert_eq!(outcome, "deployed", "{detail}\n{}", tail(&daemon.log));
    }

    /// `POST /predict` about one flight; `None` when nobody answers.
    pub fn predict(&self) -> Option<(u16, String)> {
        let port = cluster_state(&self.state())["public_port"].as_u64().and_then(|port| u16::try_from(port).ok())?;
        post_json(("127.0.0.1", port), "/predict", &one_flight())
    }

    pub fn assert_it_answers(&self, daemon: &Running) {
        let (status, answer) =
            self.predict().unwrap_or_else(|| panic!("the service does not answer:\n{}", tail(&daemon.log)));
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("model_v1") && answer.contains("score"), "{answer}");
    }

    /// The end that every cycle must have, killed or not: everything once.
    pub fn assert_one_model_is_live(&self, daemon: &mut Running) {
        assert_eq!(self.count("SELECT count(*) FROM cycles"), 1, "cycles");
        assert_eq!(self.count("SELECT count(*) FROM cycles WHERE outcome = 'deployed'"), 1, "deployed cycles");
        assert_eq!(self.count("SELECT count(*) FROM runs"), 1, "runs");
        assert_eq!(self.count("SELECT count(*) FROM models"), 1, "models");
        assert_eq!(self.count("SELECT count(*) FROM images"), 1, "images");
        assert_eq!(self.count("SELECT count(*) FROM deployments"), 1, "deployments");
        assert_eq!(self.count("SELECT count(*) FROM deployments WHERE state = 'approved'"), 1, "approved deployments");
        assert_eq!(self.count("SELECT count(*) FROM aliases WHERE alias = 'live'"), 1, "live aliases");
        assert_eq!(self.count("SELECT count(*) FROM steps"), 10, "steps");
        assert_eq!(self.count("SELECT count(*) FROM steps WHERE state = 'done'"), 10, "steps that are done");
        self.assert_it_answers(daemon);
        // As many replicas as are configured: none of a killed daemon is left over.
        self.wait(daemon, "exactly one replica is left, and serves", || {
            let remembered = cluster_state(&self.state());
            let replicas = remembered["replicas"].as_array()?;
            (replicas.len() == 1 && replicas[0]["phase"] == "serving").then_some(())
        });
    }

    /// Asks the daemon to stop; the live model must keep serving without it.
    pub fn stop(&self, mut daemon: Running) {
        daemon.signal(Signal::SIGTERM);
        let status = ended(&mut daemon.child, Duration::from_secs(30));
        assert!(
            status.is_some_and(|status| status.success()),
            "stopping ended with {status:?}:\n{}",
            tail(&daemon.log)
        );
        self.assert_it_answers(&daemon);
    }
}

// ----------------------------------------------------------------
// A daemon without data: its endpoint and its commands.

const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon without data, in a folder of its own.
pub struct DatalessDaemon {
    pub place: TempDir,
    pub address: SocketAddr,
    pub running: Option<Running>,
}

impl DatalessDaemon {
    /// `http` are keys of `[http]`, `sections` whatever follows; `{place}` is the
    /// daemon's folder in both.
    pub fn new(http: &str, sections: &str) -> Self {
        let place = TempDir::new().unwrap();
        let address = free_address();
        let text =
            format!("[http]\nlisten = \"{address}\"\n{http}\n[packaging]\nservice_binary = \"/bin/true\"\n{sections}");
        let text = text.replace("{place}", place.path().to_str().unwrap());
        fs::write(place.path().join("delayd.toml"), text).unwrap();
        fs::create_dir_all(place.path().join("state")).unwrap();
        Self { place, address, running: None }
    }

    pub fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    pub fn log(&self) -> PathBuf {
        self.place.path().join("daemon.log")
    }

    /// The ledger, before the daemon has it.
    pub fn ledger(&self) -> Ledger {
        Ledger::open(&self.state().join("ledger.sqlite")).unwrap()
    }

    /// Starts the daemon, and waits until its socket and its address answer.
    pub fn start(&mut self) {
        self.running = Some(Running::start(self.command(&["run"]), &self.state(), &self.log()));
        self.wait("the endpoint", || {
            let socket = self.state().join("delayd.sock").exists();
            (socket && TcpStream::connect(self.address).is_ok()).then_some(())
        });
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let (config, state) = (self.place.path().join("delayd.toml"), self.state());
        let mut all = vec!["--config", config.to_str().unwrap(), "--state", state.to_str().unwrap()];
        all.extend(arguments);
        command(&all)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that must succeed.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}\n{}", tail(&self.log()));
        out
    }

    /// What a look finds, within a minute.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < DEADLINE, "waiting for {what}: {}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
