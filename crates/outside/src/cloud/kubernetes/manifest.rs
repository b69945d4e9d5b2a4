//! One object of a release as it is sent to the API server, and what kinds there are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::api::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::client::KubernetesClient;
use super::settings::ServiceObject;
use delayd_core::error::PortError;
use delayd_core::ports::Release;

/// The service that a pod or object belongs to.
pub(super) const SERVICE_LABEL: &str = "delayd.dev/service";
/// The model that a pod serves.
pub(super) const MODEL_LABEL: &str = "delayd.dev/model";
/// The release that a pod belongs to.
pub(super) const DEPLOYMENT_LABEL: &str = "delayd.dev/deployment";
/// Whose an object is, for people and other tools.
pub(super) const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The daemon that made an object.
pub(super) const OWNER_ANNOTATION: &str = "delayd.dev/owner";
/// The release that a Deployment's pods are of, as JSON.
pub(super) const RELEASE_ANNOTATION: &str = "delayd.dev/release";
/// The name under which our fields are owned in the API server.
pub(super) const FIELD_MANAGER: &str = "delayd";

impl ServiceObject {
    /// Every kind.
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] = [
        Self::NetworkPolicy,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::Ingress,
    ];

    /// Its name in Kubernetes.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::Deployment => "Deployment",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::Ingress => "Ingress",
        }
    }

    /// Its part of a URL, which is also its name in roles.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networkpolicies",
            Self::Service => "services",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
            Self::Deployment => "deployments",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscalers",
            Self::Ingress => "ingresses",
        }
    }

    /// Its API group; empty for the core one.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Service => "",
            Self::Deployment => "apps",
            Self::PodDisruptionBudget => "policy",
            Self::HorizontalPodAutoscaler => "autoscaling",
            Self::NetworkPolicy | Self::Ingress => "networking.k8s.io",
        }
    }
}

/// Versions of the APIs that differ between clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ApiVersions {
    /// `policy/v1` since Kubernetes 1.21; `policy/v1beta1` went with 1.25.
    pub(super) disruption: &'static str,
    /// `autoscaling/v2` since 1.23.
    pub(super) autoscaling: &'static str,
    /// `discovery.k8s.io/v1` since 1.21; before, endpoints are read from the core API.
    pub(super) has_endpoint_slices: bool,
}

impl ApiVersions {
    /// Asks the API server.
    pub(super) async fn discover(client: &KubernetesClient) -> Result<Self, PortError> {
        let (disruption, autoscaling, slices) = tokio::join!(
            serves(client, "policy/v1"),
            serves(client, "autoscaling/v2"),
            serves(client, "discovery.k8s.io/v1")
        );
        Ok(Self {
            disruption: if disruption? { "policy/v1" } else { "policy/v1beta1" },
            autoscaling: if autoscaling? { "autoscaling/v2" } else { "autoscaling/v1" },
            has_endpoint_slices: slices?,
        })
    }

    /// The version in which this kind is written.
    pub(super) fn of(self, object: ServiceObject) -> &'static str {
        match object {
            ServiceObject::Deployment => "apps/v1",
            ServiceObject::Service => "v1",
            ServiceObject::PodDisruptionBudget => self.disruption,
            ServiceObject::HorizontalPodAutoscaler => self.autoscaling,
            ServiceObject::NetworkPolicy | ServiceObject::Ingress => "networking.k8s.io/v1",
        }
    }
}

async fn serves(client: &KubernetesClient, group_version: &'static str) -> Result<bool, PortError> {
    let action = format!("asking whether the cluster serves {group_version}");
    client
        .call(&action, move |connection| async move {
            let listed: Result<APIResourceList, _> = connection.client.list_api_group_resources(group_version).await;
            match listed {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
}

/// One object of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Its kind.
    pub(super) object: ServiceObject,
    /// What is sent, but for the marks of owner and release.
    pub(super) body: Value,
}

impl Manifest {
    /// Its name in the namespace.
    pub(super) fn name(&self) -> &str {
        self.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }

    /// `policy/v1`.
    pub(super) fn api_version(&self) -> &str {
        self.body.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    /// For people: `Deployment delay-ml`.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.object.kind(), self.name())
    }

    /// Whether it is the same object in the cluster, whatever it holds.
    pub(super) fn is_same_object(&self, other: &Self) -> bool {
        self.object == other.object && self.name() == other.name()
    }

    /// Where it is found.
    pub(super) fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version().split_once('/').unwrap_or(("", self.api_version()));
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(group, version, self.object.kind()),
            self.object.plural(),
        )
    }

    /// What is sent: with the owner, and on the Deployment the release.
    pub(super) fn marked(&self, owner: &str, release: &Release) -> Value {
        let mut body = self.body.clone();
        let annotations = object_at(&mut body, &["metadata", "annotations"]);
        annotations.insert(OWNER_ANNOTATION.to_owned(), owner.into());
        if self.object == ServiceObject::Deployment {
            // A release is a struct of texts and numbers: it always has a JSON form.
            let release = serde_json::to_string(release).unwrap_or_default();
            annotations.insert(RELEASE_ANNOTATION.to_owned(), release.into());
        }
        object_at(&mut body, &["metadata", "labels"]).insert(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.into());
        body
    }
}

/// The map at `path`, made where it is missing.
fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match (value, path.split_first()) {
        (Value::Object(map), None) => map,
        (Value::Object(map), Some((first, rest))) => object_at(map.entry(*first).or_insert(Value::Null), rest),
        // It was made an object above.
        (other, _) => object_at(other, path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use delayd_core::ids::{DeploymentId, Digest, ModelVersion};

    #[test]
    fn a_manifest_is_marked_with_owner_and_release_and_keeps_what_it_had() {
        let release = Release {
            deployment: DeploymentId(3),
            model: ModelVersion(2),
            bundle: Digest::of(b"bundle"),
            image: "r/delay-ml@sha256:0".to_owned(),
            bundle_dir: "/bundles".into(),
            replicas: 2,
        };
        let body = json!({"apiVersion": "apps/v1", "metadata": {"name": "a", "annotations": {"mine": "kept"}}});
        let marked = Manifest { object: ServiceObject::Deployment, body }.marked("me", &release);
        let annotations = &marked["metadata"]["annotations"];
        assert_eq!((annotations["mine"].as_str(), annotations[OWNER_ANNOTATION].as_str()), (Some("kept"), Some("me")));
        let told: Release = serde_json::from_str(annotations[RELEASE_ANNOTATION].as_str().unwrap()).unwrap();
        assert_eq!(told, release);
        assert_eq!(marked["metadata"]["labels"][MANAGED_BY_LABEL], "delayd");
    }

    #[test]
    fn core_and_grouped_kinds_are_found_at_their_places() {
        let of = |object, api_version: &str| {
            let resource = Manifest { object, body: json!({"apiVersion": api_version}) }.resource();
            (resource.group, resource.version, resource.plural)
        };
        assert_eq!(of(ServiceObject::Service, "v1"), (String::new(), "v1".to_owned(), "services".to_owned()));
        let budget = of(ServiceObject::PodDisruptionBudget, "policy/v1beta1");
        assert_eq!(budget, ("policy".to_owned(), "v1beta1".to_owned(), "poddisruptionbudgets".to_owned()));
    }
}
