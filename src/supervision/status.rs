//! What is known of an actor: the sign of life that each incarnation gives, and the status for the endpoint, the page
//! and tests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::actor::Waiting;

/// Shows that an actor lives and what it works on. The factory gets one per incarnation; the actor's context beats
/// automatically, and only work that blocks the actor's own thread needs to beat itself.
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

    pub fn beat(&self) {
        let micros = u64::try_from(self.0.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.last_beat_us.fetch_max(micros, Ordering::Relaxed);
    }

    /// Sets what the actor works on now, `None` for nothing; a beat as well.
    pub fn working_on(&self, work: Option<String>) {
        *self.0.current_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
        self.beat();
    }

    /// Whether supervision has replaced this incarnation. A handler asks after anything long, before it does what its
    /// successor may be doing.
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

/// How an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    Running,
    /// It died, and is restarted after a pause.
    Restarting,
    /// It was silent for too long and was abandoned; it is restarted after a pause.
    Hung,
    /// It was given up, or supervision was stopped.
    Dead,
}

impl ActorState {
    /// Whether the actor does nothing any more: `/healthz` reports it, so that systemd or the kubelet restarts the daemon.
    pub fn has_stopped(self) -> bool {
        matches!(self, Self::Dead | Self::Hung)
    }
}

/// An actor's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ActorStatus {
    /// The actor's name.
    pub name: String,
    /// How it is doing.
    pub state: ActorState,
    /// How often it was restarted.
    pub restarts: u64,
    /// Seconds since its last beat.
    pub last_beat_secs: f64,
    /// Senders waiting for its answer.
    #[serde(default)]
    pub waiting_senders: u64,
    /// What it works on.
    pub current_work: Option<String>,
    /// Why it died last.
    pub last_failure: Option<String>,
}

/// The status: written by the watcher, read by everyone else.
#[derive(Debug, Clone)]
pub(super) struct StatusCell {
    name: Arc<str>,
    waiting: Waiting,
    inner: Arc<Mutex<Watched>>,
}

#[derive(Debug)]
struct Watched {
    state: ActorState,
    restarts: u64,
    last_failure: Option<String>,
    heartbeat: Heartbeat,
}

impl StatusCell {
    pub(super) fn new(name: &str, heartbeat: Heartbeat, waiting: Waiting) -> Self {
        let watched = Watched { state: ActorState::Restarting, restarts: 0, last_failure: None, heartbeat };
        Self { name: Arc::from(name), waiting, inner: Arc::new(Mutex::new(watched)) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn running(&self, heartbeat: Heartbeat, is_restart: bool) {
        let mut watched = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        watched.state = ActorState::Running;
        watched.restarts += u64::from(is_restart);
        watched.heartbeat = heartbeat;
    }

    pub(super) fn set(&self, state: ActorState, failure: Option<String>) {
        let mut watched = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        watched.state = state;
        if failure.is_some() {
            watched.last_failure = failure;
        }
    }

    pub(super) fn read(&self) -> ActorStatus {
        let watched = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        ActorStatus {
            name: self.name.to_string(),
            state: watched.state,
            restarts: watched.restarts,
            last_beat_secs: watched.heartbeat.age().saturating_sub(watched.heartbeat.last_beat()).as_secs_f64(),
            waiting_senders: self.waiting.senders(),
            current_work: watched.heartbeat.current_work(),
            last_failure: watched.last_failure.clone(),
        }
    }
}
