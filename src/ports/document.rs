//! One document that somebody else keeps: a list of airports, a calendar.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::PortError;

/// What tells one version of a document from another (RFC 9110, 8.8); sent back
/// with the next question, so that an unchanged document is not sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validators {
    /// The `ETag` header.
    pub etag: Option<String>,
    /// The `Last-Modified` header.
    pub last_modified: Option<String>,
}

/// What a question brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedDocument {
    /// It is the version that the validators name.
    Unchanged,
    /// A version, whole.
    Changed {
        /// Its bytes.
        body: Bytes,
        /// What names it next time.
        validators: Validators,
    },
}

/// A document by its address.
///
/// Contract: an answer is the whole document or an error, never a part of it;
/// one that is away is `Unavailable` or `Timeout`; one that is larger than its
/// bound is `Invalid`; the address, which may be a secret, is in no text.
#[async_trait]
pub trait DocumentSource: Send + Sync + std::fmt::Debug {
    /// The document, unless it still is the version that `known` names.
    async fn fetch(&self, known: &Validators) -> Result<FetchedDocument, PortError>;
    /// Whether the document can be reached and we may read it. Changes nothing;
    /// answers with one line about what is there.
    async fn probe(&self) -> Result<String, PortError>;
}
