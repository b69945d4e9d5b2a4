//! Documents that are stored: a type of some crate, as JSON, with the version of its shape.
//!
//! The ledger keeps documents of types that it cannot name, because they belong to crates above it. Whoever writes one
//! gives the type, and whoever reads it back asks for the same type, never for a field of loose JSON.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ErrorKind;
use crate::failure::StepFailure;

/// The field that holds the version in a stored object.
const VERSION: &str = "document_version";
/// The field that holds a stored document that is no object, beside its version.
const BODY: &str = "document";

/// A type whose values are stored as documents.
pub trait Stored: Serialize + DeserializeOwned {
    /// What it is called in errors: `drift report`.
    const NAME: &'static str;
    /// The version of its shape. It rises when a field changes its meaning, or goes; a field that is added has a default.
    const VERSION: u32 = 1;
}

impl<T: Stored> Stored for Vec<T> {
    const NAME: &'static str = T::NAME;
    const VERSION: u32 = T::VERSION;
}

/// Nothing yet is stored as `null`.
impl<T: Stored> Stored for Option<T> {
    const NAME: &'static str = T::NAME;
    const VERSION: u32 = T::VERSION;
}

/// A stored document. To programs outside it is its JSON alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// 0 for one that an earlier delayd wrote, that came over HTTP, or that is `null`.
    version: u32,
    body: Value,
}

impl Document {
    /// The document of a value.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn of<T: Stored>(value: &T) -> Result<Self, DocumentError> {
        let body = serde_json::to_value(value).map_err(|source| DocumentError::Unwritable { name: T::NAME, source })?;
        Ok(Self { version: if body.is_null() { 0 } else { T::VERSION }, body })
    }

    /// The value that was stored. A document without a version is read as the first one.
    ///
    /// # Errors
    /// A newer delayd wrote it, or it is something else.
    pub fn read<T: Stored>(&self) -> Result<T, DocumentError> {
        if self.version > T::VERSION {
            return Err(DocumentError::Newer { name: T::NAME, found: self.version, known: T::VERSION });
        }
        T::deserialize(&self.body).map_err(|source| DocumentError::Unreadable { name: T::NAME, source })
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.body.is_null()
    }

    /// The text that is stored.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_stored(&self) -> Result<String, serde_json::Error> {
        let mut stored = self.body.clone();
        match &mut stored {
            _ if self.version == 0 => {}
            Value::Object(fields) => {
                fields.insert(VERSION.to_owned(), self.version.into());
            }
            other => stored = serde_json::json!({ VERSION: self.version, BODY: other.take() }),
        }
        serde_json::to_string(&stored)
    }

    /// The document of a stored text.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn from_stored(text: &str) -> Result<Self, serde_json::Error> {
        let mut body: Value = serde_json::from_str(text)?;
        let Some(fields) = body.as_object_mut() else { return Ok(Self { version: 0, body }) };
        let version = fields.remove(VERSION).and_then(|version| version.as_u64()).unwrap_or_default();
        if version > 0
            && fields.len() == 1
            && let Some(inner) = fields.remove(BODY)
        {
            body = inner;
        }
        Ok(Self { version: u32::try_from(version).unwrap_or(u32::MAX), body })
    }
}

/// A document without a version, as an earlier delayd wrote it.
impl From<Value> for Document {
    fn from(body: Value) -> Self {
        Self { version: 0, body }
    }
}

impl Serialize for Document {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

impl utoipa::PartialSchema for Document {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        Value::schema()
    }
}

impl utoipa::ToSchema for Document {}

/// Why a document cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A newer delayd wrote it.
    #[error("the {name} has version {found}, this delayd knows {known}; a newer delayd wrote it")]
    Newer {
        /// What it is.
        name: &'static str,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// It is something else.
    #[error("the {name} cannot be read: {source}")]
    Unreadable {
        /// What it should be.
        name: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value of it cannot be JSON.
    #[error("the {name} cannot be written as JSON: {source}")]
    Unwritable {
        /// What it is.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl From<DocumentError> for StepFailure {
    fn from(error: DocumentError) -> Self {
        let kind = match error {
            DocumentError::Unwritable { .. } => ErrorKind::Internal,
            DocumentError::Newer { .. } | DocumentError::Unreadable { .. } => ErrorKind::Corrupt,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Look {
        rows: u64,
    }

    impl Stored for Look {
        const NAME: &'static str = "look";
        const VERSION: u32 = 2;
    }

    #[test]
    fn a_document_keeps_its_version_and_shows_its_json_alone() {
        let looks = vec![Look { rows: 3 }];
        for (document, shown) in [
            (Document::of(&looks[0]).unwrap(), json!({ "rows": 3 })),
            (Document::of(&looks).unwrap(), json!([{ "rows": 3 }])),
            (Document::of(&None::<Look>).unwrap(), Value::Null),
        ] {
            assert_eq!(serde_json::to_value(&document).unwrap(), shown);
            let stored = document.to_stored().unwrap();
            assert_eq!(stored.contains("\"document_version\":2"), !document.is_null(), "{stored}");
            let again = Document::from_stored(&stored).unwrap();
            assert_eq!(serde_json::to_value(&again).unwrap(), shown);
            assert_eq!(again.version, if again.is_null() { 0 } else { 2 });
        }
        assert_eq!(Document::of(&looks).unwrap().read::<Vec<Look>>().unwrap(), looks);
    }

    #[test]
    fn one_without_a_version_is_read_and_a_newer_one_is_refused() {
        assert_eq!(Document::from_stored(r#"{"rows":3}"#).unwrap().read::<Look>().unwrap(), Look { rows: 3 });
        let newer = Document::from_stored(r#"{"rows":3,"document_version":9}"#).unwrap().read::<Look>().unwrap_err();
        assert!(newer.to_string().contains("has version 9, this delayd knows 2"), "{newer}");
        let other = StepFailure::from(Document::from(json!({ "row": 3 })).read::<Look>().unwrap_err());
        assert_eq!(other.kind, ErrorKind::Corrupt);
    }
}
