//! `/drift`, `/monitoring`, `/reference`: what was seen in production.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Duration, Utc};
use serde::Deserialize;

use super::{Listing, parsed};
use crate::http::documents::{Listed, ReferenceDocument};
use crate::http::error::Problem;
use crate::http::server::ApiState;
use crate::stages::watch::drift_brief::DriftBrief;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::DriftReportId;
use delayd_ledger::{DriftRecord, MetricsWindow};

/// As far back as `/monitoring` looks, in days.
const LONGEST_LOOK_DAYS: u32 = 400;
/// Looks that may be asked for by their number.
const MOST_POINTS: u32 = 10_000;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/drift").get(drift))
        .service(web::resource("/drift/features").get(drift_by_feature))
        .service(web::resource("/drift/{id}").get(drift_report))
        .service(web::resource("/monitoring").get(monitoring))
        .service(web::resource("/reference").get(reference));
}

/// Drift reports: by feature and window.
#[utoipa::path(get, path = "/api/v1/drift", tag = "monitoring", params(Listing),
    responses((status = 200, body = Listed<DriftRecord>)))]
pub(super) async fn drift(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.drift_reports(Listed::<DriftRecord>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// How far every input moved, report by report: the listing without the bins, a tenth of its size.
#[utoipa::path(get, path = "/api/v1/drift/features", tag = "monitoring", params(Listing),
    responses((status = 200, body = Listed<DriftBrief>)))]
pub(super) async fn drift_by_feature(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.drift_reports(Listed::<DriftRecord>::ask(page)).await?;
    let Listed { items, next_offset } = Listed::of(page, found);
    let brief = |record: &DriftRecord| {
        DriftBrief::of(record).map_err(|error| {
            StepFailure::new(ErrorKind::Corrupt, format!("{} is stored in another form: {error}", record.id))
        })
    };
    let items = items.iter().map(brief).collect::<Result<Vec<_>, _>>()?;
    Ok(HttpResponse::Ok().json(Listed { items, next_offset }))
}

/// One drift report.
#[utoipa::path(get, path = "/api/v1/drift/{id}", tag = "monitoring",
    params(("id" = DriftReportId, Path, description = "The report.")), responses((status = 200, body = DriftRecord)))]
pub(super) async fn drift_report(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: DriftReportId = parsed(&id)?;
    let found = state.env.ledger.drift_report(id).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(id))?))
}

/// Which looks.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Days {
    /// Days back from `until`.
    #[serde(default = "a_week")]
    #[param(minimum = 1, maximum = 400, default = 7)]
    days: u32,
    /// Their end, exclusive; now without it.
    until: Option<DateTime<Utc>>,
    /// So many at most, left evenly over the time, the newest among them; all without it. A chart needs no more.
    #[param(minimum = 1, maximum = 10000)]
    points: Option<u32>,
}

fn a_week() -> u32 {
    7
}

/// Realised performance, latency, errors, traffic and score distribution, look by look, oldest first.
#[utoipa::path(get, path = "/api/v1/monitoring", tag = "monitoring", params(Days),
    responses((status = 200, body = Vec<MetricsWindow>)))]
pub(super) async fn monitoring(state: web::Data<ApiState>, wanted: web::Query<Days>) -> Result<HttpResponse, Problem> {
    if !(1..=LONGEST_LOOK_DAYS).contains(&wanted.days) {
        let text = format!("days is {}; expected 1 to {LONGEST_LOOK_DAYS}", wanted.days);
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    if !wanted.points.is_none_or(|points| (1..=MOST_POINTS).contains(&points)) {
        let text = format!("points is {}; expected 1 to {MOST_POINTS}", wanted.points.unwrap_or_default());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let until = wanted.until.unwrap_or_else(|| state.env.now() + Duration::seconds(1));
    let from = until.checked_sub_signed(Duration::days(i64::from(wanted.days))).unwrap_or(until);
    let ledger = &state.env.ledger;
    let looks = match wanted.points {
        Some(points) => ledger.metrics_windows_thinned(from, until, points).await?,
        None => ledger.metrics_windows(from, until).await?,
    };
    Ok(HttpResponse::Ok().json(looks))
}

/// Airports, holidays and events with their changes, and the weather of datasets.
#[utoipa::path(get, path = "/api/v1/reference", tag = "monitoring", params(Listing),
    responses((status = 200, body = ReferenceDocument)))]
pub(super) async fn reference(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(ReferenceDocument::read(&state.env.ledger, listing.page()?).await?))
}
