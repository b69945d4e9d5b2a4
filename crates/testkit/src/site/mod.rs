//! The daemon as an operator has it, for tests: the `delayd` binary as a process,
//! the real inference service, real flights. Each test file uses its own part.
//!
//! Needs the service binary (`DELAYD_SERVE_BIN`, or `service/delayd-serve` beside
//! `delayd`), the training worker (`DELAYD_TRAIN_BIN`, or `delayd-train` beside it) and
//! nycflights13 (`DELAYD_DATA`, or `.data/nycflights13`). Without them the tests say
//! SKIPPED and pass.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod daemon;
mod dataless;
mod flights;
mod process;

use std::time::Duration;

pub use daemon::Site;
pub use dataless::{DatalessDaemon, text};
pub use flights::{Day, Flight, Needs, copy_days, flights_text, needs, reduced};
pub use process::{Running, cluster_state, command, ended, tail};

/// Small networks, no search, verdicts that do not hang on the wall clock: these
/// tests are about the loop, not about how good the model is.
pub const QUICK: &str = r#"
[http]
listen = "127.0.0.1:0"
loopback_role = "operator"

[daemon]
step_retry_secs = 0.1

[ingestion]
interval_secs = 1

[monitoring]
interval_secs = 1

[holdout]
seasonal_percent = 10

[training]
hidden = 16
blocks = 1
max_epochs = 1
warm_start_max_epochs = 1
torch_threads = 1
validation_tail = { days = 7.0 }
reference_days = 28.0

[tuning.search]
trials = 0

[gate]
replicates = 50
min_roc_auc_gain = -1.0
min_log_loss_gain = -10.0
max_roc_auc_loss = 1.0
max_log_loss_rise = 10.0
max_pr_auc_loss = 1.0
max_recall_loss = 1.0
max_recall_loss_at_equal_alerts = 1.0
max_accuracy_loss = 1.0
min_roc_auc_over_lookup = -1.0
max_latency_ratio = 1000000.0
negligible_latency_us = 1000000000.0
max_robustness_loss = 1.0
max_recent_roc_auc_loss = 1.0
max_fade = 2.0

[verification]
p95_limit_ms = 10000.0
p95_baseline_ratio = 1000.0
score_psi = 1000.0

[cluster]
replicas = 1
drain_linger_secs = 1
"#;

/// Retrains every few days, so that a replay of a fortnight has some.
pub const OFTEN: &str = r"
[retrain]
max_model_age_days = 6
minimum_new_examples = 500

[retrain.governor]
cooldown_days = 4
urgent_cooldown_days = 4
retrains_per_30_days = 20
";

/// The flights are of 2013 and the daemon's clock is not: age alone must not ask
/// for a cycle.
pub const NEVER: &str = r"
[retrain]
max_model_age_days = 100000
";

pub const REPLAY_LIMIT: Duration = Duration::from_secs(900);
pub const CYCLE_LIMIT: Duration = Duration::from_secs(300);
