//! The world as the daemon sees it: the clock, the ledger and the ports.

use std::sync::Arc;

use chrono::{DateTime, Utc};

pub use delayd_core::clock::{Clock, ReplayClock, SystemClock};
use delayd_core::ports::{Cluster, ImageRegistry, Notifier, ObjectStore, Severity, WeatherSource};
use delayd_ledger::{Ledger, LedgerError, NewAlert};
use delayd_training_job::Trainer;

/// Everything outside that a stage may use.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub ledger: Ledger,
    /// Flight logs, weather files, bundles.
    pub object_store: Arc<dyn ObjectStore>,
    pub weather: Arc<dyn WeatherSource>,
    pub trainer: Arc<dyn Trainer>,
    pub image_registry: Arc<dyn ImageRegistry>,
    /// Where the inference service runs.
    pub cluster: Arc<dyn Cluster>,
    pub notifier: Arc<dyn Notifier>,
}

impl Env {
    /// The present moment on the daemon's clock.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Puts an alert into the outbox. One whose `dedup_key` was used before is not sent again.
    pub async fn alert(
        &self,
        severity: Severity,
        dedup_key: String,
        title: impl Into<String>,
        body: String,
    ) -> Result<(), LedgerError> {
        let alert = NewAlert { at: self.now(), severity, dedup_key, title: title.into(), body };
        self.ledger.enqueue_alert(alert).await.map(|_| ())
    }
}
