//! Sends one blob (OCI distribution spec 1.1, "Pushing blobs"): not at all where
//! it is there, mounted from another repository where that has it, in one request
//! where it is small, in pieces otherwise. An upload that was cut off is gone on
//! with from where the registry says that it stands, also by a later push.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::answer::Answer;
use super::authorization::Scope;
use super::client::{Call, RegistryClient};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

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
    /// It was uploaded.
    Uploaded,
}

/// An upload that has begun. Its address may hold what lets anybody go on with it.
struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// Bytes of the next piece.
    chunk_bytes: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// Sends blobs, and remembers the uploads that did not come to an end.
#[derive(Debug)]
pub(super) struct Uploads {
    mount_from: String,
    chunk_bytes: u64,
    unfinished: Mutex<HashMap<(String, Digest), Session>>,
}

enum Started {
    Mounted,
    Session(Session),
}

impl Uploads {
    pub(super) fn new(mount_from: String, chunk_bytes: u64) -> Self {
        Self { mount_from, chunk_bytes, unfinished: Mutex::default() }
    }

    /// Whether `repository` has the blob.
    pub(super) async fn has(
        &self,
        client: &RegistryClient,
        action: &str,
        repository: &str,
        digest: &Digest,
    ) -> Result<bool, PortError> {
        let url = client.url(&format!("{repository}/blobs/{digest}"))?;
        let answer = client.send(action, Call::new(Method::HEAD, url, &Scope::on(repository, PUSH))).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        answer.accepted(action)?;
        // An upload whose last answer was lost came to its end all the same.
        self.take(&(repository.to_owned(), digest.clone()));
        Ok(true)
    }

    /// Sends a blob that `repository` does not have.
    pub(super) async fn send(
        &self,
        client: &RegistryClient,
        action: &str,
        repository: &str,
        blob: &Blob,
    ) -> Result<Sent, PortError> {
        let action = format!("{action}: sending {}", blob.digest.short());
        let transfer = Transfer { client, action: &action, scope: Scope::on(repository, PUSH), blob };
        let key = (repository.to_owned(), blob.digest.clone());
        let resumed = match self.take(&key) {
            Some(session) => match transfer.ask(&session).await {
                Ok(standing) => standing,
                Err(error) => {
                    self.remember(key, session, &error);
                    return Err(error);
                }
            },
            None => None,
        };
        let mut session = match resumed {
            Some(session) => session,
            None => match self.start(&transfer, repository).await? {
                Started::Mounted => return Ok(Sent::Reused),
                Started::Session(session) => session,
            },
        };
        match transfer.run(&mut session).await {
            Ok(()) => Ok(Sent::Uploaded),
            Err(error) => {
                self.remember(key, session, &error);
                Err(error)
            }
        }
    }

    fn take(&self, key: &(String, Digest)) -> Option<Session> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    /// Keeps an upload that is worth going on with.
    fn remember(&self, key: (String, Digest), session: Session, error: &PortError) {
        if matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Exhausted | ErrorKind::Denied
        ) {
            self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).insert(key, session);
        }
    }

    async fn start(&self, transfer: &Transfer<'_>, repository: &str) -> Result<Started, PortError> {
        let url = transfer.client.url(&format!("{repository}/blobs/uploads/"))?;
        if !self.mount_from.is_empty() && self.mount_from != repository {
            let mut mount = url.clone();
            let digest = transfer.blob.digest.as_str();
            mount.query_pairs_mut().append_pair("mount", digest).append_pair("from", &self.mount_from);
            let scope = transfer.scope.clone().and(&self.mount_from, "pull");
            let answer = transfer.client.send(transfer.action, Call::new(Method::POST, mount, &scope)).await?;
            match answer.status {
                StatusCode::CREATED => return Ok(Started::Mounted),
                status if status.is_success() => return self.session(transfer, &answer),
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Err(answer.refusal(transfer.action));
                }
                _ => {
                    let error = answer.refusal(transfer.action);
                    tracing::warn!(from = self.mount_from, %error, "a layer cannot be mounted and is uploaded");
                }
            }
        }
        let call = Call::new(Method::POST, url, &transfer.scope);
        let answer = transfer.client.send(transfer.action, call).await?.accepted(transfer.action)?;
        self.session(transfer, &answer)
    }

    fn session(&self, transfer: &Transfer<'_>, answer: &Answer) -> Result<Started, PortError> {
        let Some(location) = transfer.client.location(answer) else {
            return Err(transfer.broken("began an upload without saying where (Location)"));
        };
        let smallest = answer.header(MIN_LENGTH).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let chunk_bytes = self.chunk_bytes.max(smallest);
        Ok(Started::Session(Session { location, offset: 0, chunk_bytes }))
    }
}

/// What a push needs to be allowed on its repository: one token serves all its calls.
pub(super) const PUSH: &str = "pull,push";

/// One blob on its way.
struct Transfer<'a> {
    client: &'a RegistryClient,
    action: &'a str,
    scope: Scope,
    blob: &'a Blob,
}

impl Transfer<'_> {
    /// Where the registry stands; `None` when it knows nothing of the upload any more.
    async fn ask(&self, session: &Session) -> Result<Option<Session>, PortError> {
        let call = Call::new(Method::GET, session.location.clone(), &self.scope);
        let answer = self.client.send(self.action, call).await?;
        if !answer.status.is_success() {
            let error = answer.refusal(self.action);
            let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Conflict);
            tracing::debug!(%error, "an unfinished upload cannot be asked for");
            return if gone { Ok(None) } else { Err(error) };
        }
        let Some(offset) = received(&answer).filter(|offset| *offset <= self.blob.size) else { return Ok(None) };
        let location = self.client.location(&answer).unwrap_or_else(|| session.location.clone());
        tracing::debug!(offset, size = self.blob.size, "going on with an unfinished upload");
        Ok(Some(Session { location, offset, chunk_bytes: session.chunk_bytes }))
    }

    /// Sends what is missing and ends the upload. `session` always says how far
    /// the registry is known to be.
    async fn run(&self, session: &mut Session) -> Result<(), PortError> {
        let resumed = session.offset > 0;
        if self.blob.size <= session.chunk_bytes && !resumed {
            let whole = self.piece(0, self.blob.size).await?;
            return self.finish(session, whole, resumed).await;
        }
        while session.offset < self.blob.size {
            let length = session.chunk_bytes.min(self.blob.size - session.offset);
            self.send_piece(session, length).await?;
        }
        self.finish(session, Bytes::new(), resumed).await
    }

    async fn send_piece(&self, session: &mut Session, length: u64) -> Result<(), PortError> {
        let (first, end) = (session.offset, session.offset + length);
        let piece = self.piece(first, length).await?;
        let range = HeaderValue::from_str(&format!("{first}-{}", end - 1))
            .map_err(|error| PortError::new(ErrorKind::Internal, self.action, error.to_string()))?;
        let call = Call::new(Method::PATCH, session.location.clone(), &self.scope)
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_RANGE, range)
            .body(piece);
        let answer = self.client.send(self.action, call).await?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            // It stands elsewhere than we thought: the next attempt asks where.
            let error = answer.refusal(self.action);
            return Err(PortError::new(ErrorKind::Unavailable, self.action, error.to_string()));
        }
        let answer = self.known(answer)?.accepted(self.action)?;
        if let Some(location) = self.client.location(&answer) {
            session.location = location;
        }
        match received(&answer) {
            Some(standing) if standing <= first || standing > end => {
                let text = format!("has {standing} bytes after {first}-{} were sent; expected {end}", end - 1);
                return Err(self.broken(&text));
            }
            Some(standing) => session.offset = standing,
            None => session.offset = end,
        }
        Ok(())
    }

    async fn finish(&self, session: &Session, rest: Bytes, resumed: bool) -> Result<(), PortError> {
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", self.blob.digest.as_str());
        let call = Call::new(Method::PUT, url, &self.scope).header(CONTENT_TYPE, OCTETS).body(rest);
        let answer = self.client.send(self.action, call).await?;
        if answer.has_code("DIGEST_INVALID") || (resumed && answer.status == StatusCode::BAD_REQUEST) {
            // What was read here is what the digest says, so it went wrong on the way: from the start again.
            return Err(self.broken(&answer.refusal(self.action).to_string()));
        }
        self.known(answer)?.accepted(self.action).map(|_| ())
    }

    /// Tells an upload that the registry has forgotten from a repository that is not there.
    fn known(&self, answer: Answer) -> Result<Answer, PortError> {
        if answer.status != StatusCode::NOT_FOUND || answer.has_code("NAME_UNKNOWN") {
            return Ok(answer);
        }
        Err(self.broken(&format!("has forgotten the upload ({})", answer.refusal(self.action))))
    }

    async fn piece(&self, offset: u64, length: u64) -> Result<Bytes, PortError> {
        let path = match &self.blob.content {
            Content::Memory(bytes) => return Ok(bytes.slice(offset as usize..(offset + length) as usize)),
            Content::File(path) => path,
        };
        let read = async {
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(std::io::SeekFrom::Start(offset)).await?;
            let mut piece = Vec::with_capacity(length as usize);
            file.take(length).read_to_end(&mut piece).await?;
            if piece.len() as u64 == length { Ok(piece) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
        };
        let failed = |error| PortError::io(format!("{}: reading {}", self.action, path.display()), error);
        read.await.map(Bytes::from).map_err(failed)
    }

    /// The registry did something unexpected; a fresh upload may do.
    fn broken(&self, what: &str) -> PortError {
        PortError::new(ErrorKind::Interrupted, self.action, format!("the registry {what}"))
    }
}

/// How many bytes the registry has by its `Range: 0-<last>`. Nothing at all is written `0-0` too.
fn received(answer: &Answer) -> Option<u64> {
    let range = answer.header(RANGE)?.trim();
    let last: u64 = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderMap;

    #[test]
    fn a_range_tells_how_many_bytes_are_there() {
        for (range, bytes) in [
            ("0-999", Some(1000)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("0--1", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
            let answer = Answer { status: StatusCode::NO_CONTENT, headers, body: Bytes::new() };
            assert_eq!(received(&answer), bytes, "{range}");
        }
    }
}
