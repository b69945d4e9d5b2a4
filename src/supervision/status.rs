//! What supervision knows of an actor, for the status endpoint, the page and tests.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::actor_ref::Waiting;
use super::heartbeat::Heartbeat;

/// How an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    /// It lives and beats.
    Running,
    /// It died, and a fresh one follows after a pause.
    Restarting,
    /// It was silent for too long and was abandoned; a fresh one follows after a pause.
    Hung,
    /// It was given up, or supervision was stopped.
    Dead,
}

/// An actor's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ActorStatus {
    /// The actor's name.
    pub name: String,
    /// How it is doing.
    pub state: ActorState,
    /// How often it was started again.
    pub restarts: u64,
    /// Seconds since its last beat.
    pub last_beat_secs: f64,
    /// Senders that wait for its answer.
    #[serde(default)]
    pub waiting_senders: u64,
    /// What it works on.
    pub current_work: Option<String>,
    /// Why it died last.
    pub last_failure: Option<String>,
}

/// The status as the watcher writes it and everybody else reads it.
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
