//! Writing: a small object by one request, a large one by an upload in parts. Both
//! are atomic in S3: an object is seen when its last request succeeded.
//!
//! A new object is written under the condition that there is none (`If-None-Match:
//! *`), after a look whether there is one: the look spares the bytes where the
//! object is there already, and it is what remains of the promise on stores that
//! do not know the condition (there, two writers at the same moment may both win).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::failure::Failure;
use super::{S3Store, off_thread};
use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;

/// Metadata of an object: the SHA-256 of its bytes, in hexadecimal.
pub(super) const SHA256_MARK: &str = "delayd-sha256";
/// Metadata of an object: which write made it.
const WRITE_MARK: &str = "delayd-write";

/// One write of an object.
pub(super) struct Write<'a> {
    pub(super) key: &'a str,
    pub(super) body: Bytes,
    /// Only where there is no object yet.
    pub(super) only_new: bool,
    /// The mark by which this write knows its own object.
    mark: String,
    sha256: String,
}

impl Write<'_> {
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        let marks = [(SHA256_MARK, &self.sha256), (WRITE_MARK, &self.mark)];
        marks.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }

    pub(super) fn condition(&self) -> Option<String> {
        self.only_new.then(|| "*".to_owned())
    }
}

impl S3Store {
    pub(super) async fn write(&self, client: &Client, key: &str, body: Bytes, only_new: bool) -> Result<(), Failure> {
        if only_new && self.mark_of(client, key).await?.is_some() {
            return Err(exists());
        }
        let (body, sha256) = off_thread(move || {
            let digest = Digest::of(&body);
            (body, digest.hex().to_owned())
        })
        .await?;
        let write = Write { key, only_new, mark: random_mark(), sha256, body };
        let written = if write.body.len() as u64 > self.settings.multipart_threshold_bytes {
            self.upload(client, &write).await
        } else {
            self.put_at_once(client, &write).await
        };
        match written {
            Err(failure) if (only_new && failure.is_conflict()) || failure.is_missing_upload() => {
                self.settle(client, &write, failure).await
            }
            written => written,
        }
    }

    async fn put_at_once(&self, client: &Client, write: &Write<'_>) -> Result<(), Failure> {
        let mut attempts = self.bounds.attempts();
        loop {
            let request = client
                .put_object()
                .bucket(&self.settings.bucket)
                .key(write.key)
                .body(ByteStream::from(write.body.clone()))
                .set_metadata(Some(write.metadata()))
                .set_if_none_match(write.condition())
                .customize();
            let request = if self.settings.is_encrypted() { request.disable_payload_signing() } else { request };
            match self.bounds.once(request.send()).await {
                Ok(_) => return Ok(()),
                Err(failure) => attempts.again(failure).await?,
            }
        }
    }

    /// What a refused write means. The answer to an earlier attempt may have been
    /// lost: then the object that stands in the way is our own.
    async fn settle(&self, client: &Client, write: &Write<'_>, failure: Failure) -> Result<(), Failure> {
        match self.mark_of(client, write.key).await? {
            Some(mark) if mark == write.mark => Ok(()),
            Some(_) if write.only_new => Err(exists()),
            Some(_) => Err(failure),
            None => {
                let message = format!("{}; there is no object now: write it anew", failure.message);
                Err(Failure { kind: ErrorKind::Interrupted, message, ..failure })
            }
        }
    }

    /// The mark of the write that made an object, empty where it has none; `None`
    /// where there is no object.
    async fn mark_of(&self, client: &Client, key: &str) -> Result<Option<String>, Failure> {
        let request = || client.head_object().bucket(&self.settings.bucket).key(key).send();
        match self.bounds.retried(request).await {
            Ok(head) => Ok(Some(head.metadata().and_then(|marks| marks.get(WRITE_MARK)).cloned().unwrap_or_default())),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

fn exists() -> Failure {
    Failure::new(ErrorKind::Conflict, "the object exists already")
}

/// A mark that no other write has: 128 random bits. The standard library seeds its
/// hashers from the system. Nothing is decided by it that would have to be repeatable.
fn random_mark() -> String {
    let bits = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", bits(), bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_writes_have_the_same_mark() {
        let marks: std::collections::BTreeSet<String> = (0..1000).map(|_| random_mark()).collect();
        assert_eq!(marks.len(), 1000);
    }
}
