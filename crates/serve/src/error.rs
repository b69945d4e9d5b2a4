//! What can go wrong at the start, and what can be wrong with a request: with its body, which is read whole within what
//! one request and all requests together may hold, and with what the body says.

use std::borrow::Cow;
use std::future::poll_fn;
use std::ops::Deref;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use delayd_http_limits::arrived_late;
use delayd_model::BundleError;
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("bundle {path} cannot be served")]
    Bundle { path: PathBuf, source: BundleError },
    #[error("cannot listen on {address} ({purpose}): is another process listening there without sharing the port?")]
    Listen { address: String, purpose: &'static str, source: std::io::Error },
    #[error("cannot write the administrative address to {path}")]
    AdminPortFile { path: PathBuf, source: std::io::Error },
    #[error("cannot receive signals")]
    Signal(#[source] std::io::Error),
    #[error("the HTTP server stopped by itself")]
    Stopped(#[source] std::io::Error),
}

/// One thing wrong with a request, in the shape of FastAPI's errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Where: `["body", 3, "origin"]`.
    pub loc: Vec<Place>,
    /// What was expected, and what was found.
    pub msg: String,
    /// A stable word for programs.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// More for programs, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<serde_json::Value>,
}

/// A part of a place in a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Place {
    Name(Cow<'static, str>),
    Index(usize),
}

impl From<&'static str> for Place {
    fn from(name: &'static str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }
}

/// Everything wrong with one request, collected while it is read.
#[derive(Debug)]
pub(crate) struct Faults {
    place: Vec<Place>,
    list: Vec<Violation>,
    unlisted: usize,
}

impl Faults {
    /// So many are listed one by one; a small request must not cause a huge answer.
    const LISTED: usize = 1000;

    pub(crate) fn new() -> Self {
        Self { place: vec!["body".into()], list: Vec::new(), unlisted: 0 }
    }

    /// Runs `read` one step further inside the document.
    pub(crate) fn within<R>(&mut self, place: impl Into<Place>, read: impl FnOnce(&mut Self) -> R) -> R {
        self.enter(place);
        let result = read(self);
        self.leave();
        result
    }

    /// Goes one step further inside the document.
    pub(crate) fn enter(&mut self, place: impl Into<Place>) {
        self.place.push(place.into());
    }

    pub(crate) fn leave(&mut self) {
        self.place.pop();
    }

    pub(crate) fn add(&mut self, kind: &'static str, msg: impl Into<String>) {
        if self.list.len() < Self::LISTED {
            let violation =
                Violation { loc: self.place.clone(), msg: msg.into(), kind: Cow::Borrowed(kind), ctx: None };
            self.list.push(violation);
        } else {
            self.unlisted += 1;
        }
    }

    pub(crate) fn add_at(&mut self, field: impl Into<Place>, kind: &'static str, msg: impl Into<String>) {
        self.within(field, |faults| faults.add(kind, msg));
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.unlisted
    }

    /// All of them, or `Ok` where there are none.
    pub(crate) fn into_result(mut self) -> Result<(), ApiError> {
        if self.unlisted > 0 {
            let msg = format!("{} more violations are not listed", self.unlisted);
            self.list.push(Violation { loc: vec!["body".into()], msg, kind: "too_many_errors".into(), ctx: None });
        }
        if self.list.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.list)) }
    }
}

impl From<usize> for Place {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl From<String> for Place {
    fn from(name: String) -> Self {
        Self::Name(Cow::Owned(name))
    }
}

/// An answer that is not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("body is not JSON: {0}")]
    BrokenJson(serde_json::Error),
    #[error("body was not received whole: {0}")]
    BrokenBody(String),
    #[error("too many large bodies are being received at once; try again in a second")]
    OutOfBodyMemory,
    #[error("request did not arrive whole within {} s; send it faster or send fewer flights", .allowed.as_secs())]
    TooSlow { allowed: Duration },
    #[error("request breaks {} rules", .0.len())]
    Invalid(Vec<Violation>),
    #[error("body is over {limit_bytes} bytes; send fewer flights per request")]
    TooLarge { limit_bytes: usize },
    #[error("content must be application/json in UTF-8 and not compressed, not `{0}`")]
    UnsupportedMedia(String),
    #[error("Not Found")]
    NotFound,
    #[error("Method Not Allowed")]
    MethodNotAllowed { allowed: &'static str },
    #[error("{0}")]
    Conflict(&'static str),
    #[error("answer cannot be written: {0}")]
    Unwritable(serde_json::Error),
}

impl ApiError {
    fn detail(&self) -> serde_json::Value {
        match self {
            Self::Invalid(violations) => json!(violations),
            Self::BrokenJson(error) => json!([Violation {
                loc: vec!["body".into()],
                msg: self.to_string(),
                kind: "json_invalid".into(),
                ctx: Some(json!({ "line": error.line(), "column": error.column() })),
            }]),
            other => json!(other.to_string()),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::BrokenJson(_) | Self::BrokenBody(_) => StatusCode::BAD_REQUEST,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::OutOfBodyMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::MethodNotAllowed { allowed } = self {
            response.insert_header((header::ALLOW, *allowed));
        }
        if matches!(self, Self::OutOfBodyMemory) {
            response.insert_header((header::RETRY_AFTER, "1"));
        }
        response.json(json!({ "detail": self.detail() }))
    }
}

/// Memory for the bodies of all requests together. Without a bound, clients that send most
/// of a large body and then wait would hold a body's limit for every connection.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
}

impl BodyMemory {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, held_bytes: AtomicUsize::new(0) }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

/// A body, and its part of the memory.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    bytes: web::BytesMut,
    memory: &'a BodyMemory,
}

impl Body<'_> {
    fn add(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        let before = self.memory.held_bytes.fetch_add(chunk.len(), Ordering::Relaxed);
        if before + chunk.len() > self.memory.limit_bytes {
            self.memory.held_bytes.fetch_sub(chunk.len(), Ordering::Relaxed);
            return Err(ApiError::OutOfBodyMemory);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        self.memory.held_bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// The whole body of a JSON request, of at most so many bytes, in the memory that all share.
pub(crate) async fn json_body<'a>(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit_bytes: usize,
    memory: &'a BodyMemory,
) -> Result<Body<'a>, ApiError> {
    let text = |name| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        return Err(ApiError::UnsupportedMedia(encoding));
    }
    if let Some(content) = text(header::CONTENT_TYPE) {
        let media = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media != "application/json" && !media.ends_with("+json") {
            return Err(ApiError::UnsupportedMedia(content));
        }
    }
    let announced = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit_bytes) {
        return Err(ApiError::TooLarge { limit_bytes });
    }
    let mut body = Body { bytes: web::BytesMut::new(), memory };
    while let Some(chunk) = poll_fn(|context| Pin::new(&mut payload).poll_next(context)).await {
        let chunk = chunk.map_err(|error| match arrived_late(request) {
            Some(allowed) => ApiError::TooSlow { allowed },
            None => ApiError::BrokenBody(error.to_string()),
        })?;
        if body.len() + chunk.len() > limit_bytes {
            return Err(ApiError::TooLarge { limit_bytes });
        }
        body.add(&chunk)?;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_their_memory_and_give_it_back() {
        let memory = BodyMemory::new(10);
        let mut first = Body { bytes: web::BytesMut::new(), memory: &memory };
        let mut second = Body { bytes: web::BytesMut::new(), memory: &memory };
        first.add(b"123456").unwrap();
        assert!(matches!(second.add(b"12345"), Err(ApiError::OutOfBodyMemory)));
        second.add(b"1234").unwrap();
        assert_eq!(memory.held_bytes(), 10);
        drop(first);
        assert_eq!(memory.held_bytes(), 4);
        drop(second);
        assert_eq!(memory.held_bytes(), 0);
    }
}
