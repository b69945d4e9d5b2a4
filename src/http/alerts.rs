//! `/api/v1/alerts` and `/api/v1/silences`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Duration;
use serde::{Deserialize, Serialize};

use super::api::{CommandBody, Listing, parsed};
use super::error::Problem;
use super::server::ApiState;
use crate::ids::{AlertId, SilenceId};
use crate::ledger::{AuditEntry, NewSilence};

/// The longest silence, in days: what is silenced for longer should not be an alert.
const LONGEST_SILENCE_DAYS: u64 = 30;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/alerts", web::get().to(alerts))
        .route("/alerts/{id}", web::get().to(alert))
        .route("/alerts/{id}/retry", web::post().to(retry))
        .route("/silences", web::get().to(silences))
        .route("/silences", web::post().to(silence))
        .route("/silences/{id}", web::delete().to(end_silence));
}

async fn alerts(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.alerts(listing.page()).await?))
}

async fn alert(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: AlertId = parsed(&id)?;
    let alert = state.env.ledger.alert(id).await?.ok_or_else(|| Problem::not_found(id))?;
    Ok(HttpResponse::Ok().json(alert))
}

/// What a retry answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRetried {
    /// How many deliveries are tried again.
    pub deliveries: usize,
}

/// `all` instead of an id means everything that was given up.
async fn retry(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    body: Option<web::Json<CommandBody>>,
) -> Result<HttpResponse, Problem> {
    let word = word(&state, body, "retry_alert", id.as_str());
    let deliveries = match id.as_str() {
        "all" => state.env.ledger.retry_dead_alerts(word).await?,
        id => state.env.ledger.retry_alert(parsed::<AlertId>(id)?, word).await?,
    };
    Ok(HttpResponse::Ok().json(AlertRetried { deliveries }))
}

async fn silences(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.env.ledger.silences(listing.page()).await?))
}

/// The body of `POST /api/v1/silences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceBody {
    /// How the keys of the alerts in question begin.
    pub prefix: String,
    /// For how many seconds from now.
    pub for_secs: u64,
    /// Who asks.
    #[serde(default)]
    pub by: String,
    /// Why.
    #[serde(default)]
    pub why: String,
}

async fn silence(state: web::Data<ApiState>, body: web::Json<SilenceBody>) -> Result<HttpResponse, Problem> {
    let SilenceBody { prefix, for_secs, by, why } = body.into_inner();
    let wrong = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    if prefix.trim().is_empty() {
        return Err(wrong("prefix is empty; it says how the keys of the alerts begin, such as drift/".to_owned()));
    }
    if !(1..=LONGEST_SILENCE_DAYS * 86_400).contains(&for_secs) {
        return Err(wrong(format!("for_secs is {for_secs}; expected 1 second to {LONGEST_SILENCE_DAYS} days")));
    }
    let begins = state.env.now();
    let until = begins + Duration::seconds(i64::try_from(for_secs).unwrap_or(i64::MAX / 1_000_000));
    let wanted = NewSilence { prefix, begins, until, by: somebody(by), why };
    Ok(HttpResponse::Created().json(state.env.ledger.begin_silence(wanted).await?))
}

async fn end_silence(
    state: web::Data<ApiState>,
    id: web::Path<String>,
    body: Option<web::Json<CommandBody>>,
) -> Result<HttpResponse, Problem> {
    let word = word(&state, body, "end_silence", id.as_str());
    let id: SilenceId = parsed(&id)?;
    Ok(HttpResponse::Ok().json(state.env.ledger.end_silence(id, word).await?))
}

fn somebody(by: String) -> String {
    if by.is_empty() { "somebody".to_owned() } else { by }
}

/// Who wants what, and why, for the record.
fn word(state: &ApiState, body: Option<web::Json<CommandBody>>, action: &str, subject: &str) -> AuditEntry {
    let CommandBody { by, why } = body.map(web::Json::into_inner).unwrap_or_default();
    AuditEntry {
        at: state.env.now(),
        actor: somebody(by),
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail: why,
    }
}
