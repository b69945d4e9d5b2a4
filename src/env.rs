//! The world as the daemon sees it: the clock, the ledger and the ports.

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use delayd_core::clock::{Clock, ReplayClock, SystemClock};
use delayd_core::ports::{Cluster, ImageRegistry, Notifier, ObjectStore, WeatherSource};
use delayd_ledger::Ledger;
use delayd_training_job::Trainer;

/// Everything outside that a stage may use.
#[derive(Clone)]
pub struct Env {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What was done and decided.
    pub ledger: Ledger,
    /// Flight logs, weather files, bundles.
    pub object_store: Arc<dyn ObjectStore>,
    /// What the weather was.
    pub weather: Arc<dyn WeatherSource>,
    /// Who trains.
    pub trainer: Arc<dyn Trainer>,
    /// Where images go.
    pub image_registry: Arc<dyn ImageRegistry>,
    /// Where the inference service runs.
    pub cluster: Arc<dyn Cluster>,
    /// Who is told.
    pub notifier: Arc<dyn Notifier>,
}

impl Env {
    /// The present moment on the daemon's clock.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}
