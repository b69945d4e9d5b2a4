//! The failure that crosses stages, blocking work, and the text of a panic.

use crate::error::{ErrorKind, PortError, chain};
use crate::spans::spawn_blocking;

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StepFailure {
    pub kind: ErrorKind,
    pub message: String,
}

impl StepFailure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn of(kind: ErrorKind, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { kind, message: chain(error) }
    }
}

impl From<PortError> for StepFailure {
    fn from(error: PortError) -> Self {
        Self::of(error.kind(), &error)
    }
}

/// Runs blocking work (SQLite, Polars, libtorch, hashing, files) off an actor's thread.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StepFailure> {
    spawn_blocking(work)
        .await
        .map_err(|error| StepFailure::new(ErrorKind::Internal, format!("blocking work did not finish: {error}")))
}

/// The text of a panic, from what `catch_unwind` or a thread's join answers.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
