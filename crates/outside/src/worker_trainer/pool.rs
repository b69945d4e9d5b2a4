//! Who runs workers.

use std::fmt;

use async_trait::async_trait;

use delayd_core::error::PortError;
use delayd_core::ids::{RunId, TraceId};
use delayd_training_job::documents::Work;

/// One worker, by its place in a run. Its name is the same after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// For which run.
    pub run: RunId,
    /// Which part: `training`, `trial-2-round-0`.
    pub part: String,
    /// Where its documents lie. Two workers of the same name and other work are told
    /// apart by it.
    pub work: Work,
    /// The trace that its log belongs to.
    pub trace: Option<TraceId>,
}

impl Worker {
    /// What an error of this worker says was being done.
    #[must_use]
    pub fn action(&self) -> String {
        format!("training {}, worker `{}`", self.run, self.part)
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.part)
    }
}

/// How a worker is doing.
#[derive(Debug)]
pub enum WorkerState {
    /// There is none: it never was, or somebody removed it.
    Absent,
    /// Not started yet, and why.
    Waiting(String),
    /// At work, or between two attempts.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise, and will not be tried again.
    Failed(PortError),
}

/// Runs `delayd-train` somewhere.
///
/// Contract: `start` of a worker that runs or succeeded changes nothing, one that
/// failed, or did other work under the same name, is replaced; `stop` and `forget` of
/// what is not there are no errors, and after them nothing runs.
#[async_trait]
pub trait WorkerPool: Send + Sync + fmt::Debug {
    /// Starts a worker.
    async fn start(&self, worker: &Worker) -> Result<(), PortError>;
    /// How it is doing.
    async fn state(&self, worker: &Worker) -> Result<WorkerState, PortError>;
    /// Stops and removes a worker.
    async fn stop(&self, worker: &Worker) -> Result<(), PortError>;
    /// Stops and removes every worker of a run.
    async fn forget(&self, run: RunId) -> Result<(), PortError>;
    /// Whether workers could be run. Changes nothing.
    async fn probe(&self) -> Result<String, PortError>;
}
