//! `/api/v1`: what the commands need.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::server::ApiState;
use crate::coordinator::messages::{CommandKind, OperatorCommand};
use crate::coordinator::stages::ask;
use crate::error::ErrorKind;
use crate::ids::{CycleId, DecisionId, ModelVersion};
use crate::ledger::{AliasRecord, Cycle, DatasetWeather, Page, ReferenceKind, ReferenceVersion};
use crate::packaging::export::ImageExport;
use crate::packaging::source::build_log_path;
use crate::ports::Replica;
use crate::saga::{StepFailure, run_blocking};
use crate::supervision::ActorStatus;

/// A command may take this long: a rollback replaces every replica.
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/api/v1")
            .route("/status", web::get().to(status))
            .route("/cycles", web::get().to(cycles))
            .route("/cycles/{id}", web::get().to(cycle))
            .route("/cycles/{id}/build-log", web::get().to(build_log))
            .route("/image", web::get().to(image))
            .route("/models", web::get().to(models))
            .route("/models/{version}", web::get().to(model))
            .route("/models/{version}/lineage", web::get().to(lineage))
            .route("/decisions", web::get().to(decisions))
            .route("/decisions/{id}", web::get().to(decision))
            .route("/drift", web::get().to(drift))
            .route("/monitoring", web::get().to(monitoring))
            .route("/reference", web::get().to(reference))
            .configure(super::alerts::routes)
            .route("/{command}", web::post().to(command)),
    );
}

/// `GET /api/v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusDocument {
    /// Version of the daemon.
    pub version: String,
    /// The daemon's clock.
    pub now: DateTime<Utc>,
    /// Where the inference service is reached.
    pub service_url: String,
    /// `live`, `previous` and `candidate`.
    pub aliases: Vec<AliasRecord>,
    /// The cycle under way or the last one.
    pub cycle: Option<Cycle>,
    /// The copies of the service.
    pub replicas: Vec<Replica>,
    /// The daemon's actors.
    pub actors: Vec<ActorStatus>,
}

async fn status(state: web::Data<ApiState>) -> Result<HttpResponse, Problem> {
    let newest = state.env.ledger.cycles(Page { offset: 0, limit: 1 }).await?;
    let document = StatusDocument {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: state.env.now(),
        service_url: state.env.cluster.service_url(),
        aliases: state.env.ledger.aliases().await?,
        cycle: newest.into_iter().next(),
        replicas: state.env.cluster.replicas().await.map_err(StepFailure::from)?,
        actors: state.supervision.statuses(),
    };
    Ok(HttpResponse::Ok().json(document))
}

/// `?limit=&offset=` of the listings.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    limit: Option<u64>,
    offset: Option<u64>,
}

impl Listing {
    pub(super) fn page(&self) -> Page {
        Page { offset: self.offset.unwrap_or(0), limit: self.limit.unwrap_or(50).clamp(1, 1000) }
    }
}

pub(super) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| Problem::new(actix_web::http::StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

async fn cycles(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.cycles(listing.page()).await?))
}

async fn cycle(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: CycleId = parsed(&id)?;
    let cycle = state.env.ledger.cycle(id).await?.ok_or_else(|| Problem::not_found(id))?;
    let steps = state.env.ledger.steps_of(id).await?;
    let decisions = state.env.ledger.decisions_of(id).await?;
    Ok(HttpResponse::Ok().json(serde_json::json!({ "cycle": cycle, "steps": steps, "decisions": decisions })))
}

/// `?lines=`: only so many of the last lines.
#[derive(Debug, Deserialize)]
struct Lines {
    lines: Option<usize>,
}

/// The log of a cycle's build of the service, as far as it is written.
async fn build_log(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    wanted: web::Query<Lines>,
) -> Result<HttpResponse, Problem> {
    let id: CycleId = parsed(&id)?;
    let path = build_log_path(&state.state_dir, id);
    let bytes = run_blocking(move || std::fs::read(&path)).await?.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let text = format!("{id} has no build log: the service at hand was packaged, or the log was removed");
            return Problem::new(actix_web::http::StatusCode::NOT_FOUND, text);
        }
        Problem::from(StepFailure::new(ErrorKind::of_io(&error), format!("the build log of {id}: {error}")))
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let text = match wanted.lines {
        None => text.into_owned(),
        Some(lines) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].iter().map(|line| format!("{line}\n")).collect()
        }
    };
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}

/// `?model=`: that model's image instead of the one that was pushed last.
#[derive(Debug, Deserialize)]
struct OfModel {
    model: Option<String>,
}

/// The exported image: what a pipeline deploys.
async fn image(state: web::Data<ApiState>, wanted: web::Query<OfModel>) -> Result<HttpResponse, Problem> {
    let model: Option<ModelVersion> = wanted.model.as_deref().map(parsed).transpose()?;
    let image = ImageExport::read(&state.env.ledger, model).await?;
    let missing = || {
        model.map_or_else(
            || Problem::not_found("a pushed image"),
            |model| Problem::not_found(format!("a pushed image of {model}")),
        )
    };
    Ok(HttpResponse::Ok().json(image.ok_or_else(missing)?))
}

async fn models(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.models(listing.page()).await?))
}

async fn model(state: web::Data<ApiState>, version: web::Path<String>) -> Result<HttpResponse, Problem> {
    let version: ModelVersion = parsed(&version)?;
    let model = state.env.ledger.model(version).await?.ok_or_else(|| Problem::not_found(version))?;
    Ok(HttpResponse::Ok().json(model))
}

async fn lineage(state: web::Data<ApiState>, version: web::Path<String>) -> Result<HttpResponse, Problem> {
    let version: ModelVersion = parsed(&version)?;
    let lineage = state.env.ledger.lineage(version).await?;
    Ok(HttpResponse::Ok().json(lineage))
}

async fn decisions(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.decisions(listing.page()).await?))
}

async fn decision(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: DecisionId = parsed(&id)?;
    let decision = state.env.ledger.why(id).await?.ok_or_else(|| Problem::not_found(id))?;
    Ok(HttpResponse::Ok().json(decision))
}

async fn drift(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.drift_reports(listing.page()).await?))
}

/// `?days=`: how far back, 7 without it.
#[derive(Debug, Deserialize)]
struct Days {
    days: Option<u32>,
}

/// Realised performance, latency, errors, traffic and score distribution, look by look.
async fn monitoring(state: web::Data<ApiState>, wanted: web::Query<Days>) -> Result<HttpResponse, Problem> {
    let now = state.env.now();
    let from = now - chrono::Duration::days(i64::from(wanted.days.unwrap_or(7).min(400)));
    Ok(HttpResponse::Ok().json(state.env.ledger.metrics_windows(from, now + chrono::Duration::seconds(1)).await?))
}

/// `GET /api/v1/reference`.
#[derive(Debug, Serialize)]
struct ReferenceDocument {
    /// What counts now, the newest version of each kind.
    current: Vec<ReferenceVersion>,
    /// Every version, newest first, with what changed.
    versions: Vec<ReferenceVersion>,
    /// How much of the weather datasets had, newest first.
    weather: Vec<DatasetWeather>,
}

/// Airports, holidays and events with their changes, and the weather of datasets.
async fn reference(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let ledger = &state.env.ledger;
    let mut current = Vec::new();
    for kind in [ReferenceKind::Airports, ReferenceKind::Holidays, ReferenceKind::Events] {
        current.extend(ledger.newest_reference(kind).await?);
    }
    let versions = ledger.reference_versions(listing.page()).await?;
    let weather = ledger.dataset_weather(listing.page()).await?;
    Ok(HttpResponse::Ok().json(ReferenceDocument { current, versions, weather }))
}

/// The body of a command.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandBody {
    /// Who asks.
    pub by: String,
    /// Why.
    pub why: String,
}

async fn command(
    state: web::Data<ApiState>,
    name: web::Path<String>,
    body: Option<web::Json<CommandBody>>,
) -> Result<HttpResponse, Problem> {
    let kind: CommandKind = serde_json::from_value(serde_json::Value::String(name.clone())).map_err(|_| {
        let text = format!("there is no command `{name}`; there are retrain, rollback, approve, reject, pause, resume");
        Problem::new(actix_web::http::StatusCode::NOT_FOUND, text)
    })?;
    let CommandBody { by, why } = body.map(web::Json::into_inner).unwrap_or_default();
    let by = if by.is_empty() { "somebody".to_owned() } else { by };
    let answer = ask(&state.coordinator, OperatorCommand { command: kind, by, why }, COMMAND_DEADLINE).await?;
    Ok(HttpResponse::Ok().json(answer))
}
