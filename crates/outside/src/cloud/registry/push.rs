//! Sends one blob (OCI distribution spec 1.1, "Pushing blobs"): not at all where it is there, mounted from another
//! repository where that has it, in one request where it fits `upload.chunk_bytes`, in pieces otherwise. An upload that
//! was interrupted is started again: layers are a few megabytes.

use std::path::PathBuf;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::UploadSettings;
use super::authorization::Scope;
use super::client::{Answer, Call, RegistryClient};
use crate::packaging::oci::{INDEX_TYPE, MANIFEST_TYPE};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

/// What a push needs to be allowed on its repository: one token serves all its calls.
pub(super) const PUSH: &str = "pull,push";
/// The smallest piece that a registry takes (OCI distribution spec 1.1, "Pushing a blob in chunks").
const MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A blob to send.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// Where a blob's bytes are.
#[derive(Debug)]
pub(super) enum Content {
    File(PathBuf),
    Memory(Bytes),
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was there, or was mounted from another repository.
    Reused,
    Uploaded,
}

/// An upload that was started. Its address may hold what lets anybody continue it.
struct Session {
    location: Url,
    chunk_bytes: u64,
}

/// One blob on its way to a repository.
pub(super) struct Upload<'a> {
    pub(super) client: &'a RegistryClient,
    pub(super) settings: &'a UploadSettings,
    pub(super) action: &'a str,
    pub(super) repository: &'a str,
    pub(super) blob: &'a Blob,
}

impl Upload<'_> {
    fn scope(&self) -> Scope {
        Scope::on(self.repository, PUSH)
    }

    async fn ask(&self, call: Call) -> Result<Answer, PortError> {
        self.client.send(self.action, call).await
    }

    /// Whether the repository has the blob.
    pub(super) async fn is_there(&self) -> Result<bool, PortError> {
        let url = self.client.url(&format!("{}/blobs/{}", self.repository, self.blob.digest))?;
        let answer = self.ask(Call::new(Method::HEAD, url, &self.scope())).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        answer.accepted(self.action).map(|_| true)
    }

    /// Sends a blob that the repository does not have.
    pub(super) async fn send(&self) -> Result<Sent, PortError> {
        let action = format!("{}: sending {}", self.action, self.blob.digest.short());
        let upload = Upload { action: &action, ..*self };
        let Some(mut session) = upload.start().await? else { return Ok(Sent::Reused) };
        let mut rest = 0;
        if upload.blob.size > session.chunk_bytes {
            while rest < upload.blob.size {
                let end = upload.blob.size.min(rest + session.chunk_bytes);
                upload.send_piece(&mut session, rest, end).await?;
                rest = end;
            }
        }
        upload.finish(&session, upload.piece(rest, upload.blob.size).await?).await?;
        Ok(Sent::Uploaded)
    }

    /// `None` where the blob was mounted instead.
    async fn start(&self) -> Result<Option<Session>, PortError> {
        let url = self.client.url(&format!("{}/blobs/uploads/", self.repository))?;
        let from = &self.settings.mount_from;
        if !from.is_empty() && from != self.repository {
            let mut mount = url.clone();
            mount.query_pairs_mut().append_pair("mount", self.blob.digest.as_str()).append_pair("from", from);
            let answer = self.ask(Call::new(Method::POST, mount, &self.scope().and(from, "pull"))).await?;
            match answer.status {
                StatusCode::CREATED => return Ok(None),
                status if status.is_success() => return self.session(&answer).map(Some),
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Err(answer.refusal(self.action));
                }
                _ => {
                    let error = answer.refusal(self.action);
                    tracing::warn!(from, %error, "a layer cannot be mounted and is uploaded");
                }
            }
        }
        let answer = self.ask(Call::new(Method::POST, url, &self.scope())).await?.accepted(self.action)?;
        self.session(&answer).map(Some)
    }

    fn session(&self, answer: &Answer) -> Result<Session, PortError> {
        let Some(location) = self.client.location(answer) else {
            return Err(self.broken("started an upload without saying where (Location)"));
        };
        let smallest = answer.header(MIN_LENGTH).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Ok(Session { location, chunk_bytes: self.settings.chunk_bytes.max(smallest) })
    }

    /// The bytes from `first` to before `end`.
    async fn send_piece(&self, session: &mut Session, first: u64, end: u64) -> Result<(), PortError> {
        let range = HeaderValue::from_str(&format!("{first}-{}", end - 1))
            .map_err(|error| PortError::new(ErrorKind::Internal, self.action, error.to_string()))?;
        let call = Call::new(Method::PATCH, session.location.clone(), &self.scope())
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_RANGE, range)
            .body(self.piece(first, end).await?);
        let answer = self.known(self.ask(call).await?)?.accepted(self.action)?;
        if let Some(location) = self.client.location(&answer) {
            session.location = location;
        }
        Ok(())
    }

    async fn finish(&self, session: &Session, rest: Bytes) -> Result<(), PortError> {
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", self.blob.digest.as_str());
        let answer =
            self.ask(Call::new(Method::PUT, url, &self.scope()).header(CONTENT_TYPE, OCTETS).body(rest)).await?;
        if answer.has_code("DIGEST_INVALID") {
            // What was read here is what the digest says, so it went wrong on the way.
            return Err(self.broken(&answer.refusal(self.action).to_string()));
        }
        self.known(answer)?.accepted(self.action).map(|_| ())
    }

    /// Tells an upload that the registry has forgotten, or stands elsewhere in, from a repository that is not there.
    fn known(&self, answer: Answer) -> Result<Answer, PortError> {
        let forgotten = answer.status == StatusCode::NOT_FOUND && !answer.has_code("NAME_UNKNOWN");
        if forgotten || answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(self.broken(&format!("has lost the upload ({})", answer.refusal(self.action))));
        }
        Ok(answer)
    }

    async fn piece(&self, first: u64, end: u64) -> Result<Bytes, PortError> {
        let path = match &self.blob.content {
            Content::Memory(bytes) => return Ok(bytes.slice(first as usize..end as usize)),
            Content::File(path) => path,
        };
        let read = async {
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(std::io::SeekFrom::Start(first)).await?;
            let mut piece = Vec::with_capacity((end - first) as usize);
            file.take(end - first).read_to_end(&mut piece).await?;
            if piece.len() as u64 == end - first { Ok(piece) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
        };
        let failed = |error| PortError::io(format!("{}: reading {}", self.action, path.display()), error);
        read.await.map(Bytes::from).map_err(failed)
    }

    /// The registry did something unexpected; a fresh upload may do.
    fn broken(&self, what: &str) -> PortError {
        PortError::new(ErrorKind::Interrupted, self.action, format!("the registry {what}"))
    }
}

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Every kind of manifest that a tag may point at.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The empty blob of the OCI image spec 1.1 ("Guidance for an empty descriptor").
pub(super) const EMPTY_BLOB: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

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
