//! Any registry that speaks the OCI distribution protocol (version 1.1), without
//! a Docker daemon: an image goes from its layout folder into the registry.
//!
//! Blobs go first and the manifest last, so that a tag never points at an image
//! that is not all there. It deliberately does not create repositories (registries
//! do that at the first push; ECR's adapter does it by ECR's API), collect garbage,
//! sign images, or push indexes of several platforms.

mod answer;
mod authorization;
mod client;
pub(super) mod login;
pub(super) mod settings;
mod tags;
mod upload;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{Method, StatusCode};

pub use settings::{OciRegistrySettings, UploadSettings};

use self::authorization::Scope;
use self::client::{Call, RegistryClient};
use self::login::{ConfiguredLogin, LoginSource};
use self::tags::{EMPTY_BLOB, Tags};
use self::upload::{Blob, Content, PUSH, Sent, Upload};
use crate::packaging::oci::{Descriptor, Layout, Manifest, copy_hashing};
use crate::packaging::{PackagingError, check_repository};
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};

/// Where images go and how they are called there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The host that is spoken to.
    pub(super) host: String,
    /// The host in references; the same when empty.
    pub(super) pull_host: String,
    /// Before every repository.
    pub(super) repository_prefix: String,
    /// Without TLS.
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
    ///
    /// # Errors
    /// When the authority's file cannot be used, or the host is none.
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

    /// The repository's whole name, checked.
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

/// A repository's whole name.
pub(super) fn full_name(action: &str, prefix: &str, repository: &str) -> Result<String, PortError> {
    let full = if prefix.is_empty() { repository.to_owned() } else { format!("{prefix}/{repository}") };
    match check_repository(repository).and_then(|()| check_repository(&full)) {
        Ok(()) => Ok(full),
        Err(error) => Err(PortError::new(error.kind(), action, error.to_string())),
    }
}
