//! Objects by key: flight logs, weather files, canonical datasets, bundles.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::PortError;

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
/// Contract (the suite in `tests/object_store_contract.rs` runs it on every adapter):
/// a `put` is atomic and leaves either the old or the new object; `put_if_absent`
/// answers `Conflict` when the key exists; `get` of a missing key is `NotFound`;
/// `list` is sorted by key and never shows half-written objects.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Every object whose key starts with `prefix`, sorted by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError>;
    /// The whole object.
    async fn get(&self, key: &str) -> Result<Bytes, PortError>;
    /// Writes or replaces an object.
    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError>;
    /// Writes an object that must not exist yet.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), PortError>;
    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), PortError>;
}
