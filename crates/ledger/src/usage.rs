//! How much the ledger is used: counted at its door, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What was counted of one kind of access since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AccessCounts {
    /// Transactions that ended, whichever way.
    pub begun: u64,
    /// Those that failed or were refused.
    pub failed: u64,
    /// Seconds from asking to the answer, all together.
    pub seconds: f64,
}

/// What was counted since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LedgerUsage {
    /// Transactions that only read.
    pub reads: AccessCounts,
    /// Transactions that write.
    pub writes: AccessCounts,
}

/// A counter of one kind of access.
#[derive(Debug, Default)]
pub(super) struct Meter {
    ended: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Meter {
    /// Counts one access that began at `begun`.
    pub(super) fn count<T, E>(&self, begun: Instant, answer: Result<T, E>) -> Result<T, E> {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        answer
    }

    pub(super) fn counts(&self) -> AccessCounts {
        // Failures first: there are never more of them than there are transactions.
        let failed = self.failed.load(Ordering::Relaxed);
        AccessCounts {
            begun: self.ended.load(Ordering::Relaxed).max(failed),
            failed,
            seconds: self.micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}
