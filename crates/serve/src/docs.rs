//! `GET /openapi.json` and `GET /docs`: the description of the service, for
//! programs and for people. The page asks for nothing outside this service.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::web::Data;
use delayd_features::NumericInput;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::state::Worker;

/// All that does not depend on the model or the list of inputs.
const DOCUMENT: &str = include_str!("../assets/openapi.json");
const PAGE: &str = include_str!("../assets/docs.html");

static WITH_CONTEXT: LazyLock<Result<Value, String>> = LazyLock::new(|| {
    let mut document: Value = serde_json::from_str(DOCUMENT).map_err(|error| error.to_string())?;
    let context = NumericInput::ALL.iter().filter(|input| input.is_context()).map(|input| {
        let schema = json!({ "type": ["number", "null"], "description": input.doc().trim() });
        (input.name().to_owned(), schema)
    });
    document["components"]["schemas"]["Context"]["properties"] = Value::Object(context.collect::<Map<_, _>>());
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    Ok(document)
});

/// The OpenAPI document, with the model's own name and limits in it.
pub(crate) async fn document(worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let replica = &worker.replica;
    let mut document = WITH_CONTEXT.clone().map_err(|error| ApiError::Unwritable(serde::ser::Error::custom(error)))?;
    document["info"]["x-model-version"] = replica.model.version.as_str().into();
    document["info"]["x-bundle"] = replica.model.bundle.as_str().into();
    document["components"]["schemas"]["Flights"]["maxItems"] = replica.max_batch.into();
    Ok(HttpResponse::Ok().json(document))
}

pub(crate) async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
        ))
        .body(PAGE)
}
