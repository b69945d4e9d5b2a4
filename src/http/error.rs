//! Errors as RFC 9457 problem documents.

use actix_web::error::{JsonPayloadError, PathError, QueryPayloadError};
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use delayd_http_limits::arrived_late;
use serde::Serialize;

use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_ledger::LedgerError;

/// The media type of problems.
pub(super) const PROBLEM: &str = "application/problem+json";

/// Bytes of a body, at most.
const LONGEST_BODY: usize = 64 * 1024;

/// A problem, `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
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
    /// The request's name, which is also in `X-Request-Id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) request_id: String,
    /// Seconds after which it makes sense to ask again.
    #[serde(skip)]
    retry_after_secs: Option<u64>,
}

impl Problem {
    /// A problem of a status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self {
            kind: "about:blank".to_owned(),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            request_id: String::new(),
            retry_after_secs: None,
        }
    }

    /// The problem with a `Retry-After`.
    pub(super) fn retry_after(self, secs: u64) -> Self {
        Self { retry_after_secs: Some(secs), ..self }
    }

    /// A body that is no JSON, or not the JSON that was expected.
    pub(super) fn of_json(error: &serde_json::Error) -> Self {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Self::new(status, format!("the body: {error}"))
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
        Self::of_kind(error.kind(), delayd_core::error::chain(&error))
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
        let mut answer = HttpResponse::build(self.status_code());
        if let Some(secs) = self.retry_after_secs {
            answer.insert_header((RETRY_AFTER, secs));
        }
        answer.content_type(PROBLEM).json(self)
    }
}

/// What actix itself refuses, told as problems too.
pub(super) fn refusals(config: &mut web::ServiceConfig) {
    config
        .app_data(web::PayloadConfig::new(LONGEST_BODY))
        .app_data(web::JsonConfig::default().limit(LONGEST_BODY).error_handler(wrong_json))
        .app_data(web::QueryConfig::default().error_handler(wrong_query))
        .app_data(web::PathConfig::default().error_handler(wrong_path));
}

/// A body that cannot be read, or came too late.
pub(super) fn unread_body(error: &actix_web::Error, request: &HttpRequest) -> Problem {
    late_body(request)
        .unwrap_or_else(|| Problem::new(error.as_response_error().status_code(), format!("the body: {error}")))
}

fn late_body(request: &HttpRequest) -> Option<Problem> {
    let allowed = arrived_late(request)?.as_secs();
    let text = format!("the request did not arrive whole within {allowed} s (http.request_deadline_secs)");
    Some(Problem::new(StatusCode::REQUEST_TIMEOUT, text))
}

fn wrong_json(error: JsonPayloadError, request: &HttpRequest) -> actix_web::Error {
    if let Some(problem) = late_body(request) {
        return problem.into();
    }
    let status = match &error {
        JsonPayloadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        JsonPayloadError::Deserialize(error) => return Problem::of_json(error).into(),
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, format!("the body: {error}")).into()
}

fn wrong_query(error: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the query: {error}")).into()
}

fn wrong_path(error: PathError, _: &HttpRequest) -> actix_web::Error {
    Problem::new(StatusCode::NOT_FOUND, format!("the path: {error}")).into()
}

/// Nothing is there.
pub(super) async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let text = format!("there is nothing at {}; /api/v1/openapi.json lists what there is", request.path());
    Err(Problem::new(StatusCode::NOT_FOUND, text))
}
