//! The sign of life that one incarnation of an actor gives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A handle by which an actor shows that it lives and what it works on. The
/// factory gets one per incarnation; the actor's context beats by itself, and
/// only work that blocks the actor's own thread need beat by hand.
#[derive(Debug, Clone)]
pub struct Heartbeat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    born: Instant,
    /// Microseconds from `born` to the last beat.
    last_beat_us: AtomicU64,
    abandoned: AtomicBool,
    current_work: Mutex<Option<String>>,
}

impl Heartbeat {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            born: Instant::now(),
            last_beat_us: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            current_work: Mutex::new(None),
        }))
    }

    /// Shows that the actor lives.
    pub fn beat(&self) {
        let micros = u64::try_from(self.0.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.last_beat_us.fetch_max(micros, Ordering::Relaxed);
    }

    /// Says what the actor works on now, `None` for nothing; a beat as well.
    pub fn working_on(&self, work: Option<String>) {
        *self.0.current_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
        self.beat();
    }

    /// Whether supervision has replaced this incarnation. A handler that comes
    /// back from something long asks before it does anything that its successor
    /// may be doing.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Release);
    }

    /// From the incarnation's start to its last beat.
    pub(super) fn last_beat(&self) -> Duration {
        Duration::from_micros(self.0.last_beat_us.load(Ordering::Relaxed))
    }

    /// From the incarnation's start until now.
    pub(super) fn age(&self) -> Duration {
        self.0.born.elapsed()
    }

    pub(super) fn current_work(&self) -> Option<String> {
        self.0.current_work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
