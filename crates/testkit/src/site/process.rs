//! Processes, and their ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::flights::delayd;

/// What names the programs that a daemon starts.
const PROGRAMS: [&str; 2] = ["DELAYD_SERVE_BIN", "DELAYD_TRAIN_BIN"];

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(delayd());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("DELAYD_") && !PROGRAMS.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Waits for a process; `None` when it still runs after `limit`.
pub fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

pub fn cluster_state(state: &Path) -> Value {
    let text = fs::read(state.join("cluster/cluster.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}

/// Ends the replicas that a state folder's cluster remembers, and no others: an id
/// that went to another program since is left alone.
pub fn end_replicas(state: &Path) {
    let remembered = cluster_state(state);
    for replica in remembered["replicas"].as_array().into_iter().flatten() {
        let Some(pid) = replica["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) else { continue };
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program.to_string_lossy().contains("delayd-serve") {
            // One that ended meanwhile is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process with its state folder: both its own end and its replicas' are seen to.
pub struct Running {
    pub child: Child,
    pub state: PathBuf,
    pub log: PathBuf,
}

impl Running {
    pub fn start(mut command: Command, state: &Path, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { child, state: state.to_owned(), log: log.to_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        end_replicas(&self.state);
    }
}
