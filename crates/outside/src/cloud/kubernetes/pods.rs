//! Pods as replicas, and how far a rollout is, judged from one look at the Deployment and its pods.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::KubernetesCluster;
use super::diagnosis::{self, Trouble, condition_holds, of_pod};
use super::settings::{DEPLOYMENT_LABEL, MODEL_LABEL};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::read_limited;
use delayd_core::ports::{Release, Replica, ReplicaState};

/// How long a pod may take to tell its memory; without it the answer is unknown.
const MEMORY_DEADLINE: Duration = Duration::from_secs(2);
/// The line of the service's metrics that tells its memory.
const MEMORY_METRIC: &str = "process_resident_memory_bytes ";

/// A page of metrics that is longer is not a replica's.
const MOST_METRICS_BYTES: usize = 4 << 20;

impl KubernetesCluster {
    /// Every pod of the service that is still there, with the memory that it tells.
    pub(super) async fn observed_replicas(&self) -> Result<Vec<Replica>, PortError> {
        let pods = self.pods().await?;
        let replicas = pods.iter().filter_map(|pod| {
            let name = pod.metadata.name.as_deref()?;
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            replica(pod, self.addresses.admin_url(name, ip))
        });
        Ok(join_all(replicas.map(|replica| self.with_memory(replica))).await)
    }

    async fn with_memory(&self, mut replica: Replica) -> Replica {
        if matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining) && !replica.admin_url.is_empty() {
            replica.memory_bytes = self.memory_of(&replica.admin_url).await;
        }
        replica
    }

    /// Unknown rather than an error: a pod that is just leaving is none.
    async fn memory_of(&self, admin_url: &str) -> Option<u64> {
        let answer = self.http.get(format!("{admin_url}/metrics")).timeout(MEMORY_DEADLINE).send().await.ok()?;
        let body = read_limited(answer, MOST_METRICS_BYTES, "reading a replica's metrics").await.ok()?;
        let text = String::from_utf8_lossy(&body);
        let value = text.lines().find_map(|line| line.strip_prefix(MEMORY_METRIC))?;
        value.trim().parse::<f64>().ok().map(|bytes| bytes as u64)
    }
}

/// A pod as a replica; `None` for one that is gone, or that is not of a release.
pub(super) fn replica(pod: &Pod, admin_url: String) -> Option<Replica> {
    let labels = pod.metadata.labels.as_ref()?;
    let (state, reason) = state_of(pod)?;
    Some(Replica {
        name: pod.metadata.name.clone()?,
        model: labels.get(MODEL_LABEL)?.parse().ok()?,
        deployment: labels.get(DEPLOYMENT_LABEL)?.parse().ok()?,
        state,
        admin_url,
        restarts: containers(pod).map(|container| u32::try_from(container.restart_count).unwrap_or_default()).sum(),
        memory_bytes: None,
        reason,
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).into_iter().flatten()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether nothing of the pod runs any more.
fn has_ended(pod: &Pod) -> bool {
    let is_over =
        |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.terminated.is_some());
    matches!(phase(pod), "Failed" | "Succeeded") || (containers(pod).count() > 0 && containers(pod).all(is_over))
}

/// Whether the pod counts: neither leaving nor ended.
pub(super) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase(pod), "Failed" | "Succeeded")
}

/// Whether the pod answers and will keep answering.
pub(super) fn is_serving(pod: &Pod) -> bool {
    is_active(pod) && condition_holds(pod, "Ready")
}

fn state_of(pod: &Pod) -> Option<(ReplicaState, Option<String>)> {
    if pod.metadata.deletion_timestamp.is_some() {
        // Between its end and its disappearance, which the kubelet may take a minute for, nothing is left to ask.
        return (!has_ended(pod)).then_some((ReplicaState::Draining, None));
    }
    let Some(trouble) = of_pod(pod) else { return Some((ReplicaState::Ready, None)) };
    // Waiting is no failure; everything that has a reason of its own is.
    let waits = trouble.kind == ErrorKind::Timeout && !fell_back(pod);
    if waits { Some((ReplicaState::Starting, None)) } else { Some((ReplicaState::Failed, Some(trouble.text))) }
}

/// Whether the running container was ready before: its pod's readiness changed
/// after the container had started.
fn fell_back(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let changed = conditions
        .filter(|condition| condition.type_ == "Ready")
        .find_map(|condition| condition.last_transition_time.as_ref());
    let started = containers(pod).find_map(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    changed.zip(started).is_some_and(|(changed, started)| changed.0 > started.0)
}

/// What one check of a rollout shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RolloutStatus {
    /// Pods of the release that answer.
    pub(super) ready: u32,
    pub(super) wanted: u32,
    /// Pods of other releases that still serve.
    pub(super) outdated: u32,
    /// Whether the release runs as a whole and nothing else does.
    pub(super) done: bool,
    /// Whether the cluster has given it up.
    pub(super) given_up: bool,
    /// What is the matter with pods of the release.
    pub(super) troubles: Vec<Trouble>,
}

impl RolloutStatus {
    /// Judges a Deployment and the service's pods.
    pub(super) fn of(deployment: &Deployment, pods: &[Pod], release: &Release) -> Self {
        let own = release.deployment.to_string();
        let is_own = |pod: &&Pod| label(pod, DEPLOYMENT_LABEL) == Some(own.as_str());
        let ready = count(pods.iter().filter(is_own).filter(|pod| is_serving(pod)));
        let active = count(pods.iter().filter(is_own).filter(|pod| is_active(pod)));
        let outdated = count(pods.iter().filter(|pod| !is_own(pod) && is_active(pod)));
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let seen = status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0);
        let settled = [status.updated_replicas, status.replicas, status.available_replicas]
            .iter()
            .all(|number| number.unwrap_or(0) == wanted);
        let wanted = u32::try_from(wanted).unwrap_or(0);
        let mut troubles: Vec<Trouble> = pods.iter().filter(is_own).filter_map(diagnosis::of_pod).collect();
        // A pod that the cluster ended and has replaced already is history.
        troubles.retain(|trouble| pods.iter().any(|pod| is_active(pod) && name(pod) == trouble.pod));
        troubles.extend(diagnosis::of_deployment(deployment).filter(|_| active < wanted));
        Self {
            ready,
            wanted,
            outdated,
            done: seen && settled && ready == wanted && active == wanted && outdated == 0,
            given_up: seen && diagnosis::is_given_up(deployment),
            troubles,
        }
    }

    /// Whether waiting longer is of no use.
    pub(super) fn is_broken(&self) -> bool {
        self.troubles.iter().any(|trouble| trouble.definitive)
    }

    /// One line for people.
    pub(super) fn message(&self, release: &Release) -> String {
        let leaving = match self.outdated {
            0 => String::new(),
            number => format!(", {number} of an earlier release still serve"),
        };
        format!("{} of {} replicas serve {}{leaving}", self.ready, self.wanted, release.model)
    }
}

fn count<'a>(pods: impl Iterator<Item = &'a Pod>) -> u32 {
    u32::try_from(pods.count()).unwrap_or(u32::MAX)
}

fn label<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: &Value, status: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "labels": {MODEL_LABEL: "model_v2", DEPLOYMENT_LABEL: "deployment_3"}},
            "status": status,
        });
        pod["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        serde_json::from_value(pod).unwrap()
    }

    fn running(ready: bool, started: &str, changed: &str) -> Value {
        json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": changed}],
            "containerStatuses": [{"name": "serve", "image": "", "imageID": "", "ready": ready, "restartCount": 1,
                "state": {"running": {"startedAt": started}}}],
        })
    }

    fn state(metadata: &Value, status: &Value) -> Option<ReplicaState> {
        replica(&pod(metadata, status), String::new()).map(|replica| replica.state)
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-01T00:05:00Z";

    #[test]
    fn a_pod_s_life_is_told_as_a_replica_s() {
        let leaving = json!({"deletionTimestamp": LATE});
        let mut ended = running(false, EARLY, LATE);
        ended["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0}});
        let unscheduled =
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
        for (metadata, status, expected) in [
            (json!({}), json!({"phase": "Pending"}), Some(ReplicaState::Starting)),
            (json!({}), unscheduled, Some(ReplicaState::Failed)),
            (json!({}), running(true, EARLY, LATE), Some(ReplicaState::Ready)),
            (json!({}), running(false, EARLY, EARLY), Some(ReplicaState::Starting)),
            (json!({}), running(false, EARLY, LATE), Some(ReplicaState::Failed)),
            (leaving.clone(), running(false, EARLY, LATE), Some(ReplicaState::Draining)),
            (leaving.clone(), json!({"phase": "Succeeded"}), None),
            (leaving, ended, None),
            (json!({}), json!({"phase": "Failed", "reason": "Evicted"}), Some(ReplicaState::Failed)),
        ] {
            assert_eq!(state(&metadata, &status), expected, "{metadata} {status}");
        }
    }

    #[test]
    fn restarts_and_the_release_are_read_off_the_pod() {
        let replica = replica(&pod(&json!({}), &running(true, EARLY, LATE)), "http://p".to_owned()).unwrap();
        assert_eq!((replica.restarts, replica.model.0, replica.deployment.0), (1, 2, 3));
    }

    #[test]
    fn a_stranger_s_pod_is_no_replica() {
        let stranger = pod(&json!({"labels": {"app": "other"}}), &running(true, EARLY, LATE));
        assert_eq!(replica(&stranger, String::new()), None);
    }
}

#[cfg(test)]
mod standing_tests {
    use serde_json::json;

    use super::*;
    use delayd_core::ids::{DeploymentId, Digest, ModelVersion};

    fn release() -> Release {
        Release {
            deployment: DeploymentId(3),
            model: ModelVersion(2),
            bundle: Digest::of(b"bundle"),
            image: String::new(),
            bundle_dir: "/b".into(),
            replicas: 2,
        }
    }

    fn deployment(observed: i64, updated: i32, replicas: i32, available: i32) -> Deployment {
        let deployment = json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"observedGeneration": observed, "updatedReplicas": updated, "replicas": replicas,
                       "availableReplicas": available},
        });
        serde_json::from_value(deployment).unwrap()
    }

    fn pod(name: &str, deployment: u64, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "labels": {DEPLOYMENT_LABEL: format!("deployment_{deployment}")}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_rollout_is_done_when_exactly_the_wanted_pods_of_the_release_serve() {
        let (a, b) = (pod("a", 3, true), pod("b", 3, true));
        let of = |deployment: &Deployment, pods: &[Pod]| RolloutStatus::of(deployment, pods, &release());
        assert!(of(&deployment(2, 2, 2, 2), &[a.clone(), b.clone()]).done);
        for (what, deployment, pods) in [
            ("the change was not seen yet", deployment(1, 2, 2, 2), vec![a.clone(), b.clone()]),
            ("one is not updated", deployment(2, 1, 2, 2), vec![a.clone(), b.clone()]),
            ("one is not ready", deployment(2, 2, 2, 2), vec![a.clone(), pod("b", 3, false)]),
            ("an old one serves", deployment(2, 2, 2, 2), vec![a.clone(), b.clone(), pod("c", 1, true)]),
            ("one too many", deployment(2, 2, 2, 2), vec![a.clone(), b.clone(), pod("c", 3, true)]),
        ] {
            assert!(!of(&deployment, &pods).done, "{what}");
        }
    }

    #[test]
    fn what_is_said_counts_new_and_old() {
        let standing = RolloutStatus::of(&deployment(2, 1, 3, 2), &[pod("a", 3, true), pod("c", 1, true)], &release());
        assert_eq!(standing.message(&release()), "1 of 2 replicas serve model_v2, 1 of an earlier release still serve");
    }
}
