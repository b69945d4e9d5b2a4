//! The names of things: one newtype per kind of identity, so that a dataset can
//! never be passed where a model is meant.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A text that is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {expected}")]
pub struct InvalidId {
    pub given: String,
    pub expected: &'static str,
}

/// The schema of a text with a pattern.
fn text_schema(pattern: &str, example: &str) -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .pattern(Some(pattern))
        .examples([example])
        .into()
}

macro_rules! sequence_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix($prefix)
                    .and_then(|number| number.parse().ok())
                    .filter(|number| *number > 0)
                    .map(Self)
                    .ok_or_else(|| InvalidId {
                        given: text.to_owned(),
                        expected: concat!("name like `", $prefix, "1`"),
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                text_schema(concat!("^", $prefix, "[1-9][0-9]{0,17}$"), concat!($prefix, "1"))
            }
        }

        impl utoipa::ToSchema for $name {}

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

sequence_id!(CycleId, "cycle_");
sequence_id!(ModelVersion, "model_v");
sequence_id!(RunId, "run_");
sequence_id!(DeploymentId, "deployment_");
sequence_id!(DecisionId, "decision_");
sequence_id!(DriftReportId, "drift_");
sequence_id!(AlertId, "alert_");
sequence_id!(SilenceId, "silence_");

/// A SHA-256 digest in the OCI spelling, `sha256:<64 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))))
    }

    /// The digest of what was fed to a hasher, for content too large for memory.
    pub fn from_sha256(hasher: sha2::Sha256) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", hex::encode(hasher.finalize())))
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl utoipa::PartialSchema for Digest {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        text_schema("^sha256:[0-9a-f]{64}$", example)
    }
}

impl utoipa::ToSchema for Digest {}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let hex = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId { given: text.to_owned(), expected: "digest like `sha256:` and 64 hex digits" })
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A trace as W3C Trace Context has it: 16 bytes, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// The trace of something that is named once and for all: the first 16 bytes of
    /// the SHA-256 of its name.
    pub fn of(name: &str) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(name.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }

    /// The value of a `traceparent` header for what is asked on behalf of `part` of
    /// this trace, which says that the trace is recorded.
    pub fn traceparent(&self, part: &str) -> String {
        let span = Self::of(&format!("{self}/{part}"));
        format!("00-{self}-{}-01", hex::encode(&span.0[..8]))
    }

    /// The trace that a `traceparent` names; `None` where it is not in W3C's form.
    pub fn of_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace) = (parts.next()?, parts.next()?);
        let later = version.len() == 2 && version != "ff" && parts.clone().count() >= 2;
        later.then(|| trace.parse().ok()).flatten().filter(|trace: &Self| trace.0 != [0; 16])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl Serialize for TraceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for TraceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = [0; 16];
        let invalid = |_| InvalidId { given: text.to_owned(), expected: "trace of 32 hex digits" };
        hex::decode_to_slice(text, &mut bytes).map_err(invalid)?;
        Ok(Self(bytes))
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for TraceId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        text_schema("^[0-9a-f]{32}$", "4bf92f3577b34da6a3ce929d0e0e4736")
    }
}

impl utoipa::ToSchema for TraceId {}

/// What makes a flight that flight, in every file and every question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlightKey {
    /// Carrier, IATA code.
    pub carrier: String,
    /// Flight number.
    pub flight_number: u32,
    /// Origin airport.
    pub origin: String,
    /// Destination airport.
    pub dest: String,
    /// Scheduled departure.
    pub scheduled_departure: DateTime<Utc>,
}

impl fmt::Display for FlightKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let departure = self.scheduled_departure.format("%Y-%m-%dT%H:%MZ");
        write!(f, "{}{} {}-{} {departure}", self.carrier, self.flight_number, self.origin, self.dest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_has_the_form_that_w3c_prescribes() {
        let trace = TraceId::of("cycle_1");
        let header = trace.traceparent("verify");
        let parts: Vec<&str> = header.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert_eq!(parts[1], trace.to_string());
        assert_eq!(parts[1].parse::<TraceId>().unwrap(), trace);
        assert_eq!(header, TraceId::of("cycle_1").traceparent("verify"));
        assert_ne!(header, trace.traceparent("deploy"));
        assert_eq!(TraceId::of_traceparent(&header), Some(trace));
        let zeros = header.replace(&trace.to_string(), &"0".repeat(32));
        for wrong in
            ["", "00", "00-4bf9-00f067aa0ba902b7-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", &zeros]
        {
            assert_eq!(TraceId::of_traceparent(wrong), None, "{wrong}");
        }
        assert_ne!(trace, TraceId::of("cycle_2"));
    }

    #[test]
    fn a_model_version_reads_back_from_its_own_text() {
        assert_eq!("model_v7".parse::<ModelVersion>().unwrap(), ModelVersion(7));
        assert_eq!(ModelVersion(7).to_string(), "model_v7");
    }

    #[test]
    fn a_wrong_name_says_what_was_expected() {
        let error = "model_7".parse::<ModelVersion>().unwrap_err();
        assert_eq!(error.to_string(), "`model_7` is not a name like `model_v1`");
        assert!("model_v0".parse::<ModelVersion>().is_err());
        assert!("sha256:xyz".parse::<Digest>().is_err());
    }
}
