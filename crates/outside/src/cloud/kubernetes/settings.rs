//! `[cluster.kubernetes]`: which API server, as whom, and what the service's objects look like; and one object of a release
//! as it is sent to the API server.

use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::api::{ApiResource, GroupVersionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::client::KubernetesClient;
use delayd_core::error::PortError;
use delayd_core::ports::Release;

/// How the service and its pods are addressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// By the addresses of pods and Service: the daemon runs in the cluster or on one of its nodes.
    #[default]
    Direct,
    /// Through the API server's proxy, with the daemon's own credentials: works from anywhere.
    ApiProxy,
}

/// One kind of object that a release consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceObject {
    /// Who may talk to the pods.
    NetworkPolicy,
    /// The address inside the cluster.
    Service,
    /// How many pods an administrator may take away at a time.
    PodDisruptionBudget,
    /// The pods.
    Deployment,
    /// More pods under load.
    HorizontalPodAutoscaler,
    /// The address outside the cluster.
    Ingress,
}

/// `[cluster.kubernetes]`: which API server, as whom, and what a release's objects look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSettings {
    /// Kubeconfig file. When empty: `KUBECONFIG`, else a pod's own service account, else `~/.kube/config`.
    pub kubeconfig: PathBuf,
    /// Context in the kubeconfig; its current one when empty.
    pub context: String,
    /// Namespace of everything; that of the context or of the pod when empty.
    pub namespace: String,
    /// Name of the Deployment, the Service and the other objects.
    pub name: String,
    /// Who owns the objects; when empty a name that is made once and kept in the state directory.
    pub owner: String,
    /// How service and pods are addressed.
    pub access: Access,
    /// Address at which the daemon reaches the service; found out when empty.
    pub service_url: String,
    /// Folder with templates that replace the built-in ones, file by file; none when empty.
    pub templates_dir: PathBuf,
    /// The objects of a release; the Deployment and the Service must be among them.
    pub objects: Vec<ServiceObject>,
    /// Port of the Service.
    pub service_port: u16,
    /// Pods above the wanted number while rolling.
    pub max_surge: u32,
    /// Pods below the wanted number while rolling.
    pub max_unavailable: u32,
    /// Seconds a pod that was told to stop goes on accepting: longer than endpoints take to reach every node.
    pub drain_delay_secs: u64,
    /// Processor time reserved for a pod.
    pub cpu_request: String,
    /// Memory reserved for a pod.
    pub memory_request: String,
    /// Memory above which a pod is killed.
    pub memory_limit: String,
    /// Names of the secrets with which nodes pull the image.
    pub image_pull_secrets: Vec<String>,
    /// Host name of the Ingress; every host when empty.
    pub ingress_host: String,
    /// Class of the Ingress; the cluster's default when empty.
    pub ingress_class: String,
    /// Secret with the Ingress' certificate; no TLS when empty.
    pub ingress_tls_secret: String,
    /// Most pods that the autoscaler starts; the fewest are `cluster.replicas`.
    pub autoscaling_max_replicas: u32,
    /// Share of the requested processor time, in percent, that the autoscaler aims at.
    pub autoscaling_cpu_percent: u32,
    /// Releases whose manifests are kept in the cluster to go back to.
    pub kept_releases: usize,
    /// Seconds until a connection to the API server must stand.
    pub connect_timeout_secs: u64,
    /// Seconds in which the API server must have answered.
    pub request_timeout_secs: u64,
    /// Milliseconds before a call that was refused for the moment is made again; doubled for the second time.
    pub retry_pause_ms: u64,
    /// Milliseconds between looks at a rollout.
    pub poll_interval_ms: u64,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            kubeconfig: PathBuf::new(),
            context: String::new(),
            namespace: "delayd".to_owned(),
            name: "delay-ml".to_owned(),
            owner: String::new(),
            access: Access::default(),
            service_url: String::new(),
            templates_dir: PathBuf::new(),
            objects: vec![ServiceObject::Deployment, ServiceObject::Service, ServiceObject::PodDisruptionBudget],
            service_port: 80,
            max_surge: 1,
            max_unavailable: 0,
            drain_delay_secs: 5,
            cpu_request: "100m".to_owned(),
            memory_request: "128Mi".to_owned(),
            memory_limit: "512Mi".to_owned(),
            image_pull_secrets: Vec::new(),
            ingress_host: String::new(),
            ingress_class: String::new(),
            ingress_tls_secret: String::new(),
            autoscaling_max_replicas: 10,
            autoscaling_cpu_percent: 70,
            kept_releases: 10,
            connect_timeout_secs: 5,
            request_timeout_secs: 15,
            retry_pause_ms: 200,
            poll_interval_ms: 1000,
        }
    }
}

impl KubernetesSettings {
    /// Everything that is wrong with the settings; empty when they can be used.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let has = |object| self.objects.contains(&object);
        let url = &self.service_url;
        let checks = [
            (is_label(&self.name), "name must be a DNS label of at most 45 characters, like delay-ml"),
            (
                self.namespace.is_empty() || is_label(&self.namespace),
                "namespace must be a DNS label like delayd, or empty for that of the credentials",
            ),
            (
                url.is_empty() || url.starts_with("http://") || url.starts_with("https://"),
                "service_url must begin with http:// or https://, or be empty",
            ),
            (
                has(ServiceObject::Deployment) && has(ServiceObject::Service),
                "objects must hold \"deployment\" and \"service\"",
            ),
            (self.service_port > 0, "service_port must be above 0"),
            (
                self.max_surge > 0 || self.max_unavailable > 0,
                "max_surge and max_unavailable cannot both be 0: nothing could be rolled",
            ),
            (self.drain_delay_secs <= 600, "drain_delay_secs must be 600 or less"),
            (
                [&self.cpu_request, &self.memory_request, &self.memory_limit].iter().all(|amount| is_quantity(amount)),
                "cpu_request, memory_request and memory_limit must be quantities like 100m or 128Mi",
            ),
            (self.autoscaling_max_replicas >= 1, "autoscaling_max_replicas must be 1 or more"),
            (self.autoscaling_cpu_percent >= 1, "autoscaling_cpu_percent must be 1 or more"),
            ((2..=100).contains(&self.kept_releases), "kept_releases must be 2 to 100"),
            (self.connect_timeout_secs >= 1, "connect_timeout_secs must be 1 or more"),
            (self.request_timeout_secs >= 1, "request_timeout_secs must be 1 or more"),
            (self.poll_interval_ms >= 50, "poll_interval_ms must be 50 or more"),
        ];
        checks.iter().filter(|(fine, _)| !fine).map(|(_, text)| (*text).to_owned()).collect()
    }
}

/// With `-release-` and the number of a deployment up to nine digits, a name is
/// still within the 63 characters of a DNS label (RFC 1123).
const MAX_NAME_CHARS: usize = 45;

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MAX_NAME_CHARS
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && text.bytes().last().is_some_and(plain)
}

/// Kubernetes' quantities: a decimal number and one of its suffixes.
pub(in crate::cloud) fn is_quantity(text: &str) -> bool {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    number.parse::<f64>().is_ok_and(|amount| amount > 0.0)
        && matches!(suffix, "" | "m" | "k" | "M" | "G" | "T" | "P" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi")
}

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
    use super::*;

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(KubernetesSettings::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_value_that_cannot_be_is_told() {
        let wrong = KubernetesSettings {
            name: "Delay_ML".to_owned(),
            namespace: "-x".to_owned(),
            service_url: "delay-ml:80".to_owned(),
            objects: vec![ServiceObject::Deployment],
            service_port: 0,
            max_surge: 0,
            drain_delay_secs: 601,
            memory_limit: "much".to_owned(),
            autoscaling_max_replicas: 0,
            autoscaling_cpu_percent: 0,
            kept_releases: 1,
            connect_timeout_secs: 0,
            request_timeout_secs: 0,
            poll_interval_ms: 0,
            ..KubernetesSettings::default()
        };
        let told = wrong.faults();
        for key in [
            "name must",
            "namespace",
            "service_url",
            "objects",
            "service_port",
            "max_surge",
            "drain_delay_secs",
            "memory_limit",
            "autoscaling_max",
            "autoscaling_cpu",
            "kept_releases",
            "connect_timeout",
            "request_timeout",
            "poll_interval",
        ] {
            assert!(told.iter().any(|fault| fault.contains(key)), "{key} is not told: {told:?}");
        }
    }

    #[test]
    fn quantities_are_numbers_with_kubernetes_suffixes() {
        assert!(["100m", "500m", "1", "2", "0.5", "1.5Gi", "128Mi", "2G"].iter().all(|text| is_quantity(text)));
        assert!(["", "Mi", "Gi", "0", "1.2.3", "5 Mi", "1kb", "4GB"].iter().all(|text| !is_quantity(text)));
    }
}

#[cfg(test)]
mod manifest_tests {
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
