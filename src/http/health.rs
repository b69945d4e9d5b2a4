//! Is it alive, is it ready?

use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::server::ApiState;
use crate::env::Env;
use delayd_core::ports::ReplicaState;

/// What is known of the service is told again for so long: anybody may ask `/readyz`, as often as they like.
const SERVICE_KNOWN_FOR: Duration = Duration::from_secs(5);
/// A cluster that takes longer is told of as unknown: who asks, as a kubelet, gives the whole answer a second or two.
const SERVICE_DEADLINE: Duration = Duration::from_millis(800);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/healthz", web::get().to(alive)).route("/readyz", web::get().to(ready));
}

/// Alive while no actor is dead or hung.
async fn alive(state: web::Data<ApiState>) -> HttpResponse {
    let ill: Vec<String> = state
        .supervision
        .statuses()
        .into_iter()
        .filter(|actor| actor.state.has_stopped())
        .map(|actor| actor.name)
        .collect();
    if ill.is_empty() {
        HttpResponse::Ok().json(json!({ "alive": true }))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({ "alive": false, "actors": ill }))
    }
}

/// Ready when the ledger answers. How many replicas clients reach is told too and decides nothing:
/// operators need this endpoint most while the service is down.
async fn ready(state: web::Data<ApiState>, service: web::Data<ServiceHealth>) -> HttpResponse {
    let (ledger, service) = tokio::join!(state.env.ledger.aliases(), service.look(&state.env));
    match ledger {
        Ok(_) => HttpResponse::Ok().json(json!({ "ready": true, "service": service })),
        Err(error) => HttpResponse::ServiceUnavailable().json(json!({
            "ready": false,
            "why": delayd_core::error::chain(&error),
            "service": service,
        })),
    }
}

/// How many replicas are ready, as it was seen last.
#[derive(Debug, Default)]
pub(super) struct ServiceHealth(Mutex<Option<(Instant, Value)>>);

impl ServiceHealth {
    async fn look(&self, env: &Env) -> Value {
        // Held while the cluster is asked: many who ask at once cause one question.
        let mut seen = self.0.lock().await;
        if let Some((at, answer)) = seen.as_ref()
            && at.elapsed() < SERVICE_KNOWN_FOR
        {
            return answer.clone();
        }
        let answer = match tokio::time::timeout(SERVICE_DEADLINE, env.cluster.replicas()).await {
            Ok(Ok(replicas)) => {
                let ready = replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).count();
                json!({ "replicas": replicas.len(), "ready": ready })
            }
            Ok(Err(_)) => json!({ "unknown": "the cluster cannot be asked" }),
            Err(_) => json!({ "unknown": "the cluster or a replica does not answer" }),
        };
        *seen = Some((Instant::now(), answer.clone()));
        answer
    }
}
