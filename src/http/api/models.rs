//! `/models` and `/aliases`: what was registered, and what is live.

use actix_web::{HttpResponse, web};

use super::{Listing, parsed};
use crate::http::documents::Listed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use crate::status::ListedModel;
use delayd_core::ids::ModelVersion;
use delayd_ledger::{AliasMove, Lineage};

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/models").get(models))
        .service(web::resource("/models/{version}").get(model))
        .service(web::resource("/models/{version}/lineage").get(lineage))
        .service(web::resource("/aliases").get(aliases));
}

/// Registered models.
#[utoipa::path(get, path = "/api/v1/models", tag = "models", params(Listing),
    responses((status = 200, body = Listed<ListedModel>)))]
pub(super) async fn models(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = ListedModel::list(&state.env.ledger, Listed::<ListedModel>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// A model with its metrics.
#[utoipa::path(get, path = "/api/v1/models/{version}", tag = "models",
    params(("version" = ModelVersion, Path, description = "The model.")), responses((status = 200, body = ListedModel)))]
pub(super) async fn model(state: web::Data<ApiState>, version: web::Path<String>) -> Result<HttpResponse, Problem> {
    let version: ModelVersion = parsed(&version)?;
    let found = ListedModel::read(&state.env.ledger, version).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(version))?))
}

/// A model's graph: sources -> dataset -> run -> model -> image -> deployment.
#[utoipa::path(get, path = "/api/v1/models/{version}/lineage", tag = "models",
    params(("version" = ModelVersion, Path, description = "The model.")), responses((status = 200, body = Lineage)))]
pub(super) async fn lineage(state: web::Data<ApiState>, version: web::Path<String>) -> Result<HttpResponse, Problem> {
    let version: ModelVersion = parsed(&version)?;
    Ok(HttpResponse::Ok().json(state.env.ledger.lineage(version).await?))
}

/// Moves of the aliases `live`, `previous` and `candidate`.
#[utoipa::path(get, path = "/api/v1/aliases", tag = "models", params(Listing),
    responses((status = 200, body = Listed<AliasMove>)))]
pub(super) async fn aliases(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.alias_history(Listed::<AliasMove>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}
