//! A namespace of a real cluster for each test: made at its start, removed at its
//! end, also when the test fails. Images are packaged from tiny bundles with the
//! real service, and pushed to a real registry.
//!
//! Needs `KUBECONFIG` (a cluster, with rights to make namespaces), `kubectl`,
//! `DELAYD_TEST_REGISTRY` (`host:port`, without TLS, from which its nodes pull) and
//! the static `delayd-serve` (`DELAYD_SERVE_BIN`). Without them the tests say
//! SKIPPED and pass.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use delayd_core::ids::{DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{Cluster, ImageRegistry as _, Release, Replica, ReplicaState};
use delayd_outside::cloud::kubernetes::{Access, KubernetesCluster, KubernetesClusterConfig, KubernetesSettings};
use delayd_outside::cloud::registry::{OciRegistry, OciRegistrySettings};
use delayd_outside::packaging::{PackageRequest, PackagedImage, package};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::contracts::cluster::{LoadRequest, Releases};
use crate::contracts::layouts;

/// A namespace and what reaches it.
pub struct Site {
    pub namespace: String,
    pub kubeconfig: PathBuf,
    pub registry: String,
    pub folder: tempfile::TempDir,
}

impl Site {
    /// A namespace of its own, or `None` after saying what is missing.
    pub fn new(test: &str) -> Option<Self> {
        let missing = |what: &str| {
            eprintln!("SKIPPED: {test}: {what}");
            None
        };
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) else {
            return missing("KUBECONFIG names no cluster");
        };
        let Ok(registry) = std::env::var("DELAYD_TEST_REGISTRY") else {
            return missing("DELAYD_TEST_REGISTRY names no registry that the cluster pulls from");
        };
        if service_binary().is_none() {
            return missing("there is no static delayd-serve; `make build` builds it, DELAYD_SERVE_BIN names it");
        }
        if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
            return missing("there is no kubectl; Debian's package kubernetes-client has it");
        }
        let site = Self {
            namespace: format!("delayd-test-{}-{}", test.replace('_', "-"), std::process::id()),
            kubeconfig: kubeconfig.into(),
            registry,
            folder: tempfile::tempdir().unwrap(),
        };
        site.kubectl_anywhere(&["create", "namespace", &site.namespace]);
        Some(site)
    }

    /// Settings for this namespace, quick enough for tests.
    pub fn settings(&self) -> KubernetesSettings {
        KubernetesSettings {
            kubeconfig: self.kubeconfig.clone(),
            namespace: self.namespace.clone(),
            cpu_request: "10m".to_owned(),
            memory_request: "32Mi".to_owned(),
            drain_delay_secs: 1,
            retry_pause_ms: 50,
            poll_interval_ms: 200,
            ..KubernetesSettings::default()
        }
    }

    /// An adapter whose name is kept in `state`.
    pub fn open_as(&self, state: &str, settings: KubernetesSettings) -> KubernetesCluster {
        KubernetesCluster::open(KubernetesClusterConfig {
            settings,
            state_dir: self.folder.path().join(state),
            ready_deadline: Duration::from_secs(60),
            drain_linger: Duration::from_secs(1),
        })
        .unwrap()
    }

    pub fn open(&self) -> KubernetesCluster {
        self.open_as("state", self.settings())
    }

    pub fn open_with(&self, change: impl FnOnce(&mut KubernetesSettings)) -> KubernetesCluster {
        let mut settings = self.settings();
        change(&mut settings);
        self.open_as("state", settings)
    }

    /// A release of a tiny bundle, its image pushed.
    pub async fn release(&self, number: u64) -> Release {
        let image = good_image(number, self.folder.path());
        self.release_of(number, &image).await
    }

    /// A release whose bundle the service refuses at its start.
    pub async fn damaged_release(&self, number: u64) -> Release {
        let image = damaged_image(number, self.folder.path());
        self.release_of(number, &image).await
    }

    async fn release_of(&self, number: u64, image: &BuiltImage) -> Release {
        let reference = push_image(&self.registry, &image.packaged).await;
        Release {
            deployment: DeploymentId(number),
            model: ModelVersion(number),
            bundle: image.bundle.clone(),
            image: reference,
            bundle_dir: image.bundle_dir.clone(),
            replicas: 2,
        }
    }

    /// A release whose image is nowhere.
    pub async fn missing_release(&self, number: u64) -> Release {
        let mut release = self.release(number).await;
        let (repository, _) = release.image.rsplit_once('@').unwrap();
        release.image = format!("{repository}@{}", delayd_core::ids::Digest::of(b"nowhere"));
        release
    }

    pub async fn releases(&self) -> Releases {
        Releases {
            good: [self.release(1).await, self.release(2).await],
            broken: self.damaged_release(3).await,
            broken_deadline: Duration::from_secs(60),
        }
    }

    /// `kubectl` in this namespace; answers what it wrote.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["--namespace", self.namespace.as_str()];
        all.extend(arguments);
        self.kubectl_anywhere(&all)
    }

    pub fn kubectl_anywhere(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).stdin(Stdio::null());
        command
    }

    /// `kubectl apply` of some YAML, in this namespace.
    pub fn apply_yaml(&self, yaml: &str) {
        let mut command = self.command(&["--namespace", &self.namespace, "apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "kubectl apply of {yaml}");
    }

    /// One value of an object, `jsonpath` style; empty when it is not there.
    pub fn value(&self, object: &str, path: &str) -> String {
        let output = format!("jsonpath={{{path}}}");
        self.kubectl(&["get", object, "--ignore-not-found", "-o", &output])
    }

    /// The API server's address.
    pub fn api_server(&self) -> std::net::SocketAddr {
        let config: serde_json::Value =
            serde_json::from_str(&self.kubectl_anywhere(&["config", "view", "--minify", "-o", "json"])).unwrap();
        let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
        let address = server.trim_start_matches("https://").trim_end_matches('/');
        use std::net::ToSocketAddrs;
        address.to_socket_addrs().unwrap().next().unwrap()
    }

    /// The API server without TLS and login, for as long as the answer lives.
    pub fn plain_api(&self) -> PlainApi {
        let mut child = self.command(&["proxy", "--port=0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().parse();
        PlainApi { child, address: address.unwrap() }
    }

    /// A copy of the kubeconfig with another server, and whatever else is changed.
    pub fn kubeconfig_for(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
        let config = self.kubectl_anywhere(&["config", "view", "--minify", "--raw", "--flatten", "-o", "json"]);
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        change(&mut config);
        let path = self.folder.path().join(name);
        // JSON is YAML.
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The kubeconfig with the API server at another address.
    pub fn kubeconfig_via(&self, address: std::net::SocketAddr) -> PathBuf {
        self.kubeconfig_for(&format!("via-{}", address.port()), |config| {
            config["clusters"][0]["cluster"]["server"] = format!("https://{address}").into();
        })
    }

    /// The RBAC manifests that are shipped, in this namespace, with the role changed.
    pub fn grant(&self, change: impl Fn(String) -> String) {
        let folder = crate::programs::root().join("k8s/rbac");
        for file in ["service-account.yaml", "role.yaml", "role-binding.yaml"] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            let text = text.replace("namespace: delayd", &format!("namespace: {}", self.namespace));
            self.apply_yaml(&change(text));
        }
    }

    /// A token of the daemon's service account.
    pub fn token(&self) -> String {
        let request = self.folder.path().join("token-request.json");
        std::fs::write(&request, r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#)
            .unwrap();
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/delayd/token", self.namespace);
        let answer = self.kubectl_anywhere(&["create", "--raw", &path, "-f", request.to_str().unwrap()]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// A kubeconfig with a token and nothing else.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> PathBuf {
        self.kubeconfig_for(name, |config| {
            config["users"][0]["user"] = serde_json::json!({ "token": token });
        })
    }
}

/// `kubectl proxy`.
pub struct PlainApi {
    child: std::process::Child,
    pub address: std::net::SocketAddr,
}

impl Drop for PlainApi {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let quietly = |arguments: &[&str]| {
            let mut all = vec!["--namespace", self.namespace.as_str()];
            all.extend(arguments);
            self.command(&all).output()
        };
        if std::thread::panicking()
            && let Ok(output) = quietly(&["get", "deployments,pods,services,endpoints,configmaps,events"])
        {
            eprintln!("{}", String::from_utf8_lossy(&output.stdout));
        }
        let namespace = self.namespace.clone();
        for arguments in [
            vec!["delete", "deployments", "--all", "--wait=false"],
            vec!["delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"],
            vec!["delete", "namespace", namespace.as_str(), "--wait=false"],
        ] {
            let _ = quietly(&arguments);
        }
    }
}

/// A prediction that the tiny bundles answer.
pub fn prediction() -> LoadRequest {
    let flight = serde_json::json!({
        "carrier": "AA", "flight_number": 1, "origin": "JFK", "dest": "LAX",
        "scheduled_departure": "2013-03-05T14:00:00Z",
    });
    LoadRequest { path: "/predict".to_owned(), json: Some(flight) }
}

/// The model that a prediction through the service's address came from.
pub async fn answering_model(cluster: &dyn Cluster) -> Result<String, String> {
    let client = delayd_core::http_client::client_builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let request = prediction();
    let url = format!("{}{}", cluster.service_url(), request.path);
    let call = client.post(url).json(&request.json.unwrap()).timeout(Duration::from_secs(5)).send().await;
    let answer = call.map_err(|error| delayd_core::error::chain(&error))?;
    let status = answer.status();
    let body: serde_json::Value = answer.json().await.map_err(|error| format!("{status}: {error}"))?;
    body["model_version"].as_str().map(str::to_owned).ok_or_else(|| format!("{status}: {body}"))
}

pub async fn in_state(cluster: &dyn Cluster, state: ReplicaState) -> Vec<Replica> {
    let mut replicas = cluster.replicas().await.unwrap();
    replicas.retain(|replica| replica.state == state);
    replicas
}

/// Access through the API server, as a change of settings.
pub fn through_the_api_server(settings: &mut KubernetesSettings) {
    settings.access = Access::ApiProxy;
}

// ----------------------------------------------------------------
// Service images from tiny bundles, and the few calls that push one.

const REPOSITORY: &str = "delay-ml";

/// An image and the bundle in it.
pub struct BuiltImage {
    pub packaged: PackagedImage,
    pub bundle: Digest,
    pub bundle_dir: PathBuf,
}

/// The static service, if there is one.
pub fn service_binary() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("DELAYD_SERVE_BIN")?);
    path.is_file().then_some(path)
}

/// An image that works; another number gives other weights.
pub fn good_image(number: u64, folder: &Path) -> BuiltImage {
    let dir = folder.join(format!("bundle_{number}"));
    delayd_model::testing::tiny_bundle(number).write_to(&dir).unwrap();
    let bundle = Digest::of(&std::fs::read(dir.join("manifest.json")).unwrap());
    build(number, dir, bundle, folder)
}

/// An image whose digests are all right and whose bundle makes no sense.
pub fn damaged_image(number: u64, folder: &Path) -> BuiltImage {
    let dir = folder.join(format!("bundle_{number}"));
    let bundle = layouts::write_bundle(&dir, b"no weights at all");
    build(number, dir, bundle, folder)
}

fn build(number: u64, bundle_dir: PathBuf, bundle: Digest, folder: &Path) -> BuiltImage {
    let request = PackageRequest {
        model: ModelVersion(number),
        bundle_dir: bundle_dir.clone(),
        bundle: bundle.clone(),
        dataset: "test".to_owned(),
        service_binary: service_binary().unwrap(),
        service_revision: "test".to_owned(),
        service_source: None,
        service_must_be_static: true,
        repository: REPOSITORY.to_owned(),
        layout_dir: folder.join(format!("layout_{number}")),
    };
    BuiltImage { packaged: package(&request).unwrap(), bundle, bundle_dir }
}

/// Pushes an image to a registry without TLS and login; answers what nodes pull.
pub async fn push_image(registry: &str, image: &PackagedImage) -> String {
    let settings = OciRegistrySettings {
        host: registry.to_owned(),
        plain_http: true,
        repository_prefix: "delayd-test".to_owned(),
        ..OciRegistrySettings::default()
    };
    let (_, tag) = image.tag.split_once(':').unwrap();
    OciRegistry::open(&settings).unwrap().push(&image.layout_dir, REPOSITORY, tag).await.unwrap().reference
}

// ----------------------------------------------------------------
// Stands between us and the API server, and can be shut: connections that stand
// already go too, as they do when a server goes away.

/// What becomes of connections, those that stand and new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// They reach the server.
    Open,
    /// They are closed.
    Shut,
    /// They stand, and nothing is heard from the other side: as with a stopped process.
    Silent,
}

pub struct Gate {
    pub address: SocketAddr,
    state: Arc<watch::Sender<GateState>>,
}

impl Gate {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = watch::channel(GateState::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, receiver.clone()));
            }
        });
        Self { address, state: Arc::new(sender) }
    }

    pub fn set(&self, state: GateState) {
        self.state.send(state).unwrap();
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<GateState>) {
    if *state.borrow() == GateState::Silent {
        let _ = state.wait_for(|state| *state != GateState::Silent).await;
        return;
    }
    if *state.borrow() == GateState::Shut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let now = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        now = state.wait_for(|state| *state != GateState::Open) => now.map_or(GateState::Shut, |now| *now),
    };
    if now == GateState::Silent {
        let _ = state.wait_for(|state| *state != GateState::Silent).await;
    }
}
