//! The engine's errors as the port's: which kind, and what to do.

use std::error::Error as StdError;
use std::io;

use bollard::errors::Error;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;

pub(super) fn port_error(action: &str, host: &str, error: &Error) -> PortError {
    let (kind, text) = told(host, error);
    PortError::new(kind, action, text)
}

/// The kind, what the engine said, and what to do.
pub(super) fn told(host: &str, error: &Error) -> (ErrorKind, String) {
    let text = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        error => chain(error),
    };
    let kind = kind(error, &text);
    let advice = match kind {
        ErrorKind::Unavailable => {
            format!("; is the Docker Engine at {host} running? packaging.docker.host names another")
        }
        ErrorKind::Denied => {
            format!("; the daemon's user may not use {host}: add it to the socket's group, usually `docker`")
        }
        ErrorKind::Exhausted => {
            format!("; the engine at {host} has no room left: `docker system prune`, or a larger disk")
        }
        ErrorKind::Timeout => {
            format!("; the engine at {host} took too long: packaging.docker.timeout_secs allows more")
        }
        _ => String::new(),
    };
    (kind, format!("{text}{advice}"))
}

fn kind(error: &Error, text: &str) -> ErrorKind {
    if text.contains("no space left on device") || text.contains("disk quota exceeded") {
        return ErrorKind::Exhausted;
    }
    match error {
        // The engine answers 500 for what is wrong with a build and for what is wrong with itself.
        Error::DockerResponseServerError { status_code: 500, .. } => ErrorKind::Invalid,
        Error::DockerResponseServerError { status_code, .. } => kind_of_status(*status_code),
        Error::DockerStreamError { .. } | Error::UnsupportedURISchemeError { .. } => ErrorKind::Invalid,
        Error::RequestTimeoutError => ErrorKind::Timeout,
        Error::SocketNotFoundError(_) => ErrorKind::Unavailable,
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::APIVersionParseError {} => {
            ErrorKind::Invalid
        }
        error => io_kind(error).unwrap_or(ErrorKind::Unavailable),
    }
}

/// The kind of the system's error somewhere below. All else between us and the
/// engine is a connection that broke.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    // This one shows its cause's cause as its own.
    let mut cause: Option<&(dyn StdError + 'static)> = match error {
        Error::IOError { err } => Some(err),
        error => Some(error),
    };
    while let Some(present) = cause {
        if let Some(error) = present.downcast_ref::<io::Error>() {
            return match ErrorKind::of_io(error) {
                kind @ (ErrorKind::Denied | ErrorKind::Exhausted | ErrorKind::Timeout) => Some(kind),
                _ => None,
            };
        }
        cause = present.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_answers_decides_whether_to_try_again() {
        let answered =
            |status_code, message: &str| Error::DockerResponseServerError { status_code, message: message.to_owned() };
        let streamed = |error: &str| Error::DockerStreamError { error: error.to_owned() };
        for (error, kind) in [
            (answered(404, "no such image"), ErrorKind::NotFound),
            (answered(409, "in use"), ErrorKind::Conflict),
            (answered(500, "dockerfile parse error"), ErrorKind::Invalid),
            (answered(500, "write /x: no space left on device"), ErrorKind::Exhausted),
            (answered(503, "shutting down"), ErrorKind::Unavailable),
            (streamed("ADD failed: file not found"), ErrorKind::Invalid),
            (streamed("write: no space left on device"), ErrorKind::Exhausted),
            (Error::RequestTimeoutError, ErrorKind::Timeout),
            (Error::from(io::Error::from(io::ErrorKind::PermissionDenied)), ErrorKind::Denied),
            (Error::from(io::Error::from(io::ErrorKind::ConnectionReset)), ErrorKind::Unavailable),
        ] {
            let text = error.to_string();
            assert_eq!(port_error("building", "unix:///x.sock", &error).kind(), kind, "{text}");
        }
    }
}
