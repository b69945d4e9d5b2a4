//! The cluster of production: a Kubernetes Deployment behind a Service.
//!
//! A release's objects are made from templates that the user can edit, applied from
//! our side (server-side apply, field manager `delayd`), waited for with a deadline,
//! and on failure taken back as a whole; the error tells what pods, events and logs
//! say. What runs is remembered in the cluster itself, under the owner's name: any
//! number of restarts finds it, and a second daemon is refused.
//!
//! The cluster restarts pods that die, moves them off nodes and balances load; none of
//! that is done here. Images are pulled by the nodes: an image must be in a registry.

mod address;
pub(in crate::cloud) mod client;
mod diagnosis;
mod live;
mod pods;
mod record;
mod repair;
mod rollout;
mod settings;
mod templates;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, PostParams};

use self::address::{Addresses, LoopbackProxy};
use self::client::KubernetesClient;
use self::record::Owner;
use self::settings::ApiVersions;
pub(in crate::cloud) use self::settings::is_quantity;
pub use self::settings::{Access, KubernetesSettings, ServiceObject};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::transport_error;
use delayd_core::ports::{Cluster, Release, Replica, RolloutProgress};

/// How the service runs on Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesClusterConfig {
    /// `[cluster.kubernetes]`.
    pub settings: KubernetesSettings,
    /// Where the daemon's name is kept.
    pub state_dir: PathBuf,
    /// How long a release may take to come back, and when the cluster calls a rollout stuck.
    pub ready_deadline: Duration,
    /// How long a drained pod stays for its sketches to be fetched.
    pub drain_linger: Duration,
}

/// The service as a Kubernetes Deployment.
#[derive(Debug)]
pub struct KubernetesCluster {
    config: KubernetesClusterConfig,
    client: Arc<KubernetesClient>,
    addresses: Addresses,
    owner: Owner,
    http: reqwest::Client,
    /// Makes a new connection for every request.
    unpooled: reqwest::Client,
    /// One rollout, reconciliation or tear-down at a time.
    rollout: tokio::sync::Mutex<()>,
    versions: tokio::sync::Mutex<Option<ApiVersions>>,
    memory: Mutex<Memory>,
}

/// What is known only while this daemon runs, and may be forgotten.
#[derive(Debug, Default)]
struct Memory {
    /// The release that ran when we looked last.
    release: Option<Release>,
    /// The versions of objects that were found to be as applied.
    verified: HashMap<String, String>,
}

impl KubernetesCluster {
    /// The service that the settings name. Asks the API server nothing.
    pub fn open(config: KubernetesClusterConfig) -> Result<Self, PortError> {
        let settings = &config.settings;
        let client = Arc::new(KubernetesClient::new(settings)?);
        let proxy = match settings.access {
            Access::Direct => None,
            Access::ApiProxy => Some(LoopbackProxy::start(client.clone(), &settings.name, settings.service_port)?),
        };
        // Service and pods are addressed directly: a proxy of the environment is for the world outside.
        let http = |idle: usize| {
            let builder = delayd_core::http_client::client_builder().no_proxy().pool_max_idle_per_host(idle);
            let builder = builder.connect_timeout(Duration::from_secs(settings.connect_timeout_secs));
            builder.build().map_err(|error| transport_error("setting up the cluster's HTTP client", error))
        };
        Ok(Self {
            addresses: Addresses::new(settings, proxy),
            owner: Owner::new(&settings.owner, &config.state_dir),
            http: http(usize::MAX)?,
            unpooled: http(0)?,
            client,
            rollout: tokio::sync::Mutex::new(()),
            versions: tokio::sync::Mutex::new(None),
            memory: Mutex::default(),
            config,
        })
    }

    fn settings(&self) -> &KubernetesSettings {
        &self.config.settings
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.settings().poll_interval_ms)
    }

    fn selector_text(&self) -> String {
        let labels = templates::selector(&self.settings().name);
        labels.iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>().join(",")
    }

    /// What the cluster serves, asked once for every rollout.
    async fn versions(&self) -> Result<ApiVersions, PortError> {
        let mut known = self.versions.lock().await;
        if let Some(versions) = *known {
            return Ok(versions);
        }
        let versions = ApiVersions::discover(&self.client).await?;
        *known = Some(versions);
        Ok(versions)
    }

    async fn forget_versions(&self) {
        *self.versions.lock().await = None;
    }

    async fn live_deployment(&self) -> Result<Option<Deployment>, PortError> {
        let name = &self.settings().name;
        self.client.find(&format!("reading Deployment {name}"), name).await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, release: Option<Release>) {
        self.memory().release = release;
    }

    fn remembered(&self) -> Option<Release> {
        self.memory().release.clone()
    }

    fn is_verified(&self, object: &str, version: &str) -> bool {
        !version.is_empty() && self.memory().verified.get(object).map(String::as_str) == Some(version)
    }

    fn note_verified(&self, object: String, version: String) {
        self.memory().verified.insert(object, version);
    }

    fn forget_verified(&self) {
        self.memory().verified.clear();
    }
}

#[async_trait]
impl Cluster for KubernetesCluster {
    async fn apply(
        &self,
        release: &Release,
        deadline: Duration,
        progress: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        let _rollout = self.rollout.lock().await;
        self.apply_release(release, Instant::now() + deadline, progress).await
    }

    async fn current(&self) -> Result<Option<Release>, PortError> {
        Ok(self.own_record().await?.and_then(|record| record.applied))
    }

    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        self.observed_replicas().await
    }

    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        let _rollout = self.rollout.lock().await;
        self.restore_wanted_state().await
    }

    fn service_url(&self) -> String {
        self.addresses.service_url()
    }

    async fn tear_down(&self) -> Result<(), PortError> {
        let _rollout = self.rollout.lock().await;
        self.remove_everything().await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.check_rights().await
    }
}

/// Questions asked at the same time.
const CONCURRENCY: usize = 8;

/// One right, as roles name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Right {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// Every right that these settings need; `k8s/rbac/role.yaml` grants them.
fn needed(settings: &KubernetesSettings) -> Vec<Right> {
    let mut rights = Vec::new();
    let mut add = |group, resource, subresource, verbs: &[&'static str]| {
        rights.extend(verbs.iter().map(|verb| Right { group, resource, subresource, verb }));
    };
    for object in &settings.objects {
        add(object.group(), object.plural(), "", &["get", "create", "patch", "delete"]);
    }
    add("", "configmaps", "", &["get", "list", "create", "update", "delete"]);
    add("", "pods", "", &["list"]);
    add("", "pods", "log", &["get"]);
    add("", "events", "", &["list"]);
    if settings.access == Access::ApiProxy {
        add("", "pods", "proxy", &["get", "create"]);
        add("", "services", "proxy", &["get", "create"]);
    }
    rights
}

impl KubernetesCluster {
    /// Whether the API server answers, the namespace is there, and every right is granted.
    pub(super) async fn check_rights(&self) -> Result<String, PortError> {
        let version = self.client.call("asking for the API server's version", |connection| async move {
            connection.client.apiserver_version().await.map(|info| info.git_version)
        });
        let version = version.await?;
        let namespace = self.client.connection("looking for the namespace").await?.namespace;
        let mut rights = needed(self.settings());
        rights.push(match self.versions().await?.has_endpoint_slices {
            true => Right { group: "discovery.k8s.io", resource: "endpointslices", subresource: "", verb: "list" },
            false => Right { group: "", resource: "endpoints", subresource: "", verb: "get" },
        });
        let missing = self.missing(rights).await?;
        if !missing.is_empty() {
            let message = format!(
                "in namespace {namespace} these rights are missing: {}; k8s/rbac/role.yaml grants them",
                missing.join(", ")
            );
            return Err(PortError::new(ErrorKind::Denied, "asking for our rights", message));
        }
        self.find_namespace(&namespace).await?;
        let name = &self.settings().name;
        let runs = match self.own_record().await?.and_then(|record| record.applied) {
            Some(release) => format!("{name} runs {} ({})", release.model, release.deployment),
            None => format!("{name} is not deployed yet"),
        };
        Ok(format!("Kubernetes {version}, namespace {namespace}, every right is granted; {runs}"))
    }

    async fn missing(&self, rights: Vec<Right>) -> Result<Vec<String>, PortError> {
        let asked = rights.into_iter().map(|right| async move {
            let allowed = self.is_allowed(right).await?;
            Ok((!allowed).then(|| right.to_string()))
        });
        let answers: Vec<Result<Option<String>, PortError>> =
            futures::stream::iter(asked).buffered(CONCURRENCY).collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    async fn is_allowed(&self, right: Right) -> Result<bool, PortError> {
        let review = self.client.call("asking for our rights", move |connection| {
            let attributes = ResourceAttributes {
                namespace: Some(connection.namespace.clone()),
                group: Some(right.group.to_owned()),
                resource: Some(right.resource.to_owned()),
                subresource: Some(right.subresource.to_owned()).filter(|name| !name.is_empty()),
                verb: Some(right.verb.to_owned()),
                ..ResourceAttributes::default()
            };
            let review = SelfSubjectAccessReview {
                metadata: ObjectMeta::default(),
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                status: None,
            };
            async move {
                let api: Api<SelfSubjectAccessReview> = Api::all(connection.client);
                api.create(&PostParams::default(), &review).await
            }
        });
        Ok(review.await?.status.is_some_and(|status| status.allowed))
    }

    async fn find_namespace(&self, namespace: &str) -> Result<(), PortError> {
        let (action, name) = (format!("looking for namespace {namespace}"), namespace.to_owned());
        let found = self.client.call(&action, move |connection| {
            let name = name.clone();
            async move { Api::<Namespace>::all(connection.client).get_opt(&name).await }
        });
        match found.await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let message = format!("it does not exist; make it with `kubectl create namespace {namespace}`");
                Err(PortError::new(ErrorKind::NotFound, action, message))
            }
            // Looking at it is a right of its own, which nothing else needs.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_that_is_shipped_grants_every_right_that_any_settings_need() {
        let role = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/rbac/role.yaml"));
        let role: serde_json::Value = serde_saphyr::from_str(role).unwrap();
        let rules = role["rules"].as_array().unwrap();
        let has = |list: &serde_json::Value, text: &str| list.as_array().unwrap().iter().any(|entry| entry == text);
        let everything = KubernetesSettings {
            objects: ServiceObject::ALL.to_vec(),
            access: Access::ApiProxy,
            ..KubernetesSettings::default()
        };
        for right in needed(&everything) {
            let resource = match right.subresource {
                "" => right.resource.to_owned(),
                sub => format!("{}/{sub}", right.resource),
            };
            let grants = |rule: &&serde_json::Value| {
                has(&rule["apiGroups"], right.group)
                    && has(&rule["resources"], &resource)
                    && has(&rule["verbs"], right.verb)
            };
            assert!(rules.iter().any(|rule| grants(&rule)), "{right} is not granted");
        }
        let is_wild = |rule: &serde_json::Value| has(&rule["resources"], "*") || has(&rule["verbs"], "*");
        assert!(!rules.iter().any(is_wild), "no right is given by a star");
    }

    #[test]
    fn a_right_is_named_as_in_a_role() {
        let right = Right { group: "apps", resource: "deployments", subresource: "", verb: "patch" };
        assert_eq!(right.to_string(), "patch deployments.apps");
        let log = Right { group: "", resource: "pods", subresource: "log", verb: "get" };
        assert_eq!(log.to_string(), "get pods/log");
    }
}
