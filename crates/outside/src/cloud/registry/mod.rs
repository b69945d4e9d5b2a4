//! Any registry that speaks the OCI distribution protocol (version 1.1), without
//! a Docker daemon: an image goes from its layout folder into the registry.
//!
//! Blobs go first and the manifest last, so that a tag never points at an image
//! that is not all there. It deliberately does not create repositories (registries
//! do that at the first push; ECR's adapter does it by ECR's API), collect garbage,
//! sign images, or push indexes of several platforms.

pub(super) mod authorization;
mod client;
mod push;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use self::authorization::{ConfiguredLogin, LoginSource, Scope};
use self::client::{Call, RegistryClient};
use self::push::{Blob, Content, EMPTY_BLOB, PUSH, Sent, Tags, Upload};
use crate::cloud::Faults;
use crate::packaging::oci::{Descriptor, Layout, Manifest, copy_hashing};
use crate::packaging::{PackagingError, check_repository};
use crate::wrap::RetryPolicy;
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};
use delayd_core::secret::Secret;

/// Where images go and how they are called there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The host that is spoken to.
    pub(super) host: String,
    /// The host in references; the same when empty.
    pub(super) pull_host: String,
    pub(super) repository_prefix: String,
    pub(super) plain_http: bool,
}

impl Target {
    fn pull_host(&self) -> &str {
        if self.pull_host.is_empty() { &self.host } else { &self.pull_host }
    }
}

/// A registry behind the OCI distribution protocol.
#[derive(Debug)]
pub struct OciRegistry {
    target: Target,
    client: RegistryClient,
    upload: UploadSettings,
}

impl OciRegistry {
    /// The registry that the settings name. Nothing is sent yet.
    pub fn open(settings: &OciRegistrySettings) -> Result<Self, PortError> {
        let login = if settings.password.is_set() {
            ConfiguredLogin::User { username: settings.username.clone(), password: settings.password.clone() }
        } else if settings.docker_config.as_os_str().is_empty() {
            ConfiguredLogin::Anonymous
        } else {
            ConfiguredLogin::DockerConfig { path: settings.docker_config.clone(), host: settings.host.clone() }
        };
        let target = Target {
            host: settings.host.clone(),
            pull_host: settings.pull_host.clone(),
            repository_prefix: settings.repository_prefix.clone(),
            plain_http: settings.plain_http,
        };
        Self::with_login(target, &settings.upload, &settings.http, Arc::new(login))
    }

    pub(super) fn with_login(
        target: Target,
        upload: &UploadSettings,
        http: &HttpClientSettings,
        login: Arc<dyn LoginSource>,
    ) -> Result<Self, PortError> {
        let http = http.client("opening the image registry")?;
        let client = RegistryClient::new(http, &target.host, target.plain_http, login)?;
        Ok(Self { target, client, upload: upload.clone() })
    }

    fn repository(&self, action: &str, repository: &str) -> Result<String, PortError> {
        full_name(action, &self.target.repository_prefix, repository)
    }

    fn action(&self, doing: &str, repository: &str, tag: &str) -> String {
        format!("{doing} {repository}:{tag} at {}", self.target.host)
    }

    /// Sends a blob unless it is there.
    async fn ensure(&self, action: &str, repository: &str, blob: &Blob) -> Result<Sent, PortError> {
        let upload = Upload { client: &self.client, settings: &self.upload, action, repository, blob };
        if upload.is_there().await? {
            return Ok(Sent::Reused);
        }
        if let Content::File(path) = &blob.content {
            check_intact(action, path, &blob.digest).await?;
        }
        upload.send().await
    }

    /// A push that says whether it may move a tag that exists.
    pub(super) async fn push_image(
        &self,
        layout: &Path,
        repository: &str,
        tag: &str,
        moving: TagMove,
    ) -> Result<PushedImage, PortError> {
        let action = self.action("pushing", repository, tag);
        check_tag(&action, tag)?;
        let full = self.repository(&action, repository)?;
        let image = LocalImage::read(&action, layout, tag).await?;
        let digest = image.descriptor.digest.clone();
        let tags = Tags { client: &self.client, action: &action, repository: &full };
        let before = tags.find(tag, PUSH).await?;
        if let Some(before) = before.as_ref().filter(|before| **before != digest && moving == TagMove::Refused) {
            return Err(immovable(&action, tag, before, &digest));
        }
        let (mut layers_pushed, mut layers_reused) = (0, 0);
        for layer in &image.manifest.layers {
            match self.ensure(&action, &full, &image.blob(layer)).await? {
                Sent::Uploaded => layers_pushed += 1,
                Sent::Reused => layers_reused += 1,
            }
        }
        self.ensure(&action, &full, &image.blob(&image.manifest.config)).await?;
        if before.as_ref() != Some(&digest) {
            tags.put(tag, &image.descriptor.media_type, image.bytes).await?;
        }
        Ok(PushedImage {
            reference: format!("{}/{full}@{digest}", self.target.pull_host()),
            tag: format!("{repository}:{tag}"),
            digest,
            size_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            layers_pushed,
            layers_reused,
        })
    }

    /// Takes a tag away where the registry cannot do that by itself.
    async fn remove_by_placeholder(&self, tags: &Tags<'_>, tag: &str) -> Result<(), PortError> {
        tags.check_deletable(tag).await?;
        let content = Content::Memory(Bytes::from_static(EMPTY_BLOB));
        let empty = Blob { digest: Digest::of(EMPTY_BLOB), size: EMPTY_BLOB.len() as u64, content };
        self.ensure(tags.action, tags.repository, &empty).await?;
        tags.delete_by_placeholder(tag).await
    }
}

/// Whether a push may move a tag that points elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagMove {
    Allowed,
    Refused,
}

fn immovable(action: &str, tag: &str, before: &Digest, digest: &Digest) -> PortError {
    let message = format!(
        "tag {tag} points at {before} and may not move, and {digest} was to be pushed; push under another tag, \
         remove the old one by hand if it is wrong, or set immutable_tags = false"
    );
    PortError::new(ErrorKind::Conflict, action, message)
}

#[async_trait]
impl ImageRegistry for OciRegistry {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        self.push_image(layout, repository, tag, TagMove::Allowed).await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        let action = self.action("resolving", repository, tag);
        check_tag(&action, tag)?;
        let full = self.repository(&action, repository)?;
        Tags { client: &self.client, action: &action, repository: &full }.resolve(tag).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let action = self.action("removing tag", repository, tag);
        check_tag(&action, tag)?;
        let full = self.repository(&action, repository)?;
        let tags = Tags { client: &self.client, action: &action, repository: &full };
        if tags.find(tag, "pull").await?.is_none() || tags.delete(tag).await? {
            return Ok(());
        }
        self.remove_by_placeholder(&tags, tag).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        let action = format!("asking the image registry at {}", self.target.host);
        let call = Call::new(Method::GET, self.client.url("")?, &Scope::nothing());
        let answer = self.client.send(&action, call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let message = "there is no registry: /v2/ is not found; expected one of the OCI distribution protocol";
            return Err(PortError::new(ErrorKind::Invalid, action, message));
        }
        answer.accepted(&action)?;
        let who = self.client.who(&action).await?;
        Ok(format!("OCI registry at {}, {who}", self.target.host))
    }
}

/// An image in its layout folder, its manifest read and checked.
struct LocalImage {
    layout: Layout,
    descriptor: Descriptor,
    manifest: Manifest,
    bytes: Bytes,
}

impl LocalImage {
    async fn read(action: &str, layout: &Path, tag: &str) -> Result<Self, PortError> {
        let (layout, tag) = (Layout::at(layout), tag.to_owned());
        blocking(action, move || {
            let descriptor = layout.image(&tag)?;
            let manifest = layout.document(&descriptor)?;
            let path = layout.blob_path(&descriptor.digest);
            let bytes = std::fs::read(&path).map_err(PackagingError::io("reading", &path))?.into();
            Ok::<_, PackagingError>(Self { layout, descriptor, manifest, bytes })
        })
        .await
    }

    fn blob(&self, descriptor: &Descriptor) -> Blob {
        Blob {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            content: Content::File(self.layout.blob_path(&descriptor.digest)),
        }
    }
}

/// Refuses a blob that is missing or is not what its digest says, before any of it is sent.
async fn check_intact(action: &str, path: &Path, digest: &Digest) -> Result<(), PortError> {
    let (path, digest) = (path.to_owned(), digest.clone());
    blocking(action, move || {
        let file = std::fs::File::open(&path).map_err(PackagingError::io("opening", &path))?;
        let (found, _) = copy_hashing(file, std::io::sink()).map_err(PackagingError::io("reading", &path))?;
        if found == digest { Ok(()) } else { Err(PackagingError::Damaged { path, found, expected: digest }) }
    })
    .await
}

pub(super) fn full_name(action: &str, prefix: &str, repository: &str) -> Result<String, PortError> {
    let full = if prefix.is_empty() { repository.to_owned() } else { format!("{prefix}/{repository}") };
    match check_repository(repository).and_then(|()| check_repository(&full)) {
        Ok(()) => Ok(full),
        Err(error) => Err(PortError::new(error.kind(), action, error.to_string())),
    }
}

/// `[registry.oci]`: any registry that speaks the OCI distribution protocol.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OciRegistrySettings {
    /// Where images are pushed: a host, with its port where that is not the scheme's.
    pub host: String,
    /// The same registry as the nodes call it; `host` when empty.
    pub pull_host: String,
    /// Put before every repository, with a `/` between; nothing when empty.
    pub repository_prefix: String,
    /// Whether the registry speaks http without TLS. A login then travels readable.
    pub plain_http: bool,
    /// Who logs in; nobody when empty, or who `docker_config` names.
    pub username: String,
    /// The password or access token that goes with it.
    pub password: Secret,
    /// A `config.json` of Docker whose `auths` hold the login; none when empty.
    pub docker_config: PathBuf,
    /// How blobs are sent.
    pub upload: UploadSettings,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

/// How blobs are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UploadSettings {
    /// Another repository of the registry, by its whole name, from which layers are
    /// mounted where it has them; none when empty.
    pub mount_from: String,
    /// Bytes sent at a time; one such piece must get through within `http.read_timeout_secs`,
    /// and is held in memory. A registry may ask for more.
    pub chunk_bytes: u64,
    /// Attempts of a call before it fails; what was sent already is not sent again.
    pub attempts: u32,
    /// Seconds before the second attempt, at most; doubled for each later one, up to 20.
    pub retry_secs: f64,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self { mount_from: String::new(), chunk_bytes: 8 * 1024 * 1024, attempts: 5, retry_secs: 0.5 }
    }
}

/// Smaller pieces would be requests without end.
const MIN_CHUNK_BYTES: u64 = 64 * 1024;
/// A piece lies in memory while it is sent.
const MAX_CHUNK_BYTES: u64 = 512 * 1024 * 1024;

impl UploadSettings {
    /// When and how often to try again.
    #[must_use]
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.attempts,
            base_delay: Duration::from_secs_f64(self.retry_secs),
            ..RetryPolicy::default()
        }
    }

    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Faults::of(section);
        faults.check(repository_or_nothing(&self.mount_from), "mount_from", &self.mount_from, REPOSITORY);
        faults.check(
            (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&self.chunk_bytes),
            "chunk_bytes",
            self.chunk_bytes,
            "65536 to 536870912 bytes",
        );
        faults.check((1..=20).contains(&self.attempts), "attempts", self.attempts, "1 to 20");
        faults.check((0.0..=20.0).contains(&self.retry_secs), "retry_secs", self.retry_secs, "seconds from 0 to 20");
        faults.found
    }
}

impl OciRegistrySettings {
    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Faults::of(section);
        faults.check(is_host(&self.host), "host", &self.host, HOST);
        faults.check(self.pull_host.is_empty() || is_host(&self.pull_host), "pull_host", &self.pull_host, HOST);
        let prefix = &self.repository_prefix;
        faults.check(repository_or_nothing(prefix), "repository_prefix", prefix, REPOSITORY);
        let lacking = if self.password.is_set() { "username" } else { "password" };
        let together = self.username.is_empty() != self.password.is_set();
        faults.check(together, lacking, "", "username and password together, or neither");
        faults.check(
            self.username.is_empty() || self.docker_config.as_os_str().is_empty(),
            "docker_config",
            self.docker_config.display(),
            "one login: username and password, or docker_config",
        );
        faults.found.extend(self.upload.faults(&format!("{section}.upload")));
        faults.found
    }
}

const HOST: &str = "a host like registry.example.com or 10.0.0.5:5000, without scheme and path";
const REPOSITORY: &str = "a repository name like team/models, or nothing";

/// Whether a text is a host with or without a port, and nothing else.
pub(in crate::cloud) fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !text.is_empty() && text.chars().all(plain) && reqwest::Url::parse(&format!("https://{text}/")).is_ok()
}

/// Whether a text is a repository's name, or empty.
pub(in crate::cloud) fn repository_or_nothing(text: &str) -> bool {
    text.is_empty() || check_repository(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_told_with_its_key_and_never_with_a_secret() {
        let settings = OciRegistrySettings {
            host: "https://registry/".to_owned(),
            pull_host: "user@host".to_owned(),
            repository_prefix: "Team".to_owned(),
            password: Secret::new("s3cret"),
            upload: UploadSettings { mount_from: "/".to_owned(), chunk_bytes: 1, attempts: 0, retry_secs: -1.0 },
            ..OciRegistrySettings::default()
        };
        let faults = settings.faults("registry.oci");
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.trim_start_matches("registry.oci.")).collect();
        let upload = ["upload.mount_from", "upload.chunk_bytes", "upload.attempts", "upload.retry_secs"];
        assert_eq!(keys, [["host", "pull_host", "repository_prefix", "username"], upload].concat());
        assert!(faults.iter().all(|fault| !fault.to_string().contains("s3cret")), "{faults:?}");
    }

    #[test]
    fn a_host_may_have_a_port_and_be_an_address() {
        let at = |host: &str| OciRegistrySettings { host: host.to_owned(), ..OciRegistrySettings::default() };
        for host in ["localhost:5000", "registry.example.com", "[::1]:5000", "10.0.0.5"] {
            assert_eq!(at(host).faults("registry.oci"), [], "{host}");
        }
    }
}
