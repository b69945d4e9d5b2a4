//! What every request passes before a handler sees it, and every answer after.

use std::hash::{BuildHasher, Hasher, RandomState};

use actix_web::body::{BoxBody, MessageBody, to_bytes};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, WWW_AUTHENTICATE,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpResponse, ResponseError, web};
use delayd_http_limits::Client;
use sha2::{Digest, Sha256};

use super::session::{Headers, Peer, Session};
use crate::config::Role;
use crate::http::error::{PROBLEM, Problem};
use crate::http::server::ApiState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a Prometheus asks.
const METRICS: [&str; 2] = ["/metrics", "/metrics/targets"];
/// What is asked of the daemon without a token: whether it lives, and the page, which holds no data.
const OPEN: [&str; 3] = ["/", "/healthz", "/readyz"];

/// Refuses who may not ask, names each request, and adds what every answer carries:
/// `X-Request-Id`, an `ETag` on JSON, and problem documents that name the request.
///
/// # Errors
/// Only what actix itself cannot serve.
pub(in crate::http) async fn guard(
    state: web::Data<ApiState>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let id = request_id(request.headers());
    let unchanged_from = request.headers().get(IF_NONE_MATCH).cloned();
    let response = match admit(&state, &request) {
        Ok(()) => match next.call(request).await {
            Ok(response) => response.map_into_boxed_body(),
            Err(error) => return Err(error),
        },
        Err(problem) => request.into_response(problem.error_response()).map_into_boxed_body(),
    };
    finish(response, &id, unchanged_from.as_ref()).await
}

fn admit(state: &ApiState, request: &ServiceRequest) -> Result<(), Problem> {
    let path = request.path();
    if OPEN.contains(&path) || path.starts_with("/page/") || (METRICS.contains(&path) && state.access.open_metrics()) {
        return Ok(());
    }
    let peer = peer_of(request)?;
    let headers = Headers(request.headers());
    let session = state.access.session(&peer, &headers)?;
    let client = match peer {
        Peer::Local { .. } => session.name.clone(),
        Peer::Address(address) => format!("{} at {address}", session.name),
    };
    state.access.limits.request(&client)?;
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && headers.asked_by_another_site() {
        return Err(Problem::new(StatusCode::FORBIDDEN, "a page of another site may not command this daemon"));
    }
    if changes && session.role < Role::Operator {
        return Err(Problem::new(StatusCode::FORBIDDEN, needs_operator(&session)));
    }
    request.extensions_mut().insert(session);
    Ok(())
}

fn needs_operator(session: &Session) -> String {
    format!(
        "{} is a {}; this needs an operator: use a token of role operator, or the daemon's socket on its own machine",
        session.name, session.role
    )
}

fn peer_of(request: &ServiceRequest) -> Result<Peer, Problem> {
    if let Some(Client::User(uid)) = request.conn_data::<Client>() {
        return Ok(Peer::Local { uid: *uid });
    }
    // Without a user or an address the request is refused.
    let address = request.peer_addr().map(|address| Peer::Address(address.ip().to_canonical()));
    address.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "who asks cannot be told from this connection"))
}

/// The client's own name for the request, if it is a sane one, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    given.filter(sane).map_or_else(|| format!("{:016x}", RandomState::new().build_hasher().finish()), str::to_owned)
}

async fn finish(
    response: ServiceResponse<BoxBody>,
    id: &str,
    unchanged_from: Option<&HeaderValue>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let status = response.status();
    let is_problem = kind.starts_with(PROBLEM);
    let tagged = response.request().method() == Method::GET
        && status == StatusCode::OK
        && kind.starts_with("application/json")
        && !response.headers().contains_key(ETAG);
    let mut response = if is_problem || tagged {
        let (request, answer) = response.into_parts();
        let (head, body) = answer.into_parts();
        let bytes = to_bytes(body).await.map_err(actix_web::error::ErrorInternalServerError)?;
        let answer = if is_problem { named(head, &bytes, id) } else { with_etag(head, bytes, unchanged_from) };
        ServiceResponse::new(request, answer)
    } else {
        response
    };
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"delayd\""));
    }
    Ok(response)
}

/// The problem with the request's name in it, so that a report of it can be found in the log.
fn named(head: HttpResponse<()>, bytes: &[u8], id: &str) -> HttpResponse<BoxBody> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(serde_json::Value::Object(mut problem)) => {
            problem.insert("request_id".to_owned(), id.into());
            head.set_body(BoxBody::new(serde_json::Value::Object(problem).to_string()))
        }
        _ => head.set_body(BoxBody::new(bytes.to_vec())),
    }
}

fn with_etag(
    mut head: HttpResponse<()>,
    bytes: web::Bytes,
    unchanged_from: Option<&HeaderValue>,
) -> HttpResponse<BoxBody> {
    let tag = format!("\"{}\"", &hex::encode(Sha256::digest(&bytes))[..32]);
    let unchanged = unchanged_from.and_then(|value| value.to_str().ok()).is_some_and(|wanted| {
        wanted.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
    });
    if let Ok(value) = HeaderValue::from_str(&tag) {
        head.headers_mut().insert(ETAG, value);
    }
    head.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if unchanged {
        *head.status_mut() = StatusCode::NOT_MODIFIED;
        head.headers_mut().remove(CONTENT_TYPE);
        return head.set_body(BoxBody::new(()));
    }
    head.set_body(BoxBody::new(bytes))
}
