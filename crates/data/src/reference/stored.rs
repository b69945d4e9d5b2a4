//! Reference data in the object store: the object that counts, the copy of every
//! version, and the note of where a fetched one came from.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::content::{Content, ParsedContent};
use crate::DataError;
use crate::ObjectReader;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::ReferenceKind;
use delayd_core::ports::{ObjectMeta, ObjectStore, Validators};

/// What is known of a fetched copy, kept beside it as `<key>.fetched.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedCopy {
    /// The digest of the copy's bytes.
    pub sha256: Digest,
    /// What names this version to the server.
    pub validators: Validators,
    /// When it was fetched.
    pub fetched_at: DateTime<Utc>,
}

fn note_key(key: &str) -> String {
    format!("{key}.fetched.json")
}

/// Where a version's own copy lies.
pub fn version_key(kind: ReferenceKind, digest: &Digest) -> String {
    format!("reference/versions/{kind}/{}", digest.hex())
}

/// What the store's listing tells of one object; `None` where it is not there.
pub async fn stored_meta(store: &dyn ObjectStore, key: &str) -> Result<Option<ObjectMeta>, PortError> {
    Ok(store.list(key).await?.into_iter().find(|object| object.key == key))
}

/// An object; `None` where it is not there.
pub async fn get_if_there(store: &dyn ObjectStore, key: &str) -> Result<Option<Bytes>, PortError> {
    match store.get(key).await {
        Ok(body) => Ok(Some(body)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The note beside a copy. One that cannot be read counts as none: the document
/// is then fetched whole.
pub async fn note_of(store: &dyn ObjectStore, key: &str) -> Result<Option<FetchedCopy>, PortError> {
    let note = note_key(key);
    let Some(body) = get_if_there(store, &note).await? else { return Ok(None) };
    let read = serde_json::from_slice(&body);
    if let Err(error) = &read {
        tracing::warn!(object.key = note, error = %error, "the note of a fetched document is damaged");
    }
    Ok(read.ok())
}

/// Writes the copy first and its note second: a crash in between only makes the
/// next fetch a whole one.
pub async fn store_copy(store: &dyn ObjectStore, key: &str, body: Bytes, note: &FetchedCopy) -> Result<(), DataError> {
    let json = serde_json::to_vec(note).map_err(|error| DataError::Internal(format!("note of {key}: {error}")))?;
    store.put(key, body).await?;
    store.put(&note_key(key), Bytes::from(json)).await?;
    Ok(())
}

/// Reads content on the blocking pool, within bounds: a list of all the world's airports is long.
pub async fn parsed(
    kind: ReferenceKind,
    key: &str,
    body: Bytes,
    time_zones: &BTreeMap<String, String>,
    reader: &ObjectReader,
) -> Result<ParsedContent, DataError> {
    let (key, time_zones, reader) = (key.to_owned(), time_zones.clone(), reader.clone());
    let work = move || {
        let digest = Digest::of(&body);
        reader.read(&key, &digest, |limits| Content::parse(kind, &key, &body, &time_zones, limits)).flatten()
    };
    match delayd_core::spans::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(DataError::Internal(format!("reading {kind} did not finish: {error}"))),
    }
}
