//! `GET /metrics/targets`: the replicas that Prometheus may scrape, in the form
//! that its HTTP service discovery reads. Local replicas take whichever ports are
//! free, so that no file could name them beforehand.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::error::Problem;
use crate::http::server::ApiState;
use delayd_core::failure::StepFailure;
use delayd_core::ports::{Replica, ReplicaState};

/// One group of targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Target {
    targets: [String; 1],
    labels: Labels,
}

/// Labels for relabelling only: those that begin with `__` are dropped after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Labels {
    #[serde(rename = "__meta_delayd_replica")]
    replica: String,
    #[serde(rename = "__meta_delayd_model")]
    model: String,
}

pub(super) async fn targets(state: web::Data<ApiState>) -> Result<HttpResponse, Problem> {
    let replicas = state.env.cluster.replicas().await.map_err(StepFailure::from)?;
    let targets: Vec<Target> = replicas.iter().filter_map(target).collect();
    Ok(HttpResponse::Ok().json(targets))
}

/// `None` for a replica that cannot be asked, or not at its root by plain HTTP, as
/// behind a proxy: there the cluster's own discovery finds it.
fn target(replica: &Replica) -> Option<Target> {
    let asked = matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining);
    let address = replica.admin_url.strip_prefix("http://")?.trim_end_matches('/');
    let plain = !address.is_empty() && !address.contains('/');
    let labels = Labels { replica: replica.name.clone(), model: replica.model.to_string() };
    (asked && plain).then(|| Target { targets: [address.to_owned()], labels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ids::{DeploymentId, ModelVersion};

    fn replica(state: ReplicaState, admin_url: &str) -> Replica {
        Replica {
            name: "delayd-serve-7".to_owned(),
            model: ModelVersion(2),
            deployment: DeploymentId(3),
            state,
            admin_url: admin_url.to_owned(),
            restarts: 0,
            memory_bytes: None,
            reason: None,
        }
    }

    #[test]
    fn a_replica_is_a_target_while_it_answers_at_an_address_of_its_own() {
        let found = target(&replica(ReplicaState::Ready, "http://127.0.0.1:4100/")).unwrap();
        let text = serde_json::to_string(&[found]).unwrap();
        let labels = r#"{"__meta_delayd_replica":"delayd-serve-7","__meta_delayd_model":"model_v2"}"#;
        assert_eq!(text, format!(r#"[{{"targets":["127.0.0.1:4100"],"labels":{labels}}}]"#));
        assert_eq!(target(&replica(ReplicaState::Starting, "http://127.0.0.1:4100")), None);
        assert_eq!(target(&replica(ReplicaState::Ready, "")), None);
        assert_eq!(target(&replica(ReplicaState::Ready, "http://127.0.0.1:1/proxy/pod")), None);
    }
}
