//! The routes, and what happens around every request: it is counted, timed, and
//! while the replica is leaving its connection is closed after the answer.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_web::dev::ServiceResponse;
use actix_web::http::ConnectionType;
use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use delayd_model::admin::{PredictionPage, ReplicaPhase};
use serde::Serialize;
use serde_json::json;

use crate::body::json_body;
use crate::counters::{Counters, Gauge, Route};
use crate::error::ApiError;
use crate::predict::{PredictResponse, predict};
use crate::request::read_flights;
use crate::routes::{get, is_probe, post};
use crate::state::Worker;
use crate::{docs, inference_protocol, metrics, trace};

pub(crate) fn configure(config: &mut web::ServiceConfig, admin: bool) {
    config
        .service(get("/", root))
        .service(get("/docs", docs::page))
        .service(get("/openapi.json", docs::document))
        .service(get("/metrics", metrics::scrape))
        .service(get("/health/live", live))
        .service(get("/health/ready", ready))
        .service(post("/predict", predict_flights));
    inference_protocol::configure(config);
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
    let _all = Gauge::up(counters.clone(), |counters: &Counters| &counters.in_flight);
    let _public =
        (!worker.admin).then(|| Gauge::up(counters.clone(), |counters: &Counters| &counters.public_in_flight));
    let mut response = answer.await?;
    if !worker.admin && worker.replica.phase() != ReplicaPhase::Ready {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let request = response.request();
    let route = Route::of(request.match_pattern().as_deref());
    let status = response.status().as_u16();
    let secs = started.elapsed().as_secs_f64();
    counters.shard(worker.shard).request(route, request.method().as_str(), status, secs, is_probe(request));
    if let Some(trace) = trace::of(request) {
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
    // The name: replicas of one machine share the public address, and whoever asks there must see who answered.
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
        ApiError::Invalid(vec![crate::error::Violation {
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
