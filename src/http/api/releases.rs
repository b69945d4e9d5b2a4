//! `/images`, `/deployments`, `/verifications`: what was pushed, released and found good.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::{Listing, parsed};
use crate::http::documents::Listed;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use crate::stages::image_export::ImageExport;
use crate::status::{DeploymentDocument, ListedDeployment, Serving};
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_ledger::{ImageRecord, VerificationRecord};

const CLUSTER_DEADLINE: Duration = Duration::from_secs(2);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/image").get(image))
        .service(web::resource("/images").get(images))
        .service(web::resource("/deployments").get(deployments))
        .service(web::resource("/deployments/{id}").get(deployment))
        .service(web::resource("/verifications").get(verifications));
}

/// Which image.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfModel {
    /// That model's image instead of the one that was pushed last.
    #[param(value_type = Option<ModelVersion>)]
    model: Option<String>,
}

/// The exported image: what a pipeline deploys.
#[utoipa::path(get, path = "/api/v1/image", tag = "releases", params(OfModel),
    responses((status = 200, body = ImageExport)))]
pub(super) async fn image(state: web::Data<ApiState>, wanted: web::Query<OfModel>) -> Result<HttpResponse, Problem> {
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

/// Pushed images.
#[utoipa::path(get, path = "/api/v1/images", tag = "releases", params(Listing),
    responses((status = 200, body = Listed<ImageRecord>)))]
pub(super) async fn images(state: web::Data<ApiState>, listing: web::Query<Listing>) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.images(Listed::<ImageRecord>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// Releases to the cluster.
#[utoipa::path(get, path = "/api/v1/deployments", tag = "releases", params(Listing),
    responses((status = 200, body = Listed<ListedDeployment>)))]
pub(super) async fn deployments(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let serving = serving(&state).await;
    let found = ListedDeployment::list(&state.env.ledger, Listed::<ListedDeployment>::ask(page), serving).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}

/// What the cluster serves. A list is not kept waiting for a cluster that does not answer: it tells what was approved.
async fn serving(state: &ApiState) -> Option<DeploymentId> {
    let asked = tokio::time::timeout(CLUSTER_DEADLINE, Serving::now(state.env.cluster.as_ref())).await;
    asked.ok()?.ok()?.map(|serving| serving.deployment)
}

/// A release and how it was verified.
#[utoipa::path(get, path = "/api/v1/deployments/{id}", tag = "releases",
    params(("id" = DeploymentId, Path, description = "The deployment.")),
    responses((status = 200, body = DeploymentDocument)))]
pub(super) async fn deployment(state: web::Data<ApiState>, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id: DeploymentId = parsed(&id)?;
    let found = DeploymentDocument::read(&state.env.ledger, id, serving(&state).await).await?;
    Ok(HttpResponse::Ok().json(found.ok_or_else(|| Problem::not_found(id))?))
}

/// Verifications of releases, with every check's numbers.
#[utoipa::path(get, path = "/api/v1/verifications", tag = "releases", params(Listing),
    responses((status = 200, body = Listed<VerificationRecord>)))]
pub(super) async fn verifications(
    state: web::Data<ApiState>,
    listing: web::Query<Listing>,
) -> Result<HttpResponse, Problem> {
    let page = listing.page()?;
    let found = state.env.ledger.verifications(Listed::<VerificationRecord>::ask(page)).await?;
    Ok(HttpResponse::Ok().json(Listed::of(page, found)))
}
