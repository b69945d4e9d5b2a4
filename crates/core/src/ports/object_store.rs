//! Objects by key: flight logs, weather files, canonical datasets, bundles.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, PortError};

/// What a listing tells of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// The key, `/`-separated, relative to the store's root.
    pub key: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
}

/// A store of immutable objects. Keys never contain `..`, a leading `/` or an empty part.
///
/// Contract (the suite in `crates/testkit/src/contracts/object_store.rs` runs it on every adapter):
/// a `put` is atomic and leaves either the old or the new object, so that it may be repeated; `get` of a missing key is
/// `NotFound`; `list` is sorted by key and never shows half-written objects. There is no write under a condition: keys
/// name their content, or belong to one writer.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Every object whose key starts with `prefix`, sorted by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError>;
    /// The whole object.
    async fn get(&self, key: &str) -> Result<Bytes, PortError>;
    /// Writes or replaces an object.
    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError>;
    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), PortError>;
    /// Whether the store can be reached and lets us in. Changes nothing; answers
    /// with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.as_ref().list(prefix).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.as_ref().get(key).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.as_ref().put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.as_ref().delete(key).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.as_ref().probe().await
    }
}

/// Longest key in bytes: S3's limit, so that what one store takes every store takes.
const MAX_KEY_BYTES: usize = 1024;

/// Refuses what is no key: empty, too long, absolute, with `.`, `..` or an empty
/// part, or with a control character or backslash. `action` goes into the error.
///
/// # Errors
/// `Invalid`, naming the key and the rule.
pub fn check_key(action: &str, key: &str) -> Result<(), PortError> {
    let fault = if key.is_empty() {
        "is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "is longer than 1024 bytes"
    } else if key.chars().any(|c| c.is_control() || c == '\\') {
        "contains a control character or a backslash"
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "is absolute or has a part that is empty, `.` or `..`"
    } else {
        return Ok(());
    };
    let message = format!("key {key:?} {fault}; keys look like `flights/2013-01-01.csv`");
    Err(PortError::new(ErrorKind::Invalid, action, message))
}

/// Refuses what is no prefix of any key; the empty prefix and one that ends in `/` are fine.
///
/// # Errors
/// `Invalid`, naming the prefix and the rule.
pub fn check_prefix(action: &str, prefix: &str) -> Result<(), PortError> {
    match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" if prefix.is_empty() => Ok(()),
        key => check_key(action, key),
    }
}
