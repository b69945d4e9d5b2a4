//! `delayd train-job`: a worker of a training run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::Instrument as _;

use super::args::TrainJobArgs;
use super::commands::{CliError, stop_signal};
use crate::adapters::open;
use crate::adapters::wrap::{RetryPolicy, Retrying};
use crate::config::Settings;
use crate::error::{PortError, chain};
use crate::ports::ObjectStore;
use crate::telemetry::worker_span;
use crate::training::worker::{WorkEnd, run_work};

/// A store that is away for a moment must not cost hours of training: about two
/// minutes are waited before the worker fails and its pod is started again.
const STORE_RETRY: RetryPolicy =
    RetryPolicy { attempts: 12, base_delay: Duration::from_millis(200), max_delay: Duration::from_secs(20) };

pub(super) async fn run(settings: &Settings, args: TrainJobArgs) -> Result<String, CliError> {
    let store = open::object_store(settings).map_err(CliError::TrainingJob)?;
    let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, STORE_RETRY));
    let scratch = Scratch::new(args.scratch)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let work = run_work(store, &args.job, &scratch.0, cancel.clone()).instrument(worker_span(&args.job));
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        signal = stop_signal() => {
            tracing::info!(signal, "stopping; the work is begun anew where it is still wanted");
            cancel.store(true, Ordering::Relaxed);
            work.await
        }
    };
    match ended {
        Ok(WorkEnd::Done) => Ok(format!("{} is done", args.job)),
        Ok(WorkEnd::Found) => Ok(format!("{} was done already", args.job)),
        Err(error) => Err(CliError::TrainingJob(error)),
    }
}

/// A folder of this process, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: Option<PathBuf>) -> Result<Self, CliError> {
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let folder = parent.join(format!("delayd-train-job-{}", std::process::id()));
        let made = std::fs::create_dir_all(&folder).map(|()| Self(folder.clone()));
        made.map_err(|error| CliError::TrainingJob(PortError::io(format!("making {}", folder.display()), error)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(error = chain(&error), "temporary files stay at {}", self.0.display());
        }
    }
}
