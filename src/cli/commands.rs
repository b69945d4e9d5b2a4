//! What each command does.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::alerts;
use super::args::{AlertsArgs, Cli, Command, ConnectArgs, ReplayArgs, SilencesArgs};
use super::backup;
use super::check;
use super::display::TerminalDisplay;
use super::endpoint::Endpoint;
use super::images;
use super::logs;
use super::manual;
use super::remote::Remote;
use super::show::{self, Shown};
use super::source::Source;
use super::sources_again;
use super::validate;
use super::watch;
use crate::config::{ConfigError, Settings};
use crate::cycle::commands::CommandKind;
use crate::daemon::{Daemon, StartError, ledger_path};
use crate::http::{Listeners, Metrics, openapi_document};
use crate::replay::{ReplayError, ReplayOptions, ReplaySpan, keep_for_a_daemon, replay, report};
use crate::service_manager::{PassedSockets, ServiceManager, Watchdog, attend, unhealthy_reason};
use crate::telemetry;
use delayd_core::clock::SystemClock;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::own_folder;
use delayd_ledger::{LedgerError, ensure_unused};

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
    /// The daemon knows the caller not, or not well enough.
    #[error("{0}")]
    Denied(String),
    /// An argument cannot be.
    #[error("{0}")]
    Usage(String),
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
    /// Flight logs that would not be taken in.
    #[error("{0} of the flight logs would be refused")]
    Logs(usize),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit status: 2 for wrong input, 3 where no daemon answers, 4 for what
    /// is not there, 5 for a refusal or a missing right, 75 (`EX_TEMPFAIL` of sysexits.h) for a training
    /// job that may succeed later, 143 (128 + SIGTERM) for one that was told to stop,
    /// 1 for all else.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => 2,
            Self::NoDaemon(_) => 3,
            Self::NotFound(_) => 4,
            Self::Refused(_) | Self::Denied(_) => 5,
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
    let quiet = !matches!(cli.command, Command::Run);
    telemetry::init(quiet, cli.verbose);
    // These need no configuration.
    match &cli.command {
        Command::Completions { shell } => return manual::completions(*shell),
        Command::Man { dir } => return manual::pages(dir),
        Command::Openapi => return pretty(&openapi_document()),
        _ => {}
    }
    let mut settings = Settings::load(cli.config.or_else(Settings::installed_file).as_deref())?;
    if let Some(state) = cli.state {
        settings.daemon.state_dir = state;
    }
    let state_dir = &settings.daemon.state_dir;
    own_folder::check(state_dir)
        .map_err(|error| CliError::Refused(format!("state directory {}: {error}", state_dir.display())))?;
    if matches!(cli.command, Command::Run | Command::Replay(_)) {
        telemetry::keep_cycle_logs(&settings.daemon.state_dir, telemetry::CycleLogPolicy::default());
    }
    let asking = Asking { settings, connect: cli.connect, json: cli.json };
    if let (Some(every_secs), true) = (cli.watch, cli.command.reads()) {
        let command = &cli.command;
        let asking = &asking;
        let answer = || async move { asking.read(command).await?.render(asking.json) };
        return watch::watch(every_secs, answer).await.map(|()| String::new());
    }
    if cli.watch.is_some() {
        return Err(CliError::Usage(
            "--watch goes with the commands that read, such as status, cycles, models".to_owned(),
        ));
    }
    match cli.command {
        Command::Run => daemon(asking.settings).await.map(|()| String::new()),
        Command::Replay(args) => replayed(asking.settings, args, asking.json).await,
        Command::Validate { files, airports } => {
            validate::run(&asking.settings, &files, airports.as_deref(), asking.json).await
        }
        Command::Check => check::run(&asking.settings, asking.json).await,
        Command::Events { after } => watch::events(&asking.remote()?, after, asking.json).await.map(|()| String::new()),
        Command::Health => asking.remote()?.health().await?.render(asking.json),
        Command::Backup { file } => backup::backup(&asking.settings, &file).await?.render(asking.json),
        Command::Recover { file } => backup::recover(&asking.settings, &file)?.render(asking.json),
        Command::Restore { file } => backup::restore(&asking.settings, &file)?.render(asking.json),
        command if command.reads() => asking.read(&command).await?.render(asking.json),
        command => asking.ask(command).await?.render(asking.json),
    }
}

fn pretty<T: serde::Serialize>(document: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(document).map_err(|error| CliError::Failed(error.to_string()))
}

/// What reading and asking commands share.
struct Asking {
    settings: Settings,
    connect: ConnectArgs,
    json: bool,
}

impl Asking {
    fn remote(&self) -> Result<Remote, CliError> {
        Remote::new(&self.settings, &self.connect)
    }

    /// Does what a reading command wants.
    async fn read(&self, command: &Command) -> Result<Shown, CliError> {
        if let Command::Config = command {
            let text = self.settings.to_toml().map_err(|error| CliError::Failed(error.to_string()))?;
            return Shown::new(&self.settings, text);
        }
        let source = &Source::open(&self.settings, &self.connect).await?;
        match command {
            Command::Cycles { cycle, limit } => show::cycles(source, *cycle, *limit).await,
            Command::Models { model } => show::models(source, *model).await,
            Command::Lineage { model } => show::lineage(source, *model).await,
            Command::Why { decision, limit } => show::why(source, *decision, *limit).await,
            Command::Image { model, github_output, dotenv } => {
                let form = match (github_output, dotenv) {
                    (true, _) => images::Form::GithubOutput,
                    (_, true) => images::Form::Dotenv,
                    _ => images::Form::Text,
                };
                images::image(source, *model, form).await
            }
            Command::Log { cycle, lines } => logs::cycle_log(source, &self.settings, *cycle, *lines).await,
            Command::BuildLog { cycle } => logs::build_log(source, &self.settings, *cycle).await,
            Command::Monitoring => show::monitoring(source).await,
            Command::Drift { report, limit } => show::drift(source, *report, *limit).await,
            Command::Objects { status, limit } => show::objects(source, *status, *limit).await,
            Command::Datasets { dataset: Some(prefix), verify: true, .. } => {
                sources_again::verify(source, &self.settings, prefix).await
            }
            Command::Datasets { dataset: Some(prefix), rebuild: true, .. } => {
                sources_again::rebuild(source, &self.settings, prefix).await
            }
            Command::Datasets { dataset, limit, .. } => show::datasets(source, dataset.clone(), *limit).await,
            Command::Reference { limit } => show::reference(source, *limit).await,
            Command::Runs { run, limit } => show::runs(source, *run, *limit).await,
            Command::Deployments { deployment, limit } => show::deployments(source, *deployment, *limit).await,
            Command::Audit { limit } => show::audit(source, *limit).await,
            Command::Alerts(args) => alerts::show(source, args).await,
            Command::Silences(args) => alerts::silences(source, args.limit).await,
            _ => show::status(source, &self.settings).await,
        }
    }

    /// Asks the daemon to do something.
    async fn ask(&self, command: Command) -> Result<Shown, CliError> {
        let remote = self.remote()?;
        let (kind, reason) = match command {
            Command::Alerts(AlertsArgs { retry: Some(which), reason, .. }) => {
                return alerts::retry(&remote, which, &reason).await;
            }
            Command::Silences(SilencesArgs { end: Some(id), reason, .. }) => {
                return alerts::end(&remote, id, &reason).await;
            }
            Command::Silence(args) => return alerts::silence(&remote, &args).await,
            Command::Retrain(reason) => (CommandKind::Retrain, reason),
            Command::Cancel(reason) => (CommandKind::Cancel, reason),
            Command::Rollback(reason) => (CommandKind::Rollback, reason),
            Command::Approve(reason) => (CommandKind::Approve, reason),
            Command::Reject(reason) => (CommandKind::Reject, reason),
            Command::Pause(reason) => (CommandKind::Pause, reason),
            Command::Resume(reason) => (CommandKind::Resume, reason),
            other => return Err(CliError::Failed(format!("{other:?} asks nothing of the daemon"))),
        };
        let answer = remote.command(kind, &reason).await?;
        Shown::new(&answer, answer.message.clone())
    }
}

/// `delayd run`.
async fn daemon(settings: Settings) -> Result<(), CliError> {
    let metrics = Metrics::new(&settings).map_err(|error| CliError::Failed(error.to_string()))?;
    own_folder::create(&settings.daemon.state_dir).map_err(|error| {
        CliError::Failed(format!("state directory {}: {error}", settings.daemon.state_dir.display()))
    })?;
    // Before anything is opened: a second daemon is told of the first one, not of its address.
    ensure_unused(&ledger_path(&settings.daemon.state_dir))?;
    let adopted = keep_for_a_daemon(&settings.daemon.state_dir).map_err(|error| CliError::Failed(error.to_string()))?;
    if adopted {
        let dir = settings.daemon.state_dir.display();
        tracing::info!(
            "what a replay left in {dir} is this daemon's from now on; another replay needs another --state"
        );
    }
    let manager = ServiceManager::of_environment();
    let passed = PassedSockets::take_one().map_err(|error| CliError::Failed(chain(&error)))?;
    let listeners = Listeners::open(&settings, passed).map_err(|error| CliError::Failed(chain(&error)))?;
    let (gave_up, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    let daemon = Daemon::start(settings, Arc::new(SystemClock), Arc::new(metrics.clone()), move |gone| {
        // Without a receiver the process is ending already.
        let _ = gave_up.send(gone);
    })?;
    if ReplaySpan::of(&daemon.env.ledger).await?.is_some() {
        ReplaySpan::forget(&daemon.env.ledger, daemon.env.now()).await?;
    }
    let endpoint = Endpoint::start(&daemon, metrics, listeners).map_err(|error| CliError::Failed(error.to_string()))?;
    endpoint.tell(&daemon);
    let _watchdog = watchdog(&manager, &daemon)?;
    let own = endpoint.client(&daemon)?;
    let ended = tokio::select! {
        () = daemon.run_timers() => Ok(()),
        () = attend(&manager, &daemon.env.ledger, async || own.health().await.is_ok()) => Ok(()),
        gone = given_up.recv() => {
            let what = gone.map_or_else(String::new, |gone| format!("actor `{}` keeps dying: {}", gone.actor, gone.failure));
            Err(CliError::Failed(format!("{what}; the daemon gives up so that it is started anew")))
        }
        signal = stop_signal() => {
            tracing::info!(signal, "stopping; replicas keep serving, and a cycle under way goes on at the next start");
            Ok(())
        }
    };
    let farewell = |_: &()| "stopping; replicas keep serving".to_owned();
    manager.stopping(&ended.as_ref().map_or_else(ToString::to_string, farewell));
    // Replicas are processes of their own: they serve on while the daemon is away.
    endpoint.stop().await;
    ended
}

/// The beat that the service manager asks for, if it does.
fn watchdog(manager: &ServiceManager, daemon: &Daemon) -> Result<Option<Watchdog>, CliError> {
    let Some(period) = ServiceManager::watchdog_period().filter(|_| manager.is_there()) else { return Ok(None) };
    let (supervision, timers) = (daemon.supervision().clone(), daemon.timer_deadlines().clone());
    // Supervision acts upon silence itself; beyond twice its limit it must be ill too.
    let silence_limit = Duration::from_secs(2 * daemon.settings.daemon.hang_limit_secs);
    let unhealthy = move || unhealthy_reason(&supervision.statuses(), &timers.overdue(Instant::now()), silence_limit);
    let started = Watchdog::start(manager.clone(), period, unhealthy);
    started.map(Some).map_err(|error| CliError::Failed(format!("the watchdog's thread: {error}")))
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
    let options = ReplayOptions {
        data: args.data,
        train_from: args.train_from,
        train_until: args.train_until,
        until: args.until,
        out: args.out,
    };
    let state_dir = settings.daemon.state_dir.clone();
    let metrics = Metrics::new(&settings).map_err(|error| CliError::Failed(error.to_string()))?;
    let display = Arc::new(TerminalDisplay::new(metrics));
    let (report, files) = replay(&options, settings, display).await?;
    if json {
        return serde_json::to_string_pretty(&report).map_err(|error| CliError::Failed(error.to_string()));
    }
    let summary = report::summary(&report, &files, std::io::stdout().is_terminal());
    let state = state_dir.display();
    Ok(format!(
        "{summary}\nnext\n  open {} in a browser\n  delayd --state {state} models     what it trained; cycles, why, drift \
         and lineage read the same state\n  delayd run                        the same loop on flights of your own: \
         docs/operations.md",
        files.html.display()
    ))
}
