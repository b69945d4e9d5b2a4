//! `/status`, `/session`, `/audit`, `/config`: the daemon itself.

use actix_web::{HttpResponse, web};

use super::Listing;
use crate::config::Role;
use crate::http::access::Session;
use crate::http::documents::Listed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use crate::status::StatusDocument;
use delayd_ledger::AuditRecord;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/status").get(status))
        .service(web::resource("/session").get(session))
        .service(web::resource("/audit").get(audit))
        .service(web::resource("/config").get(config_in_force));
}

/// What needs attention, which commands can be given now, what is live and what serves, how replicas and actors are.
#[utoipa::path(get, path = "/api/v1/status", tag = "daemon", responses((status = 200, body = StatusDocument)))]
pub(super) async fn status(state: web::Data<ApiState>) -> Result<HttpResponse, Problem> {
    let status = StatusDocument::of_daemon(&state.env, &state.settings, state.supervision.statuses()).await?;
    Ok(HttpResponse::Ok().json(status))
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/api/v1/session", tag = "daemon", responses((status = 200, body = Session)))]
pub(super) async fn session(session: web::ReqData<Session>) -> HttpResponse {
    HttpResponse::Ok().json(session.into_inner())
}

/// Who did what, and why.
#[utoipa::path(get, path = "/api/v1/audit", tag = "daemon", params(Listing),
    responses((status = 200, body = Listed<AuditRecord>)))]
pub(super) async fn audit(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.audit(Listed::<AuditRecord>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// The configuration in force, as TOML; secrets are shown as `***` or by where they are kept. For operators.
#[utoipa::path(get, path = "/api/v1/config", tag = "daemon",
    responses((status = 200, body = String, content_type = "application/toml")))]
pub(super) async fn config_in_force(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
) -> Result<HttpResponse, Problem> {
    use actix_web::http::StatusCode;
    if session.role < Role::Operator {
        return Err(Problem::new(StatusCode::FORBIDDEN, "the configuration is shown to operators only"));
    }
    let text = state.settings.to_toml();
    let text = text.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(HttpResponse::Ok().content_type("application/toml; charset=utf-8").body(text))
}
