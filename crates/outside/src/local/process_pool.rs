//! Training workers as processes of this machine: `delayd-train`, one for each piece of work.
//!
//! A worker is given the object store's settings on its standard input, which stays open for as long as the daemon
//! lives: a worker that reads its end stops, so that none outlives the daemon that would read its result. What a worker
//! says is kept beside the run, and its last lines are told where it fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::worker_trainer::{Worker, WorkerPool, WorkerState};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::RunId;
use delayd_core::spans::TRACEPARENT;

/// How long a worker that was told to stop may take before it is killed. It stops within a batch.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// The end of a worker's log that is told where it failed, in bytes.
const SHOWN_BYTES: u64 = 2000;

/// Runs workers as processes.
pub struct ProcessPool {
    program: PathBuf,
    settings: String,
    state_dir: PathBuf,
    workers: Mutex<BTreeMap<(RunId, String), Started>>,
}

#[derive(Debug)]
struct Started {
    document: String,
    child: Child,
    log: PathBuf,
    /// Kept open: its end tells the worker that nobody waits any more.
    _alive: ChildStdin,
}

impl std::fmt::Debug for ProcessPool {
    /// Without the settings: they hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessPool").field("program", &self.program).finish_non_exhaustive()
    }
}

impl ProcessPool {
    /// A pool that runs `program`, to each worker of which `settings` are given: one line of JSON, secrets included. The
    /// workers' logs and temporary files lie under `state_dir/runs`.
    #[must_use]
    pub fn new(program: PathBuf, settings: &Value, state_dir: PathBuf) -> Self {
        Self { program, settings: format!("{settings}\n"), state_dir, workers: Mutex::default() }
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<(RunId, String), Started>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, worker: &Worker) -> Option<Started> {
        self.workers().remove(&(worker.run, worker.part.clone()))
    }

    fn failed_start(&self, action: String, error: std::io::Error) -> PortError {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let hint = if missing { "; it is installed beside delayd, or named by trainer.program" } else { "" };
        let message = format!("{} cannot be started: {error}{hint}", self.program.display());
        PortError::new(ErrorKind::of_io(&error), action, message)
    }

    async fn spawn(&self, worker: &Worker, document: String) -> Result<Started, PortError> {
        let action = worker.action();
        let folder = self.state_dir.join("runs").join(worker.run.to_string());
        let io = |error: std::io::Error| PortError::io(format!("{action}: its folder {}", folder.display()), error);
        std::fs::create_dir_all(&folder).map_err(io)?;
        let log = folder.join(format!("{}.log", worker.part));
        let out = File::create(&log).map_err(io)?;
        let mut command = Command::new(&self.program);
        command
            .args(["--settings-from-stdin", "--job", &document, "--scratch"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(io)?)
            .stderr(out)
            .kill_on_drop(true);
        if let Some(trace) = worker.trace {
            command.env(TRACEPARENT, trace.traceparent("train"));
        }
        let mut child = command.spawn().map_err(|error| self.failed_start(action.clone(), error))?;
        let mut alive = child
            .stdin
            .take()
            .ok_or_else(|| PortError::new(ErrorKind::Internal, action.as_str(), "the worker has no standard input"))?;
        if let Err(error) = alive.write_all(self.settings.as_bytes()).await {
            // It ended at once; its status and log say why.
            tracing::warn!(worker = %worker, error = %error, "the worker did not read its settings");
        }
        Ok(Started { document, child, log, _alive: alive })
    }
}

/// Asks a worker to stop, and kills it where that does not help.
async fn end(mut started: Started) -> std::io::Result<()> {
    if let Some(pid) = started.child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended by itself meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_GRACE, started.child.wait()).await.is_err() {
        started.child.kill().await?;
    }
    Ok(())
}

/// Why a process ended, for people: a status, or the signal that ended it.
fn why_it_ended(status: std::process::ExitStatus) -> (ErrorKind, String) {
    use std::os::unix::process::ExitStatusExt as _;
    match status.signal() {
        // What the kernel ends for want of memory gets no other signal.
        Some(9) => (ErrorKind::Exhausted, "it was killed by the system, for want of memory perhaps".to_owned()),
        Some(signal) => (ErrorKind::Interrupted, format!("it was ended by signal {signal}")),
        None => (ErrorKind::Interrupted, format!("it ended with {status}")),
    }
}

#[async_trait]
impl WorkerPool for ProcessPool {
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        let document = worker.work.document_key();
        if let Some(mut there) = self.take(worker) {
            let io = |error| PortError::io(worker.action(), error);
            let fine = there.child.try_wait().map_err(io)?.is_none_or(|status| status.success());
            if fine && there.document == document {
                self.workers().insert((worker.run, worker.part.clone()), there);
                return Ok(());
            }
            end(there).await.map_err(io)?;
        }
        let started = self.spawn(worker, document).await?;
        self.workers().insert((worker.run, worker.part.clone()), started);
        Ok(())
    }

    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError> {
        let mut workers = self.workers();
        let Some(started) = workers.get_mut(&(worker.run, worker.part.clone())) else {
            return Ok(WorkerState::Absent);
        };
        let status = started.child.try_wait().map_err(|error| PortError::io(worker.action(), error))?;
        Ok(match status {
            None => WorkerState::Running,
            Some(status) if status.success() => WorkerState::Succeeded,
            Some(status) => {
                let (kind, why) = why_it_ended(status);
                let words =
                    super::tail(&started.log, SHOWN_BYTES).unwrap_or_else(|error| format!("(its log: {error})"));
                WorkerState::Failed(PortError::new(kind, worker.action(), format!("{why}: {words}")))
            }
        })
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        match self.take(worker) {
            Some(started) => end(started).await.map_err(|error| PortError::io(worker.action(), error)),
            None => Ok(()),
        }
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        let ended: Vec<Started> = {
            let mut workers = self.workers();
            let ids: Vec<_> = workers.keys().filter(|(of, _)| *of == run).cloned().collect();
            ids.iter().filter_map(|id| workers.remove(id)).collect()
        };
        for started in ended {
            end(started).await.map_err(|error| PortError::io(format!("forgetting {run}"), error))?;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        let action = "asking the training worker what it trains on";
        let asked = Command::new(&self.program).arg("--probe").stdin(Stdio::null()).output().await;
        let answer = asked.map_err(|error| self.failed_start(action.to_owned(), error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if answer.status.success() {
            Ok(format!("processes of this machine, {}", text(&answer.stdout)))
        } else {
            let message = format!("{} says: {}", self.program.display(), text(&answer.stderr));
            Err(PortError::new(ErrorKind::Unavailable, action, message))
        }
    }
}
