//! What all errors of the daemon have in common: a small kind by which the
//! caller decides whether to try again.

/// What sort of failure an error is. Every port error answers with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The thing asked for is not there.
    NotFound,
    /// It exists already, or somebody else changed it first.
    Conflict,
    /// The input is wrong and will stay wrong.
    Invalid,
    /// What is stored does not match its digest or cannot be read.
    Corrupt,
    /// The other side refuses us.
    Denied,
    /// The other side cannot be reached or does not answer now.
    Unavailable,
    /// It did not finish before its deadline.
    Timeout,
    /// No room left: disk, memory, quota.
    Exhausted,
    /// It was interrupted on our side, as when an actor or a replica dies: once more may do.
    Interrupted,
    /// Somebody asked for it to stop.
    Cancelled,
    /// A fault of our own.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Exhausted | Self::Conflict | Self::Interrupted)
    }

    /// Whether an outside system is unavailable: that passes, and is worth waiting for.
    pub fn is_outage(self) -> bool {
        self == Self::Unavailable
    }

    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Self::NotFound,
            Io::AlreadyExists => Self::Conflict,
            Io::PermissionDenied => Self::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => Self::Exhausted,
            Io::TimedOut => Self::Timeout,
            Io::InvalidData | Io::UnexpectedEof => Self::Corrupt,
            Io::ConnectionRefused | Io::ConnectionReset | Io::BrokenPipe | Io::WouldBlock | Io::Interrupted => {
                Self::Unavailable
            }
            _ => Self::Internal,
        }
    }
}

/// The failure of a port: what was tried on what, its kind, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {message}")]
pub struct PortError {
    kind: ErrorKind,
    action: String,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    /// A failure without an underlying error. `action` says what was tried on
    /// what ("reading flights/2013-01-01.csv"), `message` what went wrong.
    pub fn new(kind: ErrorKind, action: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, action: action.into(), message: message.into(), source: None }
    }

    pub fn io(action: impl Into<String>, error: std::io::Error) -> Self {
        Self {
            kind: ErrorKind::of_io(&error),
            action: action.into(),
            message: error.to_string(),
            source: Some(Box::new(error)),
        }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }
}

/// An error with all its causes in one line, outermost first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
