//! `/cycles` and `/decisions`: what the loop did, and why.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::{Listing, parsed};
use crate::http::documents::{CycleDocument, Listed};
use crate::http::error::Problem;
use crate::http::server::ApiState;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, DecisionId};
use delayd_ledger::{Cycle, Decision};
use delayd_outside::packaging::source::build_log_path;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/cycles").get(cycles))
        .service(web::resource("/cycles/{id}").get(cycle))
        .service(web::resource("/cycles/{id}/build-log").get(build_log))
        .service(web::resource("/decisions").get(decisions))
        .service(web::resource("/decisions/{id}").get(decision));
}

/// Passes of the loop.
#[utoipa::path(get, path = "/api/v1/cycles", tag = "cycles", params(Listing),
    responses((status = 200, body = Listed<Cycle>)))]
pub(super) async fn cycles(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.cycles(Listed::<Cycle>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// A cycle with its steps, decisions, run, verifications and build.
#[utoipa::path(get, path = "/api/v1/cycles/{id}", tag = "cycles", params(("id" = CycleId, Path, description = "The cycle.")),
    responses((status = 200, body = CycleDocument)))]
pub(super) async fn cycle(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: CycleId = parsed(&id)?;
    let found = CycleDocument::read(&state.env.ledger, id).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(id))?))
}

/// How much of a log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Lines {
    /// Only so many of the last lines.
    #[param(minimum = 1, maximum = 1000000)]
    lines: Option<u32>,
}

impl Lines {
    /// The wanted part of a log.
    ///
    /// # Errors
    /// 422 for no line at all.
    pub(super) fn of(&self, text: &str) -> Result<String, Problem> {
        match self.lines {
            None => Ok(text.to_owned()),
            Some(0) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "lines is 0; expected 1 or more")),
            Some(lines) => {
                let all: Vec<&str> = text.lines().collect();
                let first = all.len().saturating_sub(lines as usize);
                Ok(all[first..].iter().map(|line| format!("{line}\n")).collect())
            }
        }
    }
}

/// The log of a cycle's build of the service, as far as it is written.
#[utoipa::path(get, path = "/api/v1/cycles/{id}/build-log", tag = "cycles",
    params(("id" = CycleId, Path, description = "The cycle."), Lines),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn build_log(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    wanted: web::Query<Lines>,
) -> Result<HttpResponse, Problem> {
    let id: CycleId = parsed(&id)?;
    let path = build_log_path(&state.settings.daemon.state_dir, id);
    let bytes = run_blocking(move || std::fs::read(&path)).await?.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let text = format!("{id} has no build log: the service at hand was packaged, or the log was removed");
            return Problem::new(StatusCode::NOT_FOUND, text);
        }
        Problem::from(StepFailure::new(ErrorKind::of_io(&error), format!("the build log of {id}: {error}")))
    })?;
    let text = wanted.of(&String::from_utf8_lossy(&bytes))?;
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}

/// What was decided.
#[utoipa::path(get, path = "/api/v1/decisions", tag = "cycles", params(Listing),
    responses((status = 200, body = Listed<Decision>)))]
pub(super) async fn decisions(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.decisions(Listed::<Decision>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// A decision with its inputs, its tests and what else could have been decided.
#[utoipa::path(get, path = "/api/v1/decisions/{id}", tag = "cycles",
    params(("id" = DecisionId, Path, description = "The decision.")), responses((status = 200, body = Decision)))]
pub(super) async fn decision(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: DecisionId = parsed(&id)?;
    let found = state.env.ledger.why(id).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(id))?))
}
