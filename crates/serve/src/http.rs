//! The routes, and what happens around every request: it is counted, timed, and
//! while the replica is leaving its connection is closed after the answer.
//!
//! The trace that a request belongs to (W3C Trace Context, <https://www.w3.org/TR/trace-context/>) is named in the log, so
//! that a cycle's log and its replicas' can be read together. `GET /openapi.json` and `GET /docs` describe the service to
//! programs and to people; the page loads nothing from outside this service.

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_web::dev::ServiceResponse;
use actix_web::http::ConnectionType;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use delayd_features::NumericInput;
use delayd_model::admin::{PredictionPage, ReplicaPhase};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::counters::{InFlight, Route};
use crate::error::{ApiError, Violation, json_body};
use crate::metrics;
use crate::predict::{PredictResponse, predict};
use crate::replica::Worker;
use crate::request::read_flights;

pub(crate) fn configure(config: &mut web::ServiceConfig, admin: bool) {
    config
        .service(get("/", root))
        .service(get("/docs", docs_page))
        .service(get("/openapi.json", openapi_document))
        .service(get("/metrics", metrics::scrape))
        .service(get("/health/live", live))
        .service(get("/health/ready", ready))
        .service(post("/predict", predict_flights));
    if admin {
        config
            .service(get("/admin/v1/sketch", sketch))
            .service(get("/admin/v1/predictions", predictions))
            .service(post("/admin/v1/collected", collected));
    }
    config.default_service(web::to(|| async { Err::<HttpResponse, _>(ApiError::NotFound) }));
}

pub(crate) async fn track<B>(
    worker: Data<Worker>,
    answer: impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let started = Instant::now();
    let counters = worker.replica.counters.clone();
    let _in_flight = InFlight::new(counters.clone(), !worker.admin);
    let mut response = answer.await?;
    if !worker.admin && worker.replica.phase() != ReplicaPhase::Ready {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let request = response.request();
    let route = Route::of(request.match_pattern().as_deref());
    let status = response.status().as_u16();
    let secs = started.elapsed().as_secs_f64();
    counters.shard(worker.shard).request(route, request.method().as_str(), status, secs, is_probe(request));
    if let Some(trace) = trace_of(request) {
        trace.log(route, status, secs, is_probe(request));
    }
    Ok(response)
}

/// A JSON answer, written without the detour of an intermediate value.
pub(crate) fn json_answer<T: Serialize>(value: &T) -> Result<HttpResponse, ApiError> {
    let body = serde_json::to_vec(value).map_err(ApiError::Unwritable)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}

async fn root(worker: Data<Worker>) -> HttpResponse {
    let model = &worker.replica.model;
    HttpResponse::Ok().json(json!({
        "service": "delayd-serve",
        "version": env!("CARGO_PKG_VERSION"),
        "model_version": model.version,
        "bundle": model.bundle,
        "replica": worker.replica.name,
        "docs": "/docs",
    }))
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "live": true }))
}

async fn ready(worker: Data<Worker>) -> HttpResponse {
    let phase = worker.replica.phase();
    let ready = phase == ReplicaPhase::Ready;
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    // The name: replicas of one machine share the public address, and a caller there must see which one answered.
    response.json(json!({
        "ready": ready,
        "phase": phase,
        "model_version": worker.replica.model.version,
        "replica": worker.replica.name,
    }))
}

async fn predict_flights(
    request: HttpRequest,
    payload: web::Payload,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let replica = &worker.replica;
    let body = json_body(&request, payload, replica.max_body_bytes, &replica.body_memory).await?;
    let flights = read_flights(&body, replica.max_batch)?;
    let predictions = predict(&worker, &flights, is_probe(&request)).await;
    json_answer(&PredictResponse {
        model_version: (&*replica.model.version).into(),
        bundle: (&*replica.model.bundle).into(),
        threshold: replica.model.predictor.threshold(),
        predictions,
    })
}

async fn sketch(worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    json_answer(&worker.replica.report())
}

#[derive(Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PageQuery {
    after: u64,
    limit: usize,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self { after: 0, limit: 10_000 }
    }
}

async fn predictions(request: HttpRequest, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let query = web::Query::<PageQuery>::from_query(request.query_string()).map_err(|error| {
        ApiError::Invalid(vec![Violation {
            loc: vec!["query".into()],
            msg: error.to_string(),
            kind: "value_error".into(),
            ctx: None,
        }])
    })?;
    let replica = &worker.replica;
    // The phase first: what is called final must have been recorded before.
    let phase = replica.phase();
    let page = replica.ring.page(query.after, query.limit, &replica.model.version);
    json_answer(&PredictionPage {
        replica: replica.name.clone(),
        started_at: replica.started_at,
        phase,
        predictions: page.predictions,
        next_after: page.next_after,
        lost: page.lost,
        more: page.more,
    })
}

async fn collected(worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let replica = &worker.replica;
    if replica.phase() != ReplicaPhase::Drained {
        return Err(ApiError::Conflict(
            "the counts are not final yet: stop the replica and wait until its phase is `drained`",
        ));
    }
    tracing::info!(in_flight = replica.counters.in_flight.load(Ordering::SeqCst), "the last counts were collected");
    replica.collected.notify_one();
    json_answer(&json!({ "collected": true }))
}

/// A request with this header, of any value, is answered but not counted as traffic.
pub(crate) const PROBE_HEADER: &str = "x-delayd-probe";

pub(crate) fn get<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
    F: Clone,
{
    web::resource(path).route(web::get().to(handler.clone())).route(web::head().to(handler)).default_service(web::to(
        || async { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allowed: "GET, HEAD" }) },
    ))
}

pub(crate) fn post<F, Args>(path: &str, handler: F) -> actix_web::Resource
where
    F: actix_web::Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: actix_web::Responder + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(|| async { Err::<HttpResponse, _>(ApiError::MethodNotAllowed { allowed: "POST" }) }))
}

/// Whether the answer should leave no trace in what is watched for drift.
pub(crate) fn is_probe(request: &HttpRequest) -> bool {
    request.headers().contains_key(PROBE_HEADER)
}

/// The trace of a request, as its header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trace<'a> {
    trace_id: &'a str,
    parent_id: &'a str,
}

fn trace_of(request: &HttpRequest) -> Option<Trace<'_>> {
    request.headers().get("traceparent")?.to_str().ok().and_then(parse)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may add more after it. Anything
/// else, and ids of zeros, count as no trace.
fn parse(header: &str) -> Option<Trace<'_>> {
    let mut parts = header.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let whole = version != "00" || parts.next().is_none();
    let formed = hex(version, 2) && version != "ff" && hex(trace_id, 32) && hex(parent_id, 16) && hex(flags, 2);
    let named = [trace_id, parent_id].iter().all(|id| id.bytes().any(|byte| byte != b'0'));
    (whole && formed && named).then_some(Trace { trace_id, parent_id })
}

impl Trace<'_> {
    /// Logs the request: of probes and failures always, of clients' traffic, which
    /// may be a thousand requests a second, only where the log is talkative.
    fn log(&self, route: Route, status: u16, secs: f64, probe: bool) {
        let Self { trace_id, parent_id } = *self;
        let (route, duration_ms) = (route.label(), secs * 1_000.0);
        // A level is part of a log call's place in the code: it cannot be an argument.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    trace.id = trace_id,
                    parent.id = parent_id,
                    http.route = route,
                    status,
                    duration_ms,
                    "request"
                )
            };
        }
        match (status, probe) {
            (500.., _) => log!(warn),
            (_, true) => log!(info),
            (_, false) => log!(debug),
        }
    }
}

/// All that does not depend on the model or the list of inputs.
const DOCUMENT: &str = include_str!("../assets/openapi.json");
const PAGE: &str = include_str!("../assets/docs.html");

static WITH_CONTEXT: LazyLock<Result<Value, String>> = LazyLock::new(|| {
    let mut document: Value = serde_json::from_str(DOCUMENT).map_err(|error| error.to_string())?;
    let context = NumericInput::ALL.iter().filter(|input| input.is_context()).map(|input| {
        let schema = json!({ "type": ["number", "null"], "description": input.doc().trim() });
        (input.name().to_owned(), schema)
    });
    document["components"]["schemas"]["Context"]["properties"] = Value::Object(context.collect::<Map<_, _>>());
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    Ok(document)
});

/// The OpenAPI document, with the model's own name and limits in it.
async fn openapi_document(worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let replica = &worker.replica;
    let mut document = WITH_CONTEXT.clone().map_err(|error| ApiError::Unwritable(serde::ser::Error::custom(error)))?;
    document["info"]["x-model-version"] = replica.model.version.as_str().into();
    document["info"]["x-bundle"] = replica.model.bundle.as_str().into();
    document["components"]["schemas"]["Flights"]["maxItems"] = replica.max_batch.into();
    Ok(HttpResponse::Ok().json(document))
}

async fn docs_page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
        ))
        .body(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_trace_only_in_the_form_that_w3c_prescribes() {
        let (trace_id, parent_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let whole = format!("00-{trace_id}-{parent_id}-01");
        assert_eq!(parse(&whole), Some(Trace { trace_id, parent_id }));
        assert!(parse(&format!("cc-{trace_id}-{parent_id}-01-later")).is_some(), "a later version");
        for (header, why) in [
            ("", "empty"),
            ("00-4bf92f-00f067aa0ba902b7-01", "short"),
            (&whole.to_uppercase(), "upper case"),
            (&format!("ff-{trace_id}-{parent_id}-01"), "forbidden version"),
            (&format!("{whole}-more"), "more than version 00 has"),
            (&whole.replace(trace_id, &"0".repeat(32)), "no trace"),
            (&whole.replace(parent_id, &"0".repeat(16)), "no parent"),
        ] {
            assert_eq!(parse(header), None, "{why}");
        }
    }
}
