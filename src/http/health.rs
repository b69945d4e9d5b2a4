//! Is it alive, is it ready?

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::server::ApiState;
use crate::supervision::ActorState;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/healthz", web::get().to(alive)).route("/readyz", web::get().to(ready));
}

/// Alive while no actor is dead or hung.
async fn alive(state: web::Data<ApiState>) -> HttpResponse {
    let ill: Vec<String> = state
        .supervision
        .statuses()
        .into_iter()
        .filter(|actor| matches!(actor.state, ActorState::Dead | ActorState::Hung))
        .map(|actor| actor.name)
        .collect();
    if ill.is_empty() {
        HttpResponse::Ok().json(json!({ "alive": true }))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({ "alive": false, "actors": ill }))
    }
}

/// Ready when the ledger answers.
async fn ready(state: web::Data<ApiState>) -> HttpResponse {
    match state.env.ledger.aliases().await {
        Ok(_) => HttpResponse::Ok().json(json!({ "ready": true })),
        Err(error) => {
            HttpResponse::ServiceUnavailable().json(json!({ "ready": false, "why": delayd_core::error::chain(&error) }))
        }
    }
}
