//! One replica: start it, wait until it is ready, tell it to stop, and know how
//! it ended. Which replicas there should be is decided in `rollout`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::state::{ClusterState, Phase, ProcessIdentity, ReplicaRecord, find_by_argument};
use super::{Life, ProcessCluster};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::Release;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of a refused readiness check's answer an error quotes.
const QUOTED_ANSWER_CHARS: usize = 300;
/// The daemon's own environment holds secrets; a replica gets these only.
const PASSED_VARIABLES: [&str; 6] = ["PATH", "RUST_LOG", "RUST_BACKTRACE", "TZ", "LANG", "LD_LIBRARY_PATH"];

/// How a replica came to its end.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) kind: ErrorKind,
    pub(super) reason: String,
}

/// What a new replica inherits from the one it replaces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Inherited {
    pub(super) restarts: u32,
    pub(super) failures_in_a_row: u32,
}

/// The folder in which replicas write the address of their administrative routes.
pub(super) fn port_files(state_dir: &Path) -> PathBuf {
    state_dir.join("ports")
}

/// Finds the processes that a daemon started but did not live to record.
pub(super) fn find_lost_processes(state_dir: &Path, state: &mut ClusterState) {
    for record in state.replicas.iter_mut().filter(|record| record.process.is_none()) {
        record.process = find_by_argument(&port_files(state_dir).join(&record.name));
    }
}

impl ProcessCluster {
    /// Starts one more replica of `release` and waits until it is ready. One that
    /// does not become ready is killed and forgotten.
    pub(super) async fn start_replica(
        &self,
        release: &Release,
        deadline: Instant,
        inherited: Inherited,
    ) -> Result<String, PortError> {
        let name = format!("delayd-serve-{}", self.state().last_replica + 1);
        let record = ReplicaRecord {
            name: name.clone(),
            release: release.clone(),
            port: self.port,
            phase: Phase::Starting,
            process: None,
            admin_url: None,
            restarts: inherited.restarts,
            failures_in_a_row: inherited.failures_in_a_row,
            reason: None,
        };
        self.change(|state| {
            state.last_replica += 1;
            state.replicas.push(record);
        })
        .await?;
        match self.bring_up(&name, release, deadline).await {
            Ok(()) => Ok(name),
            Err(error) => {
                self.kill(&name).await;
                self.forget(&name).await?;
                Err(error)
            }
        }
    }

    async fn bring_up(&self, name: &str, release: &Release, deadline: Instant) -> Result<(), PortError> {
        let child = self.spawn(name, release)?;
        let process = child.id().and_then(ProcessIdentity::of);
        self.lives().insert(name.to_owned(), Life { child: Some(child), ..Life::default() });
        self.change_replica(name, |record| record.process = process).await?;
        let admin_url = self.wait_until_ready(name, deadline).await?;
        self.lives().entry(name.to_owned()).or_default().ready_since = Some(Instant::now());
        self.change_replica(name, |record| {
            record.phase = Phase::Serving;
            record.admin_url = Some(admin_url);
        })
        .await
    }

    fn spawn(&self, name: &str, release: &Release) -> Result<Child, PortError> {
        let action = || format!("starting {} as {name}", self.config.service_binary.display());
        let log = open_log(&self.config.log_dir, name).map_err(|error| PortError::io(action(), error))?;
        let same_log = log.try_clone().map_err(|error| PortError::io(action(), error))?;
        let bundle = std::path::absolute(&release.bundle_dir).map_err(|error| PortError::io(action(), error))?;
        let passed = PASSED_VARIABLES.iter().filter_map(|key| Some((key, std::env::var_os(key)?)));
        Command::new(&self.config.service_binary)
            .arg("--bundle")
            .arg(bundle)
            .args(["--model-version", &release.model.to_string(), "--replica", name])
            .args(["--listen", &SocketAddr::new(self.config.listen, self.port).to_string()])
            .args(["--admin-listen", "127.0.0.1:0", "--admin-port-file"])
            .arg(self.port_file(name))
            .args(["--drain-linger-secs", &self.config.linger.as_secs().to_string()])
            .env_clear()
            .envs(passed)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(same_log)
            // A group of its own: a Ctrl-C at the daemon's terminal must not stop the service.
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| PortError::io(action(), error))
    }

    fn port_file(&self, name: &str) -> PathBuf {
        port_files(&self.config.state_dir).join(name)
    }

    async fn wait_until_ready(&self, name: &str, deadline: Instant) -> Result<String, PortError> {
        let action = || format!("starting replica {name}");
        let mut last_answer = "it has not opened its administrative port".to_owned();
        loop {
            let record = self.state().replicas.into_iter().find(|record| record.name == name);
            if let Some(ending) = record.and_then(|record| self.ended(&record)) {
                let message = format!("{} before it was ready", ending.reason);
                return Err(PortError::new(ending.kind, action(), self.with_log_tail(name, &message)));
            }
            if let Ok(text) = fs::read_to_string(self.port_file(name)) {
                let admin_url = format!("http://{}", text.trim());
                match self.probe_started(name, &admin_url).await {
                    Ok(()) => return Ok(admin_url),
                    Err(reason) => last_answer = reason,
                }
            }
            if Instant::now() >= deadline {
                let message = format!("not ready before the deadline: {last_answer}");
                return Err(PortError::new(ErrorKind::Timeout, action(), self.with_log_tail(name, &message)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether a new replica is ready, and clients reach it.
    async fn probe_started(&self, name: &str, admin_url: &str) -> Result<(), String> {
        self.probe(admin_url).await?;
        self.ask_public_port(&[name]).await.reach(name)
    }

    fn with_log_tail(&self, name: &str, message: &str) -> String {
        let tail = log_tail(&self.config.log_dir, name);
        let log = log_path(&self.config.log_dir, name);
        format!("{message}; the end of {}: {tail}", log.display())
    }

    /// Whether the replica says that it is ready, or what it says instead.
    pub(super) async fn probe(&self, admin_url: &str) -> Result<(), String> {
        let answer = self.http.get(format!("{admin_url}/health/ready")).send().await;
        let answer = answer.map_err(|error| format!("/health/ready: {}", delayd_core::error::chain(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = delayd_core::http_client::read_beginning(answer).await;
        let body: String = String::from_utf8_lossy(&body).chars().take(QUOTED_ANSWER_CHARS).collect();
        Err(format!("/health/ready answered {status}: {body}"))
    }

    /// How the replica's process ended; `None` while it runs.
    pub(super) fn ended(&self, record: &ReplicaRecord) -> Option<Ending> {
        let mut lives = self.lives();
        if let Some(child) = lives.get_mut(&record.name).and_then(|life| life.child.as_mut()) {
            return match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(self.ending(&record.name, status)),
                Err(error) => Some(Ending { kind: ErrorKind::of_io(&error), reason: error.to_string() }),
            };
        }
        if record.process.as_ref().is_some_and(ProcessIdentity::is_alive) {
            return None;
        }
        // Only a parent learns the exit status.
        let reason = format!("{} is gone (an earlier daemon started it, so its exit status is unknown)", record.name);
        Some(Ending { kind: ErrorKind::Interrupted, reason })
    }

    fn ending(&self, name: &str, status: ExitStatus) -> Ending {
        if let Some(signal) = status.signal() {
            let signal = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            return Ending { kind: ErrorKind::Interrupted, reason: format!("{name} was killed by {signal}") };
        }
        let port_taken = log_tail(&self.config.log_dir, name).contains("Address already in use");
        // A replica that gives up by itself does so because of its bundle or its arguments.
        let kind = if port_taken { ErrorKind::Conflict } else { ErrorKind::Invalid };
        let code = status.code().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        Ending { kind, reason: format!("{name} exited with {code}") }
    }

    /// Tells a replica to stop and waits until it accepts no more connections.
    /// Its last requests and its sketches are left to it.
    pub(super) async fn drain(&self, name: &str) -> Result<(), PortError> {
        self.change_replica(name, |record| record.phase = Phase::Draining).await?;
        self.lives().entry(name.to_owned()).or_default().draining_since = Some(Instant::now());
        let Some(record) = self.state().replicas.into_iter().find(|record| record.name == name) else { return Ok(()) };
        let Some(process) = record.process else { return Ok(()) };
        process.signal(Signal::SIGTERM).map_err(|error| PortError::io(format!("stopping replica {name}"), error))?;
        let deadline = Instant::now() + self.config.drain_timeout;
        while process.is_alive() && process.listens_on(record.port) {
            if Instant::now() >= deadline {
                tracing::warn!(replica.name = name, "the replica still accepts requests and is killed");
                self.kill(name).await;
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Kills a replica and waits until it is gone.
    pub(super) async fn kill(&self, name: &str) {
        let child = self.lives().get_mut(name).and_then(|life| life.child.take());
        if let Some(mut child) = child {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            if let Err(error) = child.kill().await {
                tracing::warn!(replica.name = name, %error, "the replica cannot be killed");
            }
            return;
        }
        let record = self.state().replicas.into_iter().find(|record| record.name == name);
        let Some(process) = record.and_then(|record| record.process) else { return };
        if let Err(error) = process.signal(Signal::SIGKILL) {
            tracing::warn!(replica.name = name, %error, "the replica cannot be killed");
            return;
        }
        let deadline = Instant::now() + self.config.drain_timeout;
        while process.is_alive() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Drops a replica that is gone.
    pub(super) async fn forget(&self, name: &str) -> Result<(), PortError> {
        self.change(|state| state.replicas.retain(|record| record.name != name)).await?;
        self.lives().remove(name);
        match fs::remove_file(self.port_file(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(PortError::io(format!("removing the port file of {name}"), error))
            }
            _ => Ok(()),
        }
    }
}

/// How much of a log's end an error quotes.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 5;

/// The log file of a replica.
pub(super) fn log_path(folder: &Path, replica: &str) -> PathBuf {
    folder.join(format!("{replica}.log"))
}

/// Opens a replica's log for appending, so that cutting it back does not leave a hole.
pub(super) fn open_log(folder: &Path, replica: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(log_path(folder, replica))
}

/// The last few lines, in one; empty when there are none.
pub(super) fn log_tail(folder: &Path, replica: &str) -> String {
    let text = crate::local::tail(&log_path(folder, replica), TAIL_BYTES);
    let text = text.unwrap_or_else(|error| format!("(its log cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

/// Cuts back every log above `max_bytes` (the replica's previous part is kept as
/// `.log.1`) and removes the oldest beyond `keep_files`, but none in `in_use`.
pub(super) fn rotate_logs(folder: &Path, max_bytes: u64, keep_files: usize, in_use: &[String]) -> io::Result<()> {
    let mut unused = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((replica, part)) = name.split_once(".log") else { continue };
        let metadata = fs::metadata(&path)?;
        if part.is_empty() && metadata.len() > max_bytes {
            fs::copy(&path, path.with_extension("log.1"))?;
            OpenOptions::new().write(true).open(&path)?.set_len(0)?;
        }
        if !in_use.iter().any(|used| used == replica) {
            unused.push((metadata.modified()?, path));
        }
    }
    unused.sort();
    let surplus = unused.len().saturating_sub(keep_files);
    unused.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_grew_is_cut_back_while_its_replica_writes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open_log(folder.path(), "a").unwrap();
        log.write_all(&[b'x'; 2000]).unwrap();
        rotate_logs(folder.path(), 1000, 10, &["a".to_owned()]).unwrap();
        log.write_all(b"after\n").unwrap();
        assert_eq!(fs::read(log_path(folder.path(), "a")).unwrap(), b"after\n");
        assert_eq!(fs::metadata(folder.path().join("a.log.1")).unwrap().len(), 2000);
    }

    #[test]
    fn only_logs_of_replicas_that_are_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            open_log(folder.path(), name).unwrap();
        }
        rotate_logs(folder.path(), 1000, 1, &["a".to_owned(), "b".to_owned()]).unwrap();
        let left = ["a", "b", "c", "d"].map(|name| log_path(folder.path(), name).exists());
        assert_eq!((left[0], left[1]), (true, true));
        assert_eq!(left.iter().filter(|kept| **kept).count(), 3);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open_log(folder.path(), "a").unwrap();
        for number in 0..2000 {
            writeln!(log, "line {number}").unwrap();
        }
        assert_eq!(log_tail(folder.path(), "a"), "line 1995 | line 1996 | line 1997 | line 1998 | line 1999");
    }
}
