//! `/cycles/{id}/log`: what a cycle logged.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};

use super::cycles::Lines;
use super::parsed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use crate::telemetry::cycle_log_path;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::CycleId;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/cycles/{id}/log").get(cycle_log));
}

/// The log of a cycle, as far as it is written; a log is bounded when it is written.
#[utoipa::path(get, path = "/api/v1/cycles/{id}/log", tag = "cycles",
    params(("id" = CycleId, Path, description = "The cycle."), Lines),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn cycle_log(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    wanted: web::Query<Lines>,
) -> Result<HttpResponse, Problem> {
    let id: CycleId = parsed(&id)?;
    let path = cycle_log_path(&state.settings.daemon.state_dir, id);
    let bytes = match run_blocking(move || std::fs::read(&path)).await? {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let known = state.env.ledger.cycle(id).await?.is_some();
            let why = if known { "its log was removed, or not kept" } else { "it is not in the ledger" };
            return Err(Problem::new(StatusCode::NOT_FOUND, format!("{id} has no log: {why}")));
        }
        Err(error) => {
            let text = format!("the log of {id}: {error}");
            return Err(StepFailure::new(ErrorKind::of_io(&error), text).into());
        }
        Ok(bytes) => bytes,
    };
    let text = wanted.of(&String::from_utf8_lossy(&bytes))?;
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}
