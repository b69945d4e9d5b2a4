//! `delayd-train`: one piece of a training job. The daemon starts it as a process beside itself, a Kubernetes Job as a
//! pod; it needs the object store and nothing else: no ledger, no cluster.

use std::io::Write as _;
use std::io::{BufRead as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::own_folder;
use delayd_core::ports::ObjectStore;
use delayd_core::spans::worker_span;
use delayd_outside::object_store::ObjectStoreSettings;
use delayd_outside::wrap::{RetryPolicy, Retrying};
use delayd_train::device;
use delayd_train::worker::{WorkEnd, run_work};
use delayd_training_job::params::DevicePreference;
use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use serde::Deserialize;
use tracing::Instrument as _;

/// A store that is unavailable for a moment must not cost hours of training: about two minutes are waited before the
/// worker fails and is started again.
const STORE_RETRY: RetryPolicy =
    RetryPolicy { attempts: 12, base_delay: Duration::from_millis(200), max_delay: Duration::from_secs(20) };

/// Do one piece of a training job. The daemon writes the document and starts the worker; nobody needs to call this by
/// hand.
#[derive(Debug, Parser)]
#[command(name = "delayd-train")]
struct Arguments {
    /// Key of the document in the object store, `training-jobs/run_7/training-0123456789ab/job.json`.
    #[arg(long, value_name = "KEY", required_unless_present = "probe")]
    job: Option<String>,
    /// The daemon's configuration, of which the object store is read; the environment replaces single keys.
    #[arg(long, value_name = "FILE", env = "DELAYD_CONFIG")]
    config: Option<PathBuf>,
    /// The state directory, as for the daemon: where the object store is a folder without a path, it lies there.
    #[arg(long, value_name = "DIR", env = "DELAYD_STATE")]
    state: Option<PathBuf>,
    /// Read the settings as one line of JSON from standard input, and stop when it ends. They count whatever the daemon's
    /// own environment, which a worker inherits, names besides.
    #[arg(long)]
    settings_from_stdin: bool,
    /// Folder for temporary files; the system's when left out.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Say what would be trained on, and end.
    #[arg(long)]
    probe: bool,
}

/// The part of the daemon's configuration that a worker reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkerSettings {
    daemon: DaemonSection,
    object_store: ObjectStoreSettings,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct DaemonSection {
    state_dir: PathBuf,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self { state_dir: PathBuf::from("var/delayd") }
    }
}

fn main() -> ExitCode {
    delayd_core::build::tell_commit(delayd_commit::commit!());
    let mut command = Arguments::command().version(&*delayd_core::build::version().leak());
    let arguments = match Arguments::from_arg_matches(&command.get_matches_mut()) {
        Ok(arguments) => arguments,
        Err(error) => error.format(&mut command).exit(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(PortError::io("starting the worker", error)),
    };
    match done {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("delayd-train: {}", chain(&error));
            ExitCode::from(exit_status(error.kind()))
        }
    }
}

/// As `sysexits.h` and the shell have them, so that a pool knows what may be retried.
fn exit_status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Cancelled => 143,
        ErrorKind::Invalid | ErrorKind::Corrupt => 2,
        ErrorKind::NotFound => 4,
        ErrorKind::Denied => 5,
        kind if kind.is_retryable() => 75,
        _ => 1,
    }
}

async fn run(arguments: Arguments) -> Result<String, PortError> {
    if arguments.probe {
        return probe();
    }
    // A second subscriber in one process cannot be; there is none before this.
    let _ = tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DELAYD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .try_init();
    let job = arguments.job.unwrap_or_default();
    let cancel = Arc::new(AtomicBool::new(false));
    let mut settings =
        if arguments.settings_from_stdin { given(cancel.clone())? } else { configured(arguments.config.as_deref())? };
    if let Some(state_dir) = arguments.state.filter(|_| !arguments.settings_from_stdin) {
        settings.daemon.state_dir = state_dir;
    }
    let store = settings.object_store.open(&settings.daemon.state_dir)?;
    let store: Arc<dyn ObjectStore> = Arc::new(Retrying::new(store, STORE_RETRY));
    let scratch = scratch(arguments.scratch)?;
    let work = run_work(store, &job, scratch.path(), cancel.clone()).instrument(worker_span(&job));
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        signal = stop_signal() => {
            tracing::info!(signal, "stopping; the daemon restarts the work if it still needs it");
            cancel.store(true, Ordering::Relaxed);
            work.await
        }
    };
    ended.map(|ended| match ended {
        WorkEnd::Done => format!("{job} is done"),
        WorkEnd::Found => format!("{job} was done already"),
    })
}

fn probe() -> Result<String, PortError> {
    let (_, device) = device::choose(DevicePreference::Auto)
        .map_err(|error| PortError::new(error.kind(), "choosing a device", chain(&error)))?;
    Ok(format!("{device}, libtorch {}", device::LIBTORCH_VERSION))
}

fn configured(file: Option<&std::path::Path>) -> Result<WorkerSettings, PortError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| PortError::io(format!("reading configuration file {}", path.display()), error))?;
        figment = figment.merge(Toml::string(&text));
    }
    figment
        .merge(Env::prefixed("DELAYD__").split("__"))
        .extract()
        .map_err(|error| PortError::new(ErrorKind::Invalid, "reading the configuration", error.to_string()))
}

/// Settings as the daemon gives them. When standard input ends, the daemon is gone and the work stops.
fn given(cancel: Arc<AtomicBool>) -> Result<WorkerSettings, PortError> {
    let action = "reading the settings from standard input";
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| PortError::io(action, error))?;
    // What is wrong is not reported: the line holds secrets.
    let settings = serde_json::from_str(&line).map_err(|_| {
        PortError::new(ErrorKind::Invalid, action, "expected one line of JSON, as the daemon writes it")
    })?;
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An error is an end too.
        let _ = std::io::stdin().lock().read_to_end(&mut rest);
        tracing::info!("standard input closed: the daemon no longer waits for this work");
        cancel.store(true, Ordering::Relaxed);
    });
    Ok(settings)
}

/// A folder of this process alone, removed at its end.
fn scratch(parent: Option<PathBuf>) -> Result<tempfile::TempDir, PortError> {
    let parent = parent.unwrap_or_else(own_folder::system_temporary);
    let made = std::fs::create_dir_all(&parent).and_then(|()| own_folder::temporary(&parent, "delayd-train-"));
    made.map_err(|error| PortError::io(format!("making a folder for temporary files in {}", parent.display()), error))
}

async fn stop_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_workers_folder_is_new_and_its_own_whatever_lies_where_it_could_be_guessed() {
        let parent = tempfile::tempdir().unwrap();
        let guessed = parent.path().join(format!("delayd-train-{}", std::process::id()));
        std::fs::create_dir(&guessed).unwrap();
        let scratch = scratch(Some(parent.path().to_owned())).unwrap();
        assert_ne!(scratch.path(), guessed);
        assert_eq!(std::fs::metadata(scratch.path()).unwrap().permissions().mode() & 0o777, 0o700);
        scratch.close().unwrap();
        let left: Vec<_> = std::fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [guessed]);
    }
}
