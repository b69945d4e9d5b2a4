//! Workers as processes that outlive whoever started them: the cluster's part in tests that have none. The daemon's own
//! pool of processes is `delayd_outside::local::ProcessPool`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::RunId;
use delayd_outside::worker_trainer::{Worker, WorkerPool, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs::training_program;

/// What the pool remembers; clones share it, as daemons share a cluster.
#[derive(Debug, Clone)]
pub struct ProcessPool(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    config: PathBuf,
    logs: PathBuf,
    /// Where its workers put their temporary files.
    scratch: PathBuf,
    workers: BTreeMap<(RunId, String), Started>,
    /// Starts, by part.
    starts: Vec<String>,
}

#[derive(Debug)]
struct Started {
    document: String,
    child: Child,
    log: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for started in self.workers.values_mut() {
            let _ = started.child.kill();
            let _ = started.child.wait();
        }
    }
}

impl ProcessPool {
    /// A pool whose workers use the folder store at `store_dir`.
    pub fn new(place: &Path, store_dir: &Path) -> Self {
        let config = place.join("worker.toml");
        std::fs::write(&config, format!("[object_store]\nfolder = {:?}\n", store_dir.to_str().unwrap())).unwrap();
        let (logs, scratch) = (place.to_owned(), place.join("scratch"));
        std::fs::create_dir_all(&scratch).unwrap();
        Self(Arc::new(Mutex::new(Inner { config, logs, scratch, workers: BTreeMap::new(), starts: Vec::new() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The parts for which a worker was started, in order.
    pub fn starts(&self) -> Vec<String> {
        self.inner().starts.clone()
    }

    /// What its workers have left among their temporary files.
    pub fn temporary_files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.inner().scratch).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Sends a signal to a worker.
    pub fn signal(&self, run: RunId, part: &str, signal: Signal) {
        let inner = self.inner();
        let started = inner.workers.get(&(run, part.to_owned())).unwrap_or_else(|| panic!("no worker {part}"));
        kill(Pid::from_raw(i32::try_from(started.child.id()).unwrap()), signal).unwrap();
    }

    /// How many workers still run.
    pub fn running(&self) -> usize {
        self.inner()
            .workers
            .values_mut()
            .filter_map(|started| started.child.try_wait().unwrap().is_none().then_some(()))
            .count()
    }
}

/// A command that runs `delayd-train` with nothing of this test's environment.
pub fn worker_command() -> Command {
    let mut command = Command::new(training_program().unwrap_or_else(|missing| panic!("{missing}")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DELAYD_") {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// SIGTERM, and SIGKILL where it does not help.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = kill(pid, Signal::SIGTERM);
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[async_trait]
impl WorkerPool for ProcessPool {
    async fn start(&self, worker: &Worker) -> Result<(), PortError> {
        let mut inner = self.inner();
        let (id, document) = ((worker.run, worker.part.clone()), worker.work.document_key());
        if let Some(there) = inner.workers.get_mut(&id) {
            let fine = there.child.try_wait().unwrap().is_none_or(|status| status.success());
            if fine && there.document == document {
                return Ok(());
            }
            end(&mut there.child);
        }
        let log = inner.logs.join(format!("{}-{}.log", worker.run, worker.part));
        let out = File::create(&log).unwrap();
        let mut command = worker_command();
        command.arg("--config").arg(&inner.config).args(["--job", &document]);
        command.stdout(out.try_clone().unwrap()).stderr(out);
        command.env("TMPDIR", &inner.scratch);
        let child = command.spawn().unwrap();
        inner.starts.push(worker.part.clone());
        inner.workers.insert(id, Started { document, child, log });
        Ok(())
    }

    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError> {
        let mut inner = self.inner();
        let Some(started) = inner.workers.get_mut(&(worker.run, worker.part.clone())) else {
            return Ok(WorkerState::Absent);
        };
        Ok(match started.child.try_wait().unwrap() {
            None => WorkerState::Running,
            Some(status) if status.success() => WorkerState::Succeeded,
            Some(status) => {
                let words = std::fs::read_to_string(&started.log).unwrap_or_default();
                let message = format!("the process ended: {status}: {words}");
                WorkerState::Failed(PortError::new(ErrorKind::Interrupted, worker.action(), message))
            }
        })
    }

    async fn stop(&self, worker: &Worker) -> Result<(), PortError> {
        if let Some(mut started) = self.inner().workers.remove(&(worker.run, worker.part.clone())) {
            end(&mut started.child);
        }
        Ok(())
    }

    async fn forget(&self, run: RunId) -> Result<(), PortError> {
        let mut inner = self.inner();
        let ids: Vec<(RunId, String)> = inner.workers.keys().filter(|(of, _)| *of == run).cloned().collect();
        for id in ids {
            if let Some(mut started) = inner.workers.remove(&id) {
                end(&mut started.child);
            }
        }
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("processes of this machine".to_owned())
    }
}
