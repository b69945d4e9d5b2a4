//! How far a rollout is, judged from one look at the cluster. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;

use super::diagnosis::{self, Trouble};
use super::manifest::DEPLOYMENT_LABEL;
use super::pods::{is_active, is_serving};
use delayd_core::ports::Release;

/// One look at a rollout.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Standing {
    /// Pods of the release that answer.
    pub(super) ready: u32,
    /// Pods wanted.
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

impl Standing {
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

/// A pod's name.
pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
        let of = |deployment: &Deployment, pods: &[Pod]| Standing::of(deployment, pods, &release());
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
        let standing = Standing::of(&deployment(2, 1, 3, 2), &[pod("a", 3, true), pod("c", 1, true)], &release());
        assert_eq!(standing.message(&release()), "1 of 2 replicas serve model_v2, 1 of an earlier release still serve");
    }
}
