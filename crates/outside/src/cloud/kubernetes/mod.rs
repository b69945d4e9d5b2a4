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
mod errors;
mod live;
mod manifest;
mod owner;
mod pods;
mod proxy;
mod record;
mod repair;
mod rights;
mod rollout;
mod serving;
mod settings;
mod standing;
mod teardown;
mod templates;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;

use self::address::Addresses;
use self::client::KubernetesClient;
use self::manifest::ApiVersions;
use self::owner::Owner;
use self::proxy::LoopbackProxy;
pub use self::settings::{Access, KubernetesSettings, ServiceObject};
use delayd_core::error::PortError;
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
    ///
    /// # Errors
    /// When the system gives no thread or port for it.
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
        let name = self.settings().name.clone();
        let action = format!("reading Deployment {name}");
        let found = self.client.call(&action, move |connection| {
            let name = name.clone();
            async move {
                let api: Api<Deployment> = Api::namespaced(connection.client, &connection.namespace);
                api.get_opt(&name).await
            }
        });
        found.await
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
        self.examined().await
    }
}
