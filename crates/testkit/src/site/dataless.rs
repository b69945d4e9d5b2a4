//! A daemon without data: its endpoint and its commands.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use delayd_ledger::Ledger;
use tempfile::TempDir;

use super::process::{Running, command, tail};

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
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
