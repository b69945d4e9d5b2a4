//! Every metric of the daemon, once: name, type, labels, unit and meaning. What
//! is exposed is made from these entries, and `docs/metrics.md` is written from
//! them, so that neither can say anything else.
//!
//! A label's values are those of a closed enum, the names of steps, actors and
//! inputs, or the templates of routes: no request and no file can make new ones.

/// The type of a metric, as Prometheus names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; begins anew with the process unless the ledger tells it.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with sum and count.
    Histogram,
}

impl Kind {
    /// As in the text format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where a value is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Read from the ledger at each scrape: survives restarts.
    Ledger,
    /// Counted where it happens: begins at zero with the process.
    Counted,
    /// Read where it is at each scrape: cluster, supervision, files, `/proc`.
    Live,
}

impl Origin {
    /// For the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Counted => "counted",
            Self::Live => "live",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Where its value is from.
    pub origin: Origin,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Its meaning, for people.
    pub help: &'static str,
}

impl Metric {
    /// The unit: what the name ends with, `1` where it counts.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        for unit in ["seconds", "bytes", "ratio", "info"] {
            if name.ends_with(unit) {
                return unit;
            }
        }
        "1"
    }
}

/// Metrics that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its metrics.
    pub metrics: &'static [&'static Metric],
}

macro_rules! catalogue {
    ($($title:literal { $($id:ident: $kind:ident $origin:ident $name:literal [$($label:literal),*] $help:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name, kind: Kind::$kind, origin: Origin::$origin, labels: &[$($label),*], help: $help,
            };
        )*)*
        /// Every metric, by section.
        pub const SECTIONS: &[Section] = &[$(Section { title: $title, metrics: &[$(&$id),*] }),*];
    };
}

catalogue! {
    "Ingestion" {
        INGESTION_OBJECTS: Counter Ledger "delayd_ingestion_objects_total" ["status"]
            "Flight logs looked at, by what became of them: ingested, rejected, failed.";
        INGESTION_ROWS: Counter Ledger "delayd_ingestion_rows_total" ["result"]
            "Rows of flight logs: accepted, quarantined, or duplicate, which said again what another row said.";
        INGESTION_BYTES: Counter Ledger "delayd_ingestion_bytes_total" [] "Bytes of flight logs looked at.";
        INGESTION_LAST_OBJECT: Gauge Ledger "delayd_ingestion_last_object_timestamp_seconds" []
            "When the newest flight log was taken in, in seconds since 1970.";
        INGESTION_WATERMARK: Gauge Ledger "delayd_ingestion_watermark_timestamp_seconds" []
            "When the newest outcome of a flight became known, in seconds since 1970.";
        INGESTION_WATERMARK_AGE: Gauge Ledger "delayd_ingestion_watermark_age_seconds" []
            "How long ago, on the daemon's clock, the newest outcome of a flight became known.";
        WEATHER_COVERAGE: Gauge Ledger "delayd_weather_coverage_ratio" []
            "Share of the airport-hours for which weather was there when the newest dataset was assembled.";
    }
    "Validation" {
        DATASETS: Counter Ledger "delayd_datasets_total" [] "Datasets frozen under a version.";
        DATASETS_REFUSED: Counter Ledger "delayd_datasets_refused_total" []
            "Datasets that broke the contract, so that no version was made of them.";
        DATASET_CREATED: Gauge Ledger "delayd_dataset_created_timestamp_seconds" []
            "When the newest dataset was frozen, in seconds since 1970.";
        DATASET_ROWS: Gauge Ledger "delayd_dataset_rows" ["result"]
            "Rows of the newest dataset's sources: accepted, quarantined, exact_duplicate, conflicting_duplicate.";
        DATASET_VIOLATIONS: Gauge Ledger "delayd_dataset_violations" ["rule"]
            "Violations of the contract in the newest dataset's sources, by class of rule, flagged ones included.";
        DATASET_FAILURES: Gauge Ledger "delayd_dataset_failures" []
            "Bounds of the contract that the newest dataset's sources passed; above 0 it was refused.";
    }
    "Training" {
        TRAINING_RUNS: Counter Ledger "delayd_training_runs_total" ["state"]
            "Training runs that ended: succeeded, failed, cancelled.";
        TRAINING_RUNNING: Gauge Ledger "delayd_training_runs_running" [] "Training runs under way.";
        TRAINING_INFO: Gauge Ledger "delayd_training_info" ["device"]
            "Where the newest successful run was trained; always 1.";
        TRAINING_SECONDS: Gauge Ledger "delayd_training_duration_seconds" []
            "Seconds that the newest successful run took, tuning included.";
        TRAINING_ROWS: Gauge Ledger "delayd_training_rows" [] "Flights that the newest successful run learnt from.";
        TRAINING_EPOCHS: Gauge Ledger "delayd_training_epochs" []
            "Epochs of all members in the newest successful run.";
        TRAINING_TRIALS: Gauge Ledger "delayd_training_trials" []
            "Trials of the search for parameters in the newest successful run; 0 without one.";
        TRAINING_AUC: Gauge Ledger "delayd_training_roc_auc" [] "ROC-AUC of the newest successful run on held-out rows.";
        TRAINING_LOG_LOSS: Gauge Ledger "delayd_training_log_loss" []
            "Log-loss, in nats, of the newest successful run on held-out rows.";
        TRAINING_ECE: Gauge Ledger "delayd_training_calibration_error" []
            "Expected calibration error of the newest successful run on held-out rows.";
        TRAINING_RECALL: Gauge Ledger "delayd_training_recall" []
            "Recall at the threshold of the newest successful run on held-out rows.";
    }
    "Registry" {
        MODELS: Gauge Ledger "delayd_models" [] "Registered model versions.";
        LIVE_MODEL_VERSION: Gauge Ledger "delayd_live_model_version" [] "Number of the live model; 0 while none is.";
        LIVE_MODEL_INFO: Gauge Ledger "delayd_live_model_info" ["model_version", "bundle", "cycle", "run"]
            "The live model; always 1, absent while none is.";
        LIVE_MODEL_SINCE: Gauge Ledger "delayd_live_model_since_timestamp_seconds" []
            "Since when the live model is live, in seconds since 1970.";
        ALIAS_MOVES: Counter Ledger "delayd_alias_moves_total" ["alias"] "Moves of live, previous and candidate.";
    }
    "Packaging and push" {
        IMAGES: Counter Ledger "delayd_images_pushed_total" [] "Images pushed, by tag and digest.";
        IMAGE_SIZE: Gauge Ledger "delayd_image_size_bytes" [] "Bytes of all layers of the image pushed last.";
        IMAGE_LAYERS: Gauge Ledger "delayd_image_layers" ["origin"]
            "Layers of the image pushed last: pushed, or reused because the registry had them.";
        BUILDS: Counter Ledger "delayd_service_builds_total" ["reused"]
            "Builds of the service from its source, and whether an earlier binary was reused.";
    }
    "Deployment" {
        DEPLOYMENTS: Gauge Ledger "delayd_deployments" ["state"] "Deployments by state.";
        REPLICAS_WANTED: Gauge Ledger "delayd_replicas_wanted" [] "Replicas of the approved release; 0 without one.";
        REPLICAS: Gauge Live "delayd_replicas" ["state"] "Replicas of the inference service by state.";
        LIVE_MODEL_SERVED: Gauge Live "delayd_live_model_served" []
            "1 when the cluster serves the live model, 0 when it serves another one or nothing; absent without a live model and while a cycle or a rollback is under way.";
        REPLICA_RESTARTS: Gauge Live "delayd_replica_restarts" [] "Restarts of the present replicas, added up.";
        REPLICA_MEMORY: Gauge Live "delayd_replica_memory_bytes" []
            "Resident memory of the largest present replica, where known.";
        ROLLBACKS: Counter Ledger "delayd_rollbacks_total" ["origin"]
            "Releases taken back, by a cycle that failed or by an administrator.";
    }
    "Verification" {
        VERIFICATIONS: Counter Ledger "delayd_verifications_total" ["result"] "Verifications of releases: passed, failed.";
        VERIFICATION_LAST: Gauge Ledger "delayd_verification_last_timestamp_seconds" []
            "When a release was verified last, in seconds since 1970.";
    }
    "Drift of the live model" {
        DRIFT_REPORTS: Counter Ledger "delayd_drift_reports_total" ["drifted"] "Drift reports, and whether they call for a retrain.";
        DRIFT_STATUS: Gauge Ledger "delayd_drift_status" ["status"]
            "Verdict of the live model's newest drift report: 1 for the one that holds; absent before its first report.";
        DRIFT_REPORT_AT: Gauge Ledger "delayd_drift_report_timestamp_seconds" []
            "When the live model's newest drift report was made, in seconds since 1970.";
        DRIFT_ROWS: Gauge Ledger "delayd_drift_window_rows" [] "Rows in the window of the live model's newest drift report.";
        DRIFT_EFFECT: Gauge Ledger "delayd_drift_effect_size" ["feature"]
            "Size of drift by input and of the score: population stability index above what chance explains.";
        DRIFT_THRESHOLD: Gauge Ledger "delayd_drift_effect_threshold" ["signal"]
            "Effect sizes from which drift counts: feature, score, dataset.";
        DRIFT_EXCEEDED: Gauge Ledger "delayd_drift_feature_exceeded" ["feature"]
            "Whether an input, or the score, exceeds its threshold in the newest window.";
        DRIFT_DATASET: Gauge Ledger "delayd_drift_dataset_effect_size" []
            "Effect sizes of all inputs, weighed by how much the live model uses them.";
    }
    "Realised performance of the live model" {
        PERFORMANCE_STATUS: Gauge Ledger "delayd_performance_status" ["status"]
            "Verdict on the live model's realised performance: 1 for the one that holds.";
        REALISED_OUTCOMES: Gauge Ledger "delayd_realised_outcomes" []
            "Predictions of the live model in the window whose outcome is known.";
        REALISED_AUC: Gauge Ledger "delayd_realised_roc_auc" [] "Realised ROC-AUC of the live model.";
        REALISED_AUC_FLOOR: Gauge Ledger "delayd_realised_roc_auc_floor" []
            "Validation's ROC-AUC less the loss that is tolerated (monitoring.performance.auc_drop).";
        REALISED_LOG_LOSS: Gauge Ledger "delayd_realised_log_loss" [] "Realised log-loss of the live model, in nats.";
        REALISED_ECE: Gauge Ledger "delayd_realised_calibration_error" []
            "Realised expected calibration error of the live model.";
        REALISED_RECALL: Gauge Ledger "delayd_realised_recall" [] "Realised recall of the live model at its threshold.";
        BASELINE_AUC: Gauge Ledger "delayd_baseline_roc_auc" [] "ROC-AUC that the live model's own validation promised.";
        BASELINE_LOG_LOSS: Gauge Ledger "delayd_baseline_log_loss" []
            "Log-loss that the live model's own validation promised.";
        BASELINE_ECE: Gauge Ledger "delayd_baseline_calibration_error" []
            "Calibration error that the live model's own validation promised.";
        BASELINE_RECALL: Gauge Ledger "delayd_baseline_recall" [] "Recall that the live model's own validation promised.";
    }
    "The service, as the monitor sees it" {
        MONITOR_LOOK: Gauge Ledger "delayd_monitoring_last_look_timestamp_seconds" []
            "When the monitor looked at the live model last, in seconds since 1970.";
        SILENT_REPLICAS: Gauge Ledger "delayd_monitoring_silent_replicas" []
            "Ready replicas that did not tell their counts at the monitor's last look.";
        PREDICTIONS_LOST: Counter Ledger "delayd_monitoring_predictions_lost_total" []
            "Predictions that replicas overwrote before the monitor could fetch them: their outcomes are judged by nobody.";
        TRAIN_SERVE_ROWS: Gauge Ledger "delayd_train_serve_rows" ["score"]
            "Golden rows that ready replicas were asked in the last hour: same, or different from what training computed.";
        LATENCY_P50: Gauge Ledger "delayd_service_latency_p50_seconds" []
            "Median latency of the service over all replicas, this day and the one before.";
        LATENCY_P95: Gauge Ledger "delayd_service_latency_p95_seconds" [] "95th percentile of the same.";
        LATENCY_P99: Gauge Ledger "delayd_service_latency_p99_seconds" [] "99th percentile of the same.";
        SERVICE_ERRORS: Gauge Ledger "delayd_service_error_ratio" []
            "Share of the requests since the last full hour began less one hour that the service failed to answer.";
        SERVICE_REQUESTS: Gauge Ledger "delayd_service_requests" [] "Requests that this share is of.";
        TRAFFIC: Gauge Ledger "delayd_service_traffic_requests" [] "Requests in the hour that was judged last.";
        TRAFFIC_EXPECTED: Gauge Ledger "delayd_service_traffic_expected_requests" []
            "Requests that are usual in that hour of the week.";
        TRAFFIC_DEVIATIONS: Gauge Ledger "delayd_service_traffic_deviations" []
            "How far the hour is from the usual, in robust standard deviations, negative for less.";
        SCORE_SKEW: Gauge Ledger "delayd_service_score_effect_size" []
            "How far the scores are from the reference: population stability index above chance.";
    }
    "Cycles and decisions" {
        CYCLES: Counter Ledger "delayd_cycles_total" ["reason", "outcome"] "Cycles that ended, by why they began and how they ended.";
        CYCLE_STATE: Gauge Ledger "delayd_cycle_open" ["state"]
            "Whether a cycle is running, or waits for approval.";
        CYCLE_STARTED: Gauge Ledger "delayd_cycle_started_timestamp_seconds" []
            "When the open cycle began, in seconds since 1970; absent without one.";
        CYCLE_STEP: Gauge Ledger "delayd_cycle_step_running" ["step"] "Whether the open cycle is at this step.";
        CYCLE_STEP_ATTEMPTS: Gauge Ledger "delayd_cycle_step_attempts" []
            "How often the open cycle's present step was begun; 0 without one.";
        CYCLE_FINISHED: Gauge Ledger "delayd_cycle_last_finished_timestamp_seconds" []
            "When a cycle ended last, in seconds since 1970.";
        CYCLE_FAILURES: Gauge Ledger "delayd_cycle_consecutive_failures" []
            "Cycles in a row, up to the newest, that failed or are stuck.";
        STEPS_STUCK: Gauge Ledger "delayd_steps_stuck" [] "Steps whose undo could not finish, in cycles that ended stuck last.";
        STEP_LAST_SECONDS: Gauge Ledger "delayd_step_last_duration_seconds" ["step"]
            "Wall time of each step when it was done last: of package and push, train, deploy, verify …";
        STEPS: Counter Counted "delayd_steps_total" ["step", "outcome"] "Steps of cycles by how they ended: done, failed.";
        STEP_SECONDS: Histogram Counted "delayd_step_duration_seconds" ["step"] "Wall time of a cycle's steps.";
        DECISIONS: Counter Ledger "delayd_decisions_total" ["kind", "outcome"]
            "Decisions: retrain (start_cycle, hold), gate (deploy_challenger, keep_live).";
    }
    "Governor" {
        PAUSED: Gauge Ledger "delayd_paused" [] "Whether an administrator paused the loop.";
        COOLDOWN_LEFT: Gauge Ledger "delayd_governor_cooldown_remaining_seconds" []
            "Seconds, on the daemon's clock, until drift alone may start a cycle again; 0 when it may.";
        BACKOFF_LEFT: Gauge Ledger "delayd_governor_backoff_remaining_seconds" []
            "Seconds until a cycle may follow those that failed; 0 when it may.";
        BUDGET_LEFT: Gauge Ledger "delayd_governor_budget_left" [] "Retrains that the budget of 30 days still allows.";
        BREAKER_OPEN: Gauge Ledger "delayd_governor_breaker_open" []
            "Whether the breaker is open: the last retrains gained nothing, and the cooldown has grown.";
    }
    "Alerts" {
        ALERTS: Counter Ledger "delayd_alerts_total" ["severity"] "Alerts put into the outbox.";
        UNDELIVERED: Gauge Ledger "delayd_undelivered_alerts" ["channel", "state"]
            "Deliveries of alerts that wait (pending) or were given up (dead), by channel.";
        DELIVERED: Counter Ledger "delayd_alert_deliveries_total" ["channel"] "Deliveries of alerts that succeeded, by channel.";
        OLDEST_PENDING: Gauge Ledger "delayd_oldest_pending_delivery_timestamp_seconds" []
            "Since when the delivery that waits longest is tried, in seconds since 1970; absent when none waits.";
        SILENCES: Gauge Ledger "delayd_silences_active" [] "Silences in force.";
    }
    "Actors and timers" {
        ACTOR_STATE: Gauge Live "delayd_actor_state" ["actor", "state"] "State of an actor: 1 for the one that holds.";
        ACTOR_RESTARTS: Counter Live "delayd_actor_restarts_total" ["actor"] "Restarts of an actor since the daemon's start.";
        ACTOR_BEAT: Gauge Live "delayd_actor_last_beat_age_seconds" ["actor"] "Seconds since an actor's last sign of life.";
        ACTOR_WAITING: Gauge Live "delayd_actor_waiting_senders" ["actor"]
            "Senders that wait for an actor's answer: their messages are in its mailbox, or being worked on.";
        ACTOR_WORKING: Gauge Live "delayd_actor_working" ["actor"] "Whether an actor works on a message.";
        TIMER_RUNS: Counter Counted "delayd_timer_runs_total" ["timer", "outcome"]
            "Turns of the daemon's timers: ingestion, monitoring, alerts, replicas.";
        TIMER_LAST_SUCCESS: Gauge Counted "delayd_timer_last_success_timestamp_seconds" ["timer"]
            "When a timer's turn succeeded last, in seconds since 1970.";
        TIMER_SECONDS: Histogram Counted "delayd_timer_duration_seconds" ["timer"] "How long a timer's turn took.";
    }
    "Ledger and state directory" {
        LEDGER_SIZE: Gauge Live "delayd_ledger_size_bytes" ["file"] "Size of the ledger: the database (main) and its write-ahead log (wal).";
        LEDGER_TRANSACTIONS: Counter Counted "delayd_ledger_transactions_total" ["access", "outcome"]
            "Transactions on the ledger: read or write, done or failed.";
        LEDGER_SECONDS: Counter Counted "delayd_ledger_transaction_seconds_total" ["access"]
            "Seconds spent in transactions, waiting for their turn included.";
        LEDGER_BACKUP: Gauge Live "delayd_ledger_last_backup_timestamp_seconds" []
            "When the newest file in <state>/backups was written, in seconds since 1970; absent without one.";
        RETENTION_REMOVED: Counter Ledger "delayd_retention_removed_total" ["what"]
            "What was removed because it was old: predictions, outcomes, metrics_windows, packages, run_folders.";
        RETENTION_AT: Gauge Ledger "delayd_retention_last_turn_timestamp_seconds" []
            "When what is old was removed last, in seconds since 1970; absent before the first time.";
        CYCLE_LOG_LOST: Counter Counted "delayd_cycle_log_lost_lines_total" []
            "Lines of the cycles' own logs that could not be written: the disk was full or too slow.";
        STATE_FREE: Gauge Live "delayd_state_directory_free_bytes" [] "Bytes free for the daemon where its state directory lies.";
        STATE_SIZE: Gauge Live "delayd_state_directory_capacity_bytes" [] "Bytes of the file system where the state directory lies.";
    }
    "HTTP" {
        HTTP_REQUESTS: Counter Counted "delayd_http_requests_total" ["route", "method", "status"]
            "Requests answered, by template of the route, method and class of status.";
        HTTP_SECONDS: Histogram Counted "delayd_http_request_duration_seconds" ["route"]
            "From a request's head to its answer's head, by template of the route.";
        HTTP_IN_FLIGHT: Gauge Counted "delayd_http_requests_in_flight" [] "Requests being answered.";
        HTTP_CONNECTIONS: Gauge Live "delayd_http_connections" ["listener"] "Open connections, by listener: network, local.";
        HTTP_CONNECTIONS_CLOSED: Counter Counted "delayd_http_connections_closed_total" ["listener", "reason"]
            "Connections closed by a limit: client_limit, total_limit, slow_request, slow_answer.";
        CERTIFICATE_EXPIRY: Gauge Live "delayd_certificate_expiry_timestamp_seconds" []
            "When the endpoint's certificate, or the first of its chain, expires, in seconds since 1970; absent with plain HTTP.";
    }
    "Process and scrape" {
        BUILD_INFO: Gauge Live "delayd_build_info" ["version", "commit"] "The daemon's build; always 1.";
        PROCESS_CPU: Counter Live "process_cpu_seconds_total" [] "Processor time of the daemon, user and system.";
        PROCESS_FDS: Gauge Live "process_open_fds" [] "Open file descriptors.";
        PROCESS_MAX_FDS: Gauge Live "process_max_fds" [] "How many file descriptors may be open.";
        PROCESS_MEMORY: Gauge Live "process_resident_memory_bytes" [] "Resident memory.";
        PROCESS_VIRTUAL: Gauge Live "process_virtual_memory_bytes" [] "Virtual memory.";
        PROCESS_THREADS: Gauge Live "process_threads" [] "Threads.";
        PROCESS_START: Gauge Live "process_start_time_seconds" [] "When the daemon was started, in seconds since 1970.";
        SCRAPE_ERRORS: Counter Counted "delayd_scrape_errors_total" ["source"]
            "Scrapes that had to leave a source out because it was away: ledger, cluster, process, files, certificate.";
        SCRAPE_SECONDS: Gauge Live "delayd_scrape_source_duration_seconds" ["source"] "How long this scrape waited for a source.";
    }
}

/// The page `docs/metrics.md` without its head: a table for each section.
#[must_use]
pub fn tables() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        text.push_str(&format!("\n### {}\n\n", section.title));
        text.push_str("| metric | type | labels | unit | from | meaning |\n| --- | --- | --- | --- | --- | --- |\n");
        for metric in section.metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            text.push_str(&format!(
                "| `{}` | {} | {} | {} | {} | {} |\n",
                metric.name,
                metric.kind.name(),
                labels.join(", "),
                metric.unit(),
                metric.origin.name(),
                metric.help
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in SECTIONS.iter().flat_map(|section| section.metrics) {
            assert!(names.insert(metric.name), "{} is there twice", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.') || metric.help.ends_with('…'), "{}", metric.help);
            assert!(metric.name.starts_with("delayd_") || metric.name.starts_with("process_"), "{}", metric.name);
        }
        assert!(names.len() > 90, "{}", names.len());
    }
}
