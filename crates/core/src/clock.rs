//! The time: the machine's, or a replay's. Nothing else asks the operating system for it.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// Tells what time it is: the system's clock, or the replay's.
pub trait Clock: Send + Sync + std::fmt::Debug {
    fn now(&self) -> DateTime<Utc>;
}

#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the system clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that stands still until it is moved: the replay's.
#[derive(Debug)]
pub struct ReplayClock(AtomicI64);

impl ReplayClock {
    /// A clock that shows `start`.
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
