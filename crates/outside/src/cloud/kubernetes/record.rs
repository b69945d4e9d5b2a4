//! What the cluster remembers for us, so that any daemon with the right name can continue: one ConfigMap that says who owns
//! the service, which release runs and which is being rolled out; and one per release with its manifests.
//!
//! The first is made by a create and changed only over the version that was read: of two daemons at once, one is refused.
//! The name that tells daemons apart is made once and lies beside the ledger, because the ledger is what makes a daemon the
//! same after a restart.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use tokio::sync::OnceCell;

use super::KubernetesCluster;
use super::settings::{FIELD_MANAGER, MANAGED_BY_LABEL, Manifest, OWNER_ANNOTATION, RELEASE_ANNOTATION, SERVICE_LABEL};
use delayd_core::atomic_file::write_atomically;
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::DeploymentId;
use delayd_core::ports::Release;

/// Tells the two sorts of ConfigMaps apart.
const KEEPS_LABEL: &str = "delayd.dev/keeps";

/// Who owns the service and what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The daemon whose service it is.
    pub(super) owner: String,
    /// The release that became ready as a whole last.
    pub(super) applied: Option<Release>,
    /// The release that was started and has not become ready yet.
    pub(super) rolling: Option<Release>,
    /// The API server's version of this record.
    version: Option<String>,
}

impl Record {
    fn says_the_same(&self, other: &Self) -> bool {
        self.owner == other.owner && self.applied == other.applied && self.rolling == other.rolling
    }
}

/// The release that a Deployment says its pods are of. One that cannot be read
/// says nothing about what ran.
pub(super) fn release_of(deployment: &Deployment) -> Option<Release> {
    let text = deployment.metadata.annotations.as_ref()?.get(RELEASE_ANNOTATION)?;
    serde_json::from_str(text).ok()
}

impl KubernetesCluster {
    fn record_name(&self) -> String {
        format!("{}-delayd", self.settings().name)
    }

    fn release_name(&self, deployment: DeploymentId) -> String {
        format!("{}-release-{}", self.settings().name, deployment.0)
    }

    /// The record, if it is there and ours.
    ///
    /// # Errors
    /// `Conflict` when it belongs to another daemon.
    pub(super) async fn own_record(&self) -> Result<Option<Record>, PortError> {
        let Some(record) = self.read_record().await? else { return Ok(None) };
        let us = self.owner.known().await?;
        if us.as_deref() == Some(&record.owner) {
            return Ok(Some(record));
        }
        let (name, map) = (&self.settings().name, self.record_name());
        let owner = &record.owner;
        let message = match us {
            Some(us) => format!(
                "the service {name} belongs to the daemon `{owner}`, and we are `{us}`; stop that one for good and hand \
                 the service over with `kubectl patch configmap {map} --type merge -p \
                 '{{\"data\":{{\"owner\":\"{us}\"}}}}'`, or choose another cluster.kubernetes.name"
            ),
            None => format!(
                "the service {name} belongs to the daemon `{owner}`, and we have deployed nothing yet; choose another \
                 cluster.kubernetes.name, or deploy to be told how to take it over"
            ),
        };
        Err(PortError::new(ErrorKind::Conflict, format!("checking who owns service {name}"), message))
    }

    /// The record, made if there is none. A Deployment that carries our mark is
    /// ours though its record is gone.
    ///
    /// # Errors
    /// `Conflict` when the service, or a Deployment of that name, is not ours.
    pub(super) async fn claim(&self) -> Result<Record, PortError> {
        let owner = self.owner.name().await?;
        if let Some(record) = self.own_record().await? {
            return Ok(record);
        }
        let mut record = Record { owner, applied: self.lost_release().await?, rolling: None, version: None };
        match self.write_record(&mut record).await {
            Ok(()) => Ok(record),
            // Somebody was quicker.
            Err(error) if error.kind() == ErrorKind::Conflict => self.own_record().await?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// The release of a Deployment that carries our mark and has no record.
    pub(super) async fn lost_release(&self) -> Result<Option<Release>, PortError> {
        let Some(live) = self.live_deployment().await? else { return Ok(None) };
        let annotations = live.metadata.annotations.clone().unwrap_or_default();
        let (name, us) = (&self.settings().name, self.owner.known().await?);
        let owner = annotations.get(OWNER_ANNOTATION);
        if owner.is_none() || owner != us.as_ref() {
            let message = format!(
                "there is a Deployment {name} already that this daemon did not make (owner: {}); delete it or choose \
                 another cluster.kubernetes.name",
                owner.map_or("unknown", String::as_str)
            );
            return Err(PortError::new(ErrorKind::Conflict, format!("looking for Deployment {name}"), message));
        }
        Ok(release_of(&live))
    }

    async fn read_record(&self) -> Result<Option<Record>, PortError> {
        let Some(map) = self.config_map(&self.record_name()).await? else { return Ok(None) };
        let data = map.data.unwrap_or_default();
        let release = |key: &str| match data.get(key).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => serde_json::from_str(text).map(Some).map_err(|error| {
                let message = format!("{key} is not a release ({error}); delete the ConfigMap to have it made again");
                PortError::new(ErrorKind::Corrupt, format!("reading ConfigMap {}", self.record_name()), message)
            }),
        };
        Ok(Some(Record {
            owner: data.get("owner").cloned().unwrap_or_default(),
            applied: release("applied")?,
            rolling: release("rolling")?,
            version: map.metadata.resource_version,
        }))
    }

    /// Writes the record over the version that was read, or for the first time.
    pub(super) async fn write_record(&self, record: &mut Record) -> Result<(), PortError> {
        let json = |release: &Option<Release>| match release {
            Some(release) => serde_json::to_string(release)
                .map_err(|error| PortError::new(ErrorKind::Internal, "writing down a release", error.to_string())),
            None => Ok(String::new()),
        };
        let data = BTreeMap::from([
            ("owner".to_owned(), record.owner.clone()),
            ("applied".to_owned(), json(&record.applied)?),
            ("rolling".to_owned(), json(&record.rolling)?),
        ]);
        let map = self.new_map(self.record_name(), "state", data, record.version.clone());
        record.version = match self.write_map(map).await {
            Ok(written) => written.metadata.resource_version,
            // Our own write, whose answer was lost before it was repeated?
            Err(error) if error.kind() == ErrorKind::Conflict => match self.read_record().await? {
                Some(there) if there.says_the_same(record) => there.version,
                _ => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// The manifests that a release was applied with first, while they are kept
    /// and the cluster still serves their versions.
    pub(super) async fn kept_manifests(&self, release: &Release) -> Result<Option<Vec<Manifest>>, PortError> {
        let Some(map) = self.config_map(&self.release_name(release.deployment)).await? else { return Ok(None) };
        let data = map.data.unwrap_or_default();
        let kept: Option<Release> = data.get("release.json").and_then(|text| serde_json::from_str(text).ok());
        if kept.as_ref() != Some(release) {
            return Ok(None);
        }
        let manifests: Option<Vec<Manifest>> =
            data.get("manifests.json").and_then(|text| serde_json::from_str(text).ok());
        let versions = self.versions().await?;
        Ok(manifests.filter(|all| all.iter().all(|one| one.api_version() == versions.of(one.object))))
    }

    /// Keeps a release's manifests, to go back to.
    pub(super) async fn keep_manifests(&self, release: &Release, manifests: &[Manifest]) -> Result<(), PortError> {
        let internal =
            |error: serde_json::Error| PortError::new(ErrorKind::Internal, "writing down manifests", error.to_string());
        let data = BTreeMap::from([
            ("release.json".to_owned(), serde_json::to_string(release).map_err(internal)?),
            ("manifests.json".to_owned(), serde_json::to_string(manifests).map_err(internal)?),
        ]);
        let name = self.release_name(release.deployment);
        let version = self.config_map(&name).await?.and_then(|map| map.metadata.resource_version);
        self.write_map(self.new_map(name, "release", data, version)).await.map(|_| ())
    }

    pub(super) async fn forget_manifests(&self, deployment: DeploymentId) -> Result<(), PortError> {
        self.delete_map(&self.release_name(deployment)).await
    }

    /// Every release that is kept: its deployment's number and manifests.
    pub(super) async fn kept_releases(&self) -> Result<Vec<(DeploymentId, Vec<Manifest>)>, PortError> {
        let labels = format!("{},{KEEPS_LABEL}=release", self.selector_text());
        let which = ListParams::default().labels(&labels);
        let maps: Vec<ConfigMap> = self.client.list("listing the releases kept", &which).await?;
        let read = |map: ConfigMap| {
            let number = map.metadata.name?.rsplit('-').next()?.parse().ok()?;
            let manifests = map.data.unwrap_or_default().remove("manifests.json").unwrap_or_default();
            Some((DeploymentId(number), serde_json::from_str(&manifests).unwrap_or_default()))
        };
        let mut kept: Vec<_> = maps.into_iter().filter_map(read).collect();
        kept.sort_by_key(|(deployment, _)| *deployment);
        Ok(kept)
    }

    /// Forgets the oldest releases beyond the number to keep; never the one that runs.
    pub(super) async fn forget_old_releases(&self, running: DeploymentId) -> Result<(), PortError> {
        let kept = self.kept_releases().await?;
        let surplus = kept.len().saturating_sub(self.settings().kept_releases);
        for (deployment, _) in kept.iter().filter(|(deployment, _)| *deployment != running).take(surplus) {
            self.forget_manifests(*deployment).await?;
        }
        Ok(())
    }

    /// Forgets everything: nobody owns the service any more.
    pub(super) async fn forget_record(&self) -> Result<(), PortError> {
        for (deployment, _) in self.kept_releases().await? {
            self.forget_manifests(deployment).await?;
        }
        self.delete_map(&self.record_name()).await
    }

    fn new_map(
        &self,
        name: String,
        keeps: &str,
        data: BTreeMap<String, String>,
        resource_version: Option<String>,
    ) -> ConfigMap {
        let labels =
            [(SERVICE_LABEL, self.settings().name.as_str()), (KEEPS_LABEL, keeps), (MANAGED_BY_LABEL, FIELD_MANAGER)];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        ConfigMap {
            metadata: ObjectMeta { name: Some(name), labels: Some(labels), resource_version, ..ObjectMeta::default() },
            data: Some(data),
            ..ConfigMap::default()
        }
    }

    async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, PortError> {
        self.client.find(&format!("reading ConfigMap {name}"), name).await
    }

    /// Creates a map, or replaces the version that it names.
    async fn write_map(&self, map: ConfigMap) -> Result<ConfigMap, PortError> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let action = format!("writing ConfigMap {name}");
        let written = self.client.call(&action, move |connection| {
            let (map, name) = (map.clone(), name.clone());
            async move {
                let api: Api<ConfigMap> = Api::namespaced(connection.client, &connection.namespace);
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                match map.metadata.resource_version {
                    Some(_) => api.replace(&name, &params, &map).await,
                    None => api.create(&params, &map).await,
                }
            }
        });
        written.await
    }

    async fn delete_map(&self, name: &str) -> Result<(), PortError> {
        let action = format!("deleting ConfigMap {name}");
        self.client.delete::<ConfigMap>(&action, name, &DeleteParams::default()).await
    }
}

const OWNER_FILE: &str = "kubernetes-owner";

/// The name, read_name or made when it is needed.
#[derive(Debug)]
pub(super) struct Owner {
    configured: String,
    path: PathBuf,
    made: OnceCell<String>,
}

impl Owner {
    /// As configured, or the one kept in `state_dir`. Reads nothing yet.
    pub(super) fn new(configured: &str, state_dir: &Path) -> Self {
        Self { configured: configured.to_owned(), path: state_dir.join(OWNER_FILE), made: OnceCell::new() }
    }

    /// The name, if there is one yet.
    pub(super) async fn known(&self) -> Result<Option<String>, PortError> {
        if !self.configured.is_empty() {
            return Ok(Some(self.configured.clone()));
        }
        if let Some(made) = self.made.get() {
            return Ok(Some(made.clone()));
        }
        let path = self.path.clone();
        blocking(action(&self.path), move || read_name(&path)).await
    }

    /// The name, made now if there is none.
    pub(super) async fn name(&self) -> Result<String, PortError> {
        if !self.configured.is_empty() {
            return Ok(self.configured.clone());
        }
        let make_name = || async {
            let path = self.path.clone();
            blocking(action(&self.path), move || make_name(&path)).await
        };
        self.made.get_or_try_init(make_name).await.cloned()
    }
}

fn action(path: &Path) -> String {
    format!("the daemon's name for Kubernetes in {}", path.display())
}

fn read_name(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_name(path: &Path) -> io::Result<String> {
    if let Some(name) = read_name(path)? {
        return Ok(name);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let name = format!("{}-{}", if host.is_empty() { "delayd" } else { &host }, random_hex(6)?);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Whole or not at all: half a name would make_name us a stranger to our own service.
    write_atomically(path, format!("{name}\n").as_bytes())?;
    Ok(name)
}

/// So many random bytes in hex, unguessable.
pub(super) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0_u8; bytes];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut random).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_name_is_made_once_and_stays_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Owner::new("", &state);
        assert_eq!(first.known().await.unwrap(), None);
        assert!(!state.exists(), "asking makes nothing");
        let name = first.name().await.unwrap();
        let restarted = Owner::new("", &state);
        assert_eq!(restarted.known().await.unwrap(), Some(name.clone()));
        assert_eq!(restarted.name().await.unwrap(), name);
        assert_ne!(Owner::new("", folder.path()).name().await.unwrap(), name);
    }

    #[tokio::test]
    async fn a_link_beside_the_name_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "as it was").unwrap();
        let guessed = folder.path().join(format!("{OWNER_FILE}.staged-{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, guessed).unwrap();
        Owner::new("", folder.path()).name().await.unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "as it was");
    }

    #[tokio::test]
    async fn a_configured_name_needs_no_file() {
        let owner = Owner::new("loop-1", Path::new("/nowhere"));
        assert_eq!(
            (owner.known().await.unwrap(), owner.name().await.unwrap()),
            (Some("loop-1".into()), "loop-1".into())
        );
    }
}
