//! What the monitor remembers from check to check. It is one document in the
//! ledger, rewritten at each check, so it must stay small however often the monitor
//! checks: everything in it is bounded by days, not by checks.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::ids::ModelVersion;
use delayd_judge::monitoring::drift::WindowSummary;
use delayd_judge::monitoring::performance::{PerformanceSummary, one_a_day};
use delayd_judge::monitoring::settings::MonitoringSettings;
use delayd_judge::monitoring::skew::TrainServeLook;
use delayd_judge::monitoring::traffic::TrafficProfile;
use delayd_judge::monitoring::window::Episodes;
use delayd_judge::monitoring::window::WindowBook;

/// The monitor's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) book: WindowBook,
    /// First time a replica's process was seen, by name and its own start time.
    pub(super) first_seen: BTreeMap<String, DateTime<Utc>>,
    /// Sequence number up to which each process' predictions were fetched.
    pub(super) fetched: BTreeMap<String, u64>,
    pub(super) drift_history: Vec<WindowSummary>,
    /// The usual traffic; absent in memories of earlier versions.
    #[serde(default)]
    pub(super) traffic: TrafficProfile,
    /// When replicas were last checked.
    #[serde(default)]
    pub(super) looked_at: Option<DateTime<Utc>>,
    /// Earlier evaluations, one a day.
    pub(super) performance_history: BTreeMap<ModelVersion, Vec<PerformanceSummary>>,
    /// Lasting trouble that has raised an alert.
    #[serde(default)]
    pub(super) episodes: Episodes,
    /// Predictions that were overwritten before they could be fetched, ever.
    #[serde(default)]
    pub(super) predictions_lost: u64,
    /// When golden rows were asked last.
    #[serde(default)]
    pub(super) train_serve: Option<TrainServeLook>,
}

impl Memory {
    pub(super) fn new(settings: &MonitoringSettings) -> Self {
        Self {
            book: WindowBook::new(settings.day_starts_minutes_utc),
            first_seen: BTreeMap::new(),
            fetched: BTreeMap::new(),
            drift_history: Vec::new(),
            traffic: TrafficProfile::default(),
            looked_at: None,
            performance_history: BTreeMap::new(),
            episodes: Episodes::default(),
            predictions_lost: 0,
            train_serve: None,
        }
    }

    /// Forgets what no evaluation uses any more.
    pub(super) fn forget(&mut self, settings: &MonitoringSettings, now: DateTime<Utc>) {
        let kept = Duration::days(3 * i64::from(settings.drift.window_days) + 7);
        self.book.forget_before((now - kept).date_naive());
        self.first_seen.retain(|_, at| *at > now - Duration::days(400));
        let processes = self.first_seen.clone();
        self.fetched.retain(|process, _| processes.contains_key(process));
        self.drift_history.retain(|window| window.ended_at > now - kept);
        let evaluations = kept.max(Duration::days(i64::from(settings.performance.of_last_windows)));
        for history in self.performance_history.values_mut() {
            history.retain(|past| past.at > now - evaluations);
            one_a_day(history, |at| self.book.day_of(at));
        }
        self.performance_history.retain(|_, history| !history.is_empty());
    }
}
