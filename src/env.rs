//! The world as the daemon sees it: the clock and the ports. Nothing else in the
//! crate asks the operating system for the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

use crate::ledger::Ledger;
use crate::ports::{Cluster, ImageRegistry, Notifier, ObjectStore, Trainer, WeatherSource};

/// Tells what time it is: the system's clock, or the replay's.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present moment.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the system clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that stands still until somebody moves it: the replay's.
#[derive(Debug)]
pub struct ReplayClock(AtomicI64);

impl ReplayClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self(AtomicI64::new(start.timestamp_micros()))
    }

    /// Moves the clock. It never goes back: an earlier moment is ignored.
    pub fn advance_to(&self, moment: DateTime<Utc>) {
        self.0.fetch_max(moment.timestamp_micros(), Ordering::SeqCst);
    }
}

impl Clock for ReplayClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(Ordering::SeqCst)).unwrap_or_default()
    }
}

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
