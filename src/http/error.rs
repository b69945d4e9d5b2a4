//! Errors as RFC 9457 problem documents.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::error::ErrorKind;
use crate::ledger::LedgerError;
use crate::saga::StepFailure;

/// A problem, `application/problem+json`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Problem {
    /// A short, stable name of the sort of problem.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// For people.
    pub(super) title: String,
    /// The HTTP status.
    pub(super) status: u16,
    /// What happened, and what to do.
    pub(super) detail: String,
}

impl Problem {
    /// A problem of a status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { kind: "about:blank".to_owned(), title, status: status.as_u16(), detail: detail.into() }
    }

    /// Something that is not there.
    pub(super) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} is not in the ledger"))
    }

    fn of_kind(kind: ErrorKind, detail: String) -> Self {
        let status = match kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Corrupt | ErrorKind::Interrupted | ErrorKind::Cancelled | ErrorKind::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, detail)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)
    }
}

impl std::error::Error for Problem {}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        Self::of_kind(error.kind(), crate::error::chain(&error))
    }
}

impl From<StepFailure> for Problem {
    fn from(failure: StepFailure) -> Self {
        Self::of_kind(failure.kind, failure.message)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).content_type("application/problem+json").json(self)
    }
}
