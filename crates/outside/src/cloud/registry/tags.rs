//! Tags: what they point at, moving one, and taking one away.
//!
//! Not every registry can delete a tag; Docker's registry before version 3 only
//! deletes manifests, with all their tags. Deleting the image's manifest would
//! take away other tags of the same image, and what pods pull by digest. So there
//! the tag is first moved to an empty placeholder of its own, and that is deleted.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::answer::Answer;
use super::authorization::Scope;
use super::client::{Call, RegistryClient};
use crate::packaging::oci::{INDEX_TYPE, MANIFEST_TYPE};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Every kind of manifest that a tag may point at.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The empty blob of the OCI image spec 1.1 ("Guidance for an empty descriptor").
pub(super) const EMPTY_BLOB: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// A repository's tags and manifests.
pub(super) struct Tags<'a> {
    pub(super) client: &'a RegistryClient,
    pub(super) action: &'a str,
    pub(super) repository: &'a str,
}

impl Tags<'_> {
    fn call(&self, method: Method, reference: &str, actions: &str) -> Result<Call, PortError> {
        let url = self.client.url(&format!("{}/manifests/{reference}", self.repository))?;
        Ok(Call::new(method, url, &Scope::on(self.repository, actions)))
    }

    async fn read(&self, method: Method, reference: &str, actions: &str) -> Result<Option<Answer>, PortError> {
        let kinds = [MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let kinds = HeaderValue::from_str(&kinds).map_err(|error| self.internal(&error))?;
        let call = self.call(method, reference, actions)?.header(ACCEPT, kinds);
        let answer = self.client.send(self.action, call).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.accepted(self.action).map(Some) }
    }

    /// The digest that a tag points at, in the registry's word.
    pub(super) async fn find(&self, tag: &str, actions: &str) -> Result<Option<Digest>, PortError> {
        let Some(answer) = self.read(Method::HEAD, tag, actions).await? else { return Ok(None) };
        if answer.header(CONTENT_DIGEST).is_some() {
            return self.told_digest(&answer);
        }
        Ok(self.read(Method::GET, tag, actions).await?.map(|answer| Digest::of(&answer.body)))
    }

    /// The digest that a tag points at; what it points at was read and is that.
    pub(super) async fn resolve(&self, tag: &str) -> Result<Option<Digest>, PortError> {
        let Some(digest) = self.find(tag, "pull").await? else { return Ok(None) };
        let corrupt = |message: String| PortError::new(ErrorKind::Corrupt, self.action, message);
        match self.read(Method::GET, digest.as_str(), "pull").await? {
            None => {
                Err(corrupt(format!("the tag points at {digest}, which the registry does not have; push it again")))
            }
            Some(answer) => match Digest::of(&answer.body) {
                found if found == digest => Ok(Some(digest)),
                found => Err(corrupt(format!("the manifest {digest} is damaged in the registry: it is {found}"))),
            },
        }
    }

    fn told_digest(&self, answer: &Answer) -> Result<Option<Digest>, PortError> {
        let Some(text) = answer.header(CONTENT_DIGEST) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: delayd_core::ids::InvalidId| {
            PortError::new(ErrorKind::Corrupt, self.action, format!("Docker-Content-Digest: {error}"))
        })
    }

    /// Puts a manifest under `tag`. All its blobs must be there.
    pub(super) async fn put(&self, tag: &str, media_type: &str, manifest: Bytes) -> Result<(), PortError> {
        let digest = Digest::of(&manifest);
        let media_type = HeaderValue::from_str(media_type).map_err(|error| self.internal(&error))?;
        let call = self.call(Method::PUT, tag, "pull,push")?.header(CONTENT_TYPE, media_type).body(manifest);
        let answer = self.client.send(self.action, call).await?.accepted(self.action)?;
        match self.told_digest(&answer)? {
            Some(taken) if taken != digest => {
                let message = format!("the registry took the manifest as {taken}, but {digest} was sent");
                Err(PortError::new(ErrorKind::Corrupt, self.action, message))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a tag the standard way. `false`: this registry cannot.
    pub(super) async fn delete(&self, tag: &str) -> Result<bool, PortError> {
        let answer = self.client.send(self.action, self.call(Method::DELETE, tag, DELETE)?).await?;
        match answer.status {
            // Docker's registry 2.8 takes the tag for a digest, and answers 400.
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            StatusCode::NOT_FOUND => Ok(true),
            _ => answer.accepted(self.action).map(|_| true),
        }
    }

    /// Refuses unless manifests can be deleted: asks for one that is not there.
    pub(super) async fn check_deletable(&self, tag: &str) -> Result<(), PortError> {
        self.delete_manifest(&Digest::of(&placeholder(self.repository, tag))).await
    }

    /// Moves the tag to a placeholder that nothing else names, and deletes that.
    /// [`EMPTY_BLOB`] must be in the repository.
    pub(super) async fn delete_by_placeholder(&self, tag: &str) -> Result<(), PortError> {
        let manifest = placeholder(self.repository, tag);
        let digest = Digest::of(&manifest);
        self.put(tag, MANIFEST_TYPE, manifest).await?;
        self.delete_manifest(&digest).await
    }

    async fn delete_manifest(&self, digest: &Digest) -> Result<(), PortError> {
        let answer = self.client.send(self.action, self.call(Method::DELETE, digest.as_str(), DELETE)?).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => {
                let message = "the registry deletes nothing; allow it (Docker's registry: storage.delete.enabled), \
                               or remove the tag by hand";
                Err(PortError::new(ErrorKind::Denied, self.action, message))
            }
            _ => answer.accepted(self.action).map(|_| ()),
        }
    }

    fn internal(&self, error: &dyn std::error::Error) -> PortError {
        PortError::new(ErrorKind::Internal, self.action, error.to_string())
    }
}

const DELETE: &str = "pull,push,delete";

/// The manifest of an empty artifact, different for every tag.
fn placeholder(repository: &str, tag: &str) -> Bytes {
    let empty = serde_json::json!({
        "mediaType": EMPTY_TYPE,
        "digest": Digest::of(EMPTY_BLOB),
        "size": EMPTY_BLOB.len(),
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": empty,
        "layers": [empty],
        "annotations": {"delayd.placeholder": format!("{repository}:{tag} is being removed")},
    });
    Bytes::from(manifest.to_string())
}
