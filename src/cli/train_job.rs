//! `delayd train-job`: a worker of a training run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tracing::Instrument as _;

use super::args::TrainJobArgs;
use super::commands::{CliError, stop_signal};
use crate::adapters::open;
use crate::adapters::wrap::{RetryPolicy, Retrying};
use crate::config::Settings;
use crate::error::{PortError, chain};
use crate::own_folder;
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
    let scratch = scratch(args.scratch)?;
    let cancel = Arc::new(AtomicBool::new(false));
    let ended = {
        let work = run_work(store, &args.job, scratch.path(), cancel.clone()).instrument(worker_span(&args.job));
        tokio::pin!(work);
        tokio::select! {
            ended = &mut work => ended,
            signal = stop_signal() => {
                tracing::info!(signal, "stopping; the work is begun anew where it is still wanted");
                cancel.store(true, Ordering::Relaxed);
                work.await
            }
        }
    };
    let path = scratch.path().to_owned();
    if let Err(error) = scratch.close() {
        tracing::warn!(error = chain(&error), "temporary files stay at {}", path.display());
    }
    match ended {
        Ok(WorkEnd::Done) => Ok(format!("{} is done", args.job)),
        Ok(WorkEnd::Found) => Ok(format!("{} was done already", args.job)),
        Err(error) => Err(CliError::TrainingJob(error)),
    }
}

/// A folder of this process alone.
fn scratch(parent: Option<PathBuf>) -> Result<TempDir, CliError> {
    let parent = parent.unwrap_or_else(own_folder::system_temporary);
    let made = std::fs::create_dir_all(&parent).and_then(|()| own_folder::temporary(&parent, "delayd-train-job-"));
    made.map_err(|error| {
        CliError::TrainingJob(PortError::io(format!("making a temporary folder in {}", parent.display()), error))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_workers_folder_is_new_and_its_own_whatever_lies_where_it_could_be_guessed() {
        let parent = tempfile::tempdir().unwrap();
        let guessed = parent.path().join(format!("delayd-train-job-{}", std::process::id()));
        std::fs::create_dir(&guessed).unwrap();
        let scratch = scratch(Some(parent.path().to_owned())).unwrap();
        assert_ne!(scratch.path(), guessed);
        assert_eq!(std::fs::metadata(scratch.path()).unwrap().permissions().mode() & 0o777, 0o700);
        scratch.close().unwrap();
        let left: Vec<_> = std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [guessed]);
    }
}
