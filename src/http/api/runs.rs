//! `/objects`, `/datasets` and `/runs`: what was learned from, and how.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::{Listing, parsed, usual_listing};
use crate::http::documents::Listed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use delayd_core::ids::{Digest, RunId};
use delayd_ledger::{Dataset, IngestedObject, ObjectStatus, RefusedDataset, Run};

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/objects").get(objects))
        .service(web::resource("/datasets").get(datasets))
        .service(web::resource("/datasets/refused").get(refused_datasets))
        .service(web::resource("/datasets/{version}").get(dataset))
        .service(web::resource("/runs").get(runs))
        .service(web::resource("/runs/{id}").get(run));
}

/// Which flight logs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ObjectListing {
    /// Entries to answer at most.
    #[serde(default = "usual_listing")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: u64,
    /// Entries to leave out, from the newest on.
    #[serde(default)]
    #[param(minimum = 0, default = 0, maximum = 9007199254740991_i64)]
    offset: u64,
    /// Only those of this status; all without it.
    status: Option<ObjectStatus>,
}

/// Flight logs by what became of them, each version once: taken in, refused, not to be read.
#[utoipa::path(get, path = "/api/v1/objects", tag = "training", params(ObjectListing),
    responses((status = 200, body = Listed<IngestedObject>)))]
pub(super) async fn objects(
    state: web::Data<ApiState>,
    wanted: web::Query<ObjectListing>,
) -> Result<HttpResponse, Problem> {
    let page = Listing { limit: wanted.limit, offset: wanted.offset }.page()?;
    let found = state.env.ledger.objects(wanted.status, Listed::<IngestedObject>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// What validation found in datasets that broke the contract; no version was made of them.
#[utoipa::path(get, path = "/api/v1/datasets/refused", tag = "training", params(Listing),
    responses((status = 200, body = Listed<RefusedDataset>)))]
pub(super) async fn refused_datasets(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.refused_datasets(Listed::<RefusedDataset>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// Datasets, with their validation reports.
#[utoipa::path(get, path = "/api/v1/datasets", tag = "training", params(Listing),
    responses((status = 200, body = Listed<Dataset>)))]
pub(super) async fn datasets(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.datasets(Listed::<Dataset>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// A dataset: its sources, its window, its validation report.
#[utoipa::path(get, path = "/api/v1/datasets/{version}", tag = "training",
    params(("version" = Digest, Path, description = "The dataset's version.")), responses((status = 200, body = Dataset)))]
pub(super) async fn dataset(state: web::Data<ApiState>, version: web::Path<String>) -> Result<HttpResponse, Problem> {
    let version: Digest = parsed(&version)?;
    let found = state.env.ledger.dataset(version.clone()).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(version))?))
}

/// Training runs.
#[utoipa::path(get, path = "/api/v1/runs", tag = "training", params(Listing), responses((status = 200, body = Listed<Run>)))]
pub(super) async fn runs(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.runs(Listed::<Run>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// A training run: parameters, learning curve by epoch, trials of the search, metrics.
#[utoipa::path(get, path = "/api/v1/runs/{id}", tag = "training",
    params(("id" = RunId, Path, description = "The run.")), responses((status = 200, body = Run)))]
pub(super) async fn run(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: RunId = parsed(&id)?;
    let found = state.env.ledger.run(id).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(id))?))
}
