//! `/api/v1/alerts` and `/api/v1/silences`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Duration;
use serde::{Deserialize, Serialize};

use super::commands::doer;
use super::{CommandBody, Listing, parsed};
use crate::http::access::Session;
use crate::http::documents::Listed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use delayd_core::ids::{AlertId, SilenceId};
use delayd_ledger::{AuditEntry, NewSilence, OutboxAlert, Silence};

/// The longest silence, in days: what is silenced for longer should not be an alert.
/// Days that a silence lasts at most.
pub const LONGEST_SILENCE_DAYS: u64 = 30;
/// Characters of a silence's prefix.
const LONGEST_PREFIX: usize = 200;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/alerts").get(alerts))
        .service(web::resource("/alerts/{id}").get(alert))
        .service(web::resource("/alerts/{id}/retry").post(retry))
        .service(web::resource("/silences").get(silences).post(silence))
        .service(web::resource("/silences/{id}").delete(end_silence));
}

/// What was told, to whom, and how that stands.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(Listing),
    responses((status = 200, body = Listed<OutboxAlert>)))]
pub(super) async fn alerts(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.alerts(Listed::<OutboxAlert>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// One alert.
#[utoipa::path(get, path = "/api/v1/alerts/{id}", tag = "alerts",
    params(("id" = AlertId, Path, description = "The alert.")), responses((status = 200, body = OutboxAlert)))]
pub(super) async fn alert(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: AlertId = parsed(&id)?;
    let alert = state.env.ledger.alert(id).await?.ok_or_else(|| Problem::not_found(id))?;
    Ok(HttpResponse::Ok().json(alert))
}

/// What a retry answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlertRetried {
    /// How many deliveries are tried again.
    pub deliveries: usize,
}

/// Tries again what was given up of an alert; `all` instead of an id means of every alert.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/retry", tag = "alerts",
    params(("id" = String, Path, description = "The alert, or `all`.", pattern = "^(all|alert_[1-9][0-9]{0,17})$")),
    request_body = Option<CommandBody>, responses((status = 200, body = AlertRetried)))]
pub(super) async fn retry(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
    id: web::Path<String>,
    body: CommandBody,
) -> Result<HttpResponse, Problem> {
    let word = word(&state, &session, body, "retry_alert", id.as_str());
    let deliveries = match id.as_str() {
        "all" => state.env.ledger.retry_dead_alerts(word).await?,
        id => state.env.ledger.retry_alert(parsed::<AlertId>(id)?, word).await?,
    };
    Ok(HttpResponse::Ok().json(AlertRetried { deliveries }))
}

/// Silences, ended ones too.
#[utoipa::path(get, path = "/api/v1/silences", tag = "alerts", params(Listing),
    responses((status = 200, body = Listed<Silence>)))]
pub(super) async fn silences(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.silences(Listed::<Silence>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// The body of `POST /api/v1/silences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilenceBody {
    /// How the keys of the alerts in question begin.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub prefix: String,
    /// For how many seconds from now.
    #[schema(minimum = 1, maximum = 2592000)]
    pub for_secs: u64,
    /// In whose name, where that is somebody else than the session's own.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub by: String,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 2000)]
    pub why: String,
}

/// Begins a silence: alerts whose keys begin so are noted, and told to nobody.
#[utoipa::path(post, path = "/api/v1/silences", tag = "alerts", request_body = SilenceBody,
    responses((status = 201, body = Silence)))]
pub(super) async fn silence(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
    body: web::Json<SilenceBody>,
) -> Result<HttpResponse, Problem> {
    let SilenceBody { prefix, for_secs, by, why } = body.into_inner();
    let CommandBody { by, why } = CommandBody { by, why }.checked()?;
    let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    if prefix.chars().count() > LONGEST_PREFIX {
        return Err(wrong(format!("prefix has more than {LONGEST_PREFIX} characters")));
    }
    if prefix.trim().is_empty() {
        return Err(wrong("prefix is empty; it says how the keys of the alerts begin, such as drift/".to_owned()));
    }
    if !(1..=LONGEST_SILENCE_DAYS * 86_400).contains(&for_secs) {
        return Err(wrong(format!("for_secs is {for_secs}; expected 1 second to {LONGEST_SILENCE_DAYS} days")));
    }
    let begins = state.env.now();
    let until = begins + Duration::seconds(i64::try_from(for_secs).unwrap_or(i64::MAX / 1_000_000));
    let wanted = NewSilence { prefix, begins, until, by: doer(&session, &by), why };
    Ok(HttpResponse::Created().json(state.env.ledger.begin_silence(wanted).await?))
}

/// Ends a silence before its time.
#[utoipa::path(delete, path = "/api/v1/silences/{id}", tag = "alerts",
    params(("id" = SilenceId, Path, description = "The silence.")),
    request_body = Option<CommandBody>, responses((status = 200, body = Silence)))]
pub(super) async fn end_silence(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
    id: web::Path<String>,
    body: CommandBody,
) -> Result<HttpResponse, Problem> {
    let word = word(&state, &session, body, "end_silence", id.as_str());
    let id: SilenceId = parsed(&id)?;
    Ok(HttpResponse::Ok().json(state.env.ledger.end_silence(id, word).await?))
}

/// Who wants what, and why, for the record.
fn word(state: &ApiState, session: &Session, body: CommandBody, action: &str, subject: &str) -> AuditEntry {
    AuditEntry {
        at: state.env.now(),
        actor: doer(session, &body.by),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail: body.why,
    }
}
