//! One document that somebody else keeps: a list of airports, a calendar.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::PortError;
use crate::ids::InvalidId;

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

/// What a piece of reference data tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceKind {
    /// Where airports are and what their clocks show.
    Airports,
    /// Holidays beyond the computed ones.
    Holidays,
    /// Events.
    Events,
}

impl ReferenceKind {
    /// Its name, as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Airports => "airports",
            Self::Holidays => "holidays",
            Self::Events => "events",
        }
    }
}

impl std::fmt::Display for ReferenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for ReferenceKind {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let all = [Self::Airports, Self::Holidays, Self::Events];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| InvalidId {
            given: text.to_owned(),
            expected: "kind of reference data: airports, holidays or events",
        })
    }
}
