//! What each command does.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::alerts;
use super::args::{Cli, Command, ReasonArgs, ReplayArgs};
use super::check;
use super::display::TerminalDisplay;
use super::images;
use super::remote::Remote;
use super::show::{self, Shown};
use super::train_job;
use crate::config::{ConfigError, Settings};
use crate::coordinator::messages::CommandKind;
use crate::daemon::{Daemon, StartError, ledger_path};
use crate::env::SystemClock;
use crate::error::{ErrorKind, PortError, chain};
use crate::http::{ApiState, Metrics, serve};
use crate::ledger::{Ledger, LedgerError};
use crate::replay::{ReplayError, ReplayOptions, replay, report};
use crate::telemetry;

/// Why a command failed. The exit status follows from it.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No daemon answers.
    #[error("{0}")]
    NoDaemon(String),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
    /// Something asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The ledger cannot be read.
    #[error("{0}")]
    Ledger(String),
    /// The daemon cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The replay failed.
    #[error("{0}")]
    Replay(String),
    /// A check found something.
    #[error("{0} of the checks failed")]
    Checks(usize),
    /// A training job failed.
    #[error("{}", chain(.0))]
    TrainingJob(PortError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit status: 2 for wrong input, 3 where no daemon answers, 4 for what
    /// is not there, 5 for a refusal, 75 (`EX_TEMPFAIL` of sysexits.h) for a training
    /// job that may succeed later, 143 (128 + SIGTERM) for one that was told to stop,
    /// 1 for all else.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::NoDaemon(_) => 3,
            Self::NotFound(_) => 4,
            Self::Refused(_) => 5,
            Self::TrainingJob(error) => match error.kind() {
                ErrorKind::Cancelled => 143,
                ErrorKind::Invalid | ErrorKind::Corrupt => 2,
                ErrorKind::NotFound => 4,
                ErrorKind::Denied => 5,
                kind if kind.is_retryable() => 75,
                _ => 1,
            },
            _ => 1,
        }
    }
}

impl From<LedgerError> for CliError {
    fn from(error: LedgerError) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::NotFound(chain(&error)),
            _ => Self::Ledger(chain(&error)),
        }
    }
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        Self::Replay(chain(&error))
    }
}

/// Runs a command; answers what is to be printed on standard output.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cli: Cli) -> Result<String, CliError> {
    let quiet = !matches!(cli.command, Command::Run | Command::TrainJob(_));
    telemetry::init(quiet, cli.verbose);
    let mut settings = Settings::load(cli.config.as_deref())?;
    if let Some(state) = cli.state {
        settings.daemon.state_dir = state;
    }
    let shown = match cli.command {
        Command::Run => return daemon(settings).await.map(|()| String::new()),
        Command::Replay(args) => return replayed(settings, args, cli.json).await,
        Command::TrainJob(args) => return train_job::run(&settings, args).await,
        Command::Check => return check::run(&settings, cli.json).await,
        Command::Config => {
            let text = settings.to_toml().map_err(|error| CliError::Failed(error.to_string()))?;
            Shown::new(&settings, text)?
        }
        Command::Status => status(&settings).await?,
        Command::Cycles { cycle, limit } => show::cycles(&read(&settings)?, cycle, limit).await?,
        Command::Models { model } => show::models(&read(&settings)?, model).await?,
        Command::Lineage { model } => show::lineage(&read(&settings)?, model).await?,
        Command::Why { decision } => show::why(&read(&settings)?, decision).await?,
        Command::Image { model, github_output, dotenv } => {
            let form = match (github_output, dotenv) {
                (true, _) => images::Form::GithubOutput,
                (_, true) => images::Form::Dotenv,
                _ => images::Form::Text,
            };
            images::image(&read(&settings)?, model, form).await?
        }
        Command::BuildLog { cycle } => images::build_log(&settings, cycle)?,
        Command::Drift { limit } => show::drift(&read(&settings)?, limit).await?,
        Command::Alerts(args) => match args.retry {
            Some(which) => alerts::retry(&settings, which, &args.reason).await?,
            None => alerts::show(&read(&settings)?, &args).await?,
        },
        Command::Silence(args) => alerts::silence(&settings, &args).await?,
        Command::Silences(args) => match alerts::end(&settings, &args).await? {
            Some(ended) => ended,
            None => alerts::silences(&read(&settings)?, args.limit).await?,
        },
        Command::Retrain(reason) => command(&settings, CommandKind::Retrain, &reason).await?,
        Command::Rollback(reason) => command(&settings, CommandKind::Rollback, &reason).await?,
        Command::Approve(reason) => command(&settings, CommandKind::Approve, &reason).await?,
        Command::Reject(reason) => command(&settings, CommandKind::Reject, &reason).await?,
        Command::Pause(reason) => command(&settings, CommandKind::Pause, &reason).await?,
        Command::Resume(reason) => command(&settings, CommandKind::Resume, &reason).await?,
    };
    shown.render(cli.json)
}

fn read(settings: &Settings) -> Result<Ledger, CliError> {
    let path = ledger_path(&settings.daemon.state_dir);
    if !path.exists() {
        return Err(CliError::NotFound(format!(
            "there is no ledger at {}; run `delayd replay` or `delayd run` first, or name the state directory with --state",
            path.display()
        )));
    }
    Ok(Ledger::open_read_only(&path)?)
}

async fn status(settings: &Settings) -> Result<Shown, CliError> {
    match Remote::new(settings, None)?.status().await {
        Some(status) => show::live_status(&status),
        None => show::stored_status(&read(settings)?).await,
    }
}

async fn command(settings: &Settings, kind: CommandKind, reason: &ReasonArgs) -> Result<Shown, CliError> {
    let answer = Remote::new(settings, reason.url.as_deref())?.command(kind, reason).await?;
    Shown::new(&answer, answer.message.clone())
}

/// `delayd run`.
async fn daemon(settings: Settings) -> Result<(), CliError> {
    let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
    let listen = settings.daemon.http_listen.clone();
    let listener = TcpListener::bind(&listen).map_err(|error| {
        CliError::Failed(format!(
            "the status endpoint cannot listen on {listen}: {error}; daemon.http_listen names another address"
        ))
    })?;
    let (gave_up, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    let daemon = Daemon::start(settings, Arc::new(SystemClock), Arc::new(metrics.clone()), move |gone| {
        // Without a receiver the process is ending already.
        let _ = gave_up.send(gone);
    })?;
    let state = ApiState {
        env: daemon.env.clone(),
        state_dir: daemon.settings.daemon.state_dir.clone(),
        coordinator: daemon.coordinator.clone(),
        supervision: daemon.supervision().clone(),
        metrics,
    };
    let server = serve(state, listener).map_err(|error| CliError::Failed(error.to_string()))?;
    let handle = server.handle();
    actix_web::rt::spawn(server);
    tracing::info!(http.listen = listen, service.url = daemon.env.cluster.service_url(), "delayd is up");
    let ended = tokio::select! {
        () = daemon.run_timers() => Ok(()),
        gone = given_up.recv() => {
            let what = gone.map_or_else(String::new, |gone| format!("actor `{}` keeps dying: {}", gone.actor, gone.failure));
            Err(CliError::Failed(format!("{what}; the daemon gives up so that it is started anew")))
        }
        signal = stop_signal() => {
            tracing::info!(signal, "stopping; replicas keep serving, and a cycle under way goes on at the next start");
            Ok(())
        }
    };
    // Replicas are processes of their own: they serve on while the daemon is away.
    let _ = tokio::time::timeout(Duration::from_secs(5), handle.stop(true)).await;
    ended
}

pub(super) async fn stop_signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// `delayd replay`.
async fn replayed(mut settings: Settings, args: ReplayArgs, json: bool) -> Result<String, CliError> {
    if let Some(seed) = args.seed {
        settings.training.seed = seed;
    }
    fresh_state(&settings)?;
    let options = ReplayOptions {
        data: args.data,
        train_from: args.train_from,
        train_until: args.train_until,
        until: args.until,
        out: args.out,
    };
    let display = Arc::new(TerminalDisplay::new());
    let (report, files) = replay(&options, settings, display).await?;
    if json {
        return serde_json::to_string_pretty(&report).map_err(|error| CliError::Failed(error.to_string()));
    }
    Ok(report::summary(&report, &files, std::io::stdout().is_terminal()))
}

/// A replay begins with an empty state. What an earlier replay left is removed;
/// the state of anything else is not touched.
fn fresh_state(settings: &Settings) -> Result<(), CliError> {
    const MARK: &str = ".replay";
    let dir = &settings.daemon.state_dir;
    let failed = |error: std::io::Error| CliError::Failed(format!("state directory {}: {error}", dir.display()));
    let empty = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if !empty && !dir.join(MARK).exists() {
        return Err(CliError::Failed(format!(
            "{} holds the state of a daemon, and a replay begins with none; name another directory with --state",
            dir.display()
        )));
    }
    if !empty {
        std::fs::remove_dir_all(dir).map_err(failed)?;
    }
    std::fs::create_dir_all(dir).map_err(failed)?;
    std::fs::write(dir.join(MARK), "made by `delayd replay`; the next replay removes it\n").map_err(failed)
}
