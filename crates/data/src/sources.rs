//! Copies of the flight logs that were taken in, each under the digest of its bytes.
//!
//! A dataset is made of the copies, so that it can be made, and made again, whatever
//! becomes of the object that was uploaded: one that a bucket's lifecycle deletes or
//! somebody overwrites with garbage takes nothing away. Copies are never changed, and
//! nothing here removes one.

use bytes::Bytes;

use delayd_core::error::{PortError, chain};
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// Where the copies lie.
const PREFIX: &str = "sources/";

/// A flight log in the form in which it was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceVersion {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes then.
    pub sha256: Digest,
}

impl SourceVersion {
    /// The form in which an object holds these bytes.
    #[must_use]
    pub fn of(key: &str, body: &[u8]) -> Self {
        Self { key: key.to_owned(), sha256: Digest::of(body) }
    }
}

/// Where the copy of a flight log with these bytes lies.
#[must_use]
pub fn copy_key(sha256: &Digest) -> String {
    format!("{PREFIX}{}", sha256.hex())
}

/// Keeps a copy; one that is there already is the same.
///
/// # Errors
/// When the store does not take it.
pub async fn keep_copy(store: &dyn ObjectStore, sha256: &Digest, body: Bytes) -> Result<(), PortError> {
    store.put(&copy_key(sha256), body).await
}

/// The bytes of a flight log as it was taken in: its copy's, or, where none was kept,
/// those of the uploaded object as long as they are the same. Inside: why they are gone.
///
/// # Errors
/// When the store is away.
pub async fn read_source(store: &dyn ObjectStore, source: &SourceVersion) -> Result<Result<Bytes, String>, PortError> {
    let mut reasons = Vec::new();
    for key in [copy_key(&source.sha256), source.key.clone()] {
        match store.get(&key).await {
            Ok(body) if Digest::of(&body) == source.sha256 => return Ok(Ok(body)),
            Ok(body) => reasons.push(format!("{key} holds other bytes now, {}", Digest::of(&body))),
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => reasons.push(chain(&error)),
        }
    }
    Ok(Err(reasons.join("; ")))
}
