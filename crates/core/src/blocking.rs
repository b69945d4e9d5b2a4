//! Blocking work (files, hashing, parsing) off the threads that serve futures.

use crate::error::{ErrorKind, PortError};
use crate::spans::spawn_blocking;

/// Runs `work` on the blocking pool, within the caller's span. `action` says in the error what was being done.
///
/// # Errors
/// What `work` answers, or that it panicked.
pub async fn blocking<T, E>(
    action: impl Into<String>,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, PortError>
where
    T: Send + 'static,
    E: IntoPortError + Send + 'static,
{
    let action = action.into();
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.into_port_error(&action)),
        Err(error) => Err(PortError::new(ErrorKind::Internal, action, format!("the worker thread failed: {error}"))),
    }
}

/// An error that becomes a port's once it is known what was being done.
pub trait IntoPortError {
    /// The port's error. One that is a port's error already says by itself what was being done.
    fn into_port_error(self, action: &str) -> PortError;
}

impl IntoPortError for PortError {
    fn into_port_error(self, _: &str) -> PortError {
        self
    }
}

impl IntoPortError for std::io::Error {
    fn into_port_error(self, action: &str) -> PortError {
        PortError::io(action, self)
    }
}
