//! Secrets: in the configuration they are best named by where they are kept. No
//! log, error, listing or `Debug` output ever shows one.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{ErrorKind, PortError};

/// A secret, or where it is kept:
///
/// | written as | means |
/// | --- | --- |
/// | `file:/run/secrets/token` | the file's content, without the line end |
/// | `env:NAME` | the environment variable |
/// | `credential:NAME` | systemd's credential of that name (`LoadCredential=`) |
/// | anything else | the secret itself |
///
/// What is kept elsewhere is read at each use, so that a secret can be changed
/// while the daemon runs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(configured: impl Into<String>) -> Self {
        Self(configured.into())
    }

    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// The secret itself. `action` goes into the error.
    pub fn reveal(&self, action: &str) -> Result<String, PortError> {
        let denied = |message: String| PortError::new(ErrorKind::Denied, action, message);
        match self.place() {
            Place::Here => Ok(self.0.clone()),
            Place::Variable(name) => {
                std::env::var(name).map_err(|_| denied(format!("environment variable {name} holds no secret")))
            }
            Place::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => read(&PathBuf::from(folder).join(name), denied),
                None => Err(denied(format!("systemd passed no credentials (LoadCredential={name}:… in the unit)"))),
            },
            Place::File(path) => read(Path::new(path), denied),
        }
    }

    /// As it stands in the configuration: to hand it on to a process of our own, never to show it.
    pub fn as_configured(&self) -> &str {
        &self.0
    }

    /// The secret, where the configuration holds it itself.
    pub fn written_here(&self) -> Option<&str> {
        matches!(self.place(), Place::Here).then_some(self.0.as_str())
    }

    fn place(&self) -> Place<'_> {
        match self.0.split_once(':') {
            Some(("file", path)) => Place::File(path),
            Some(("env", name)) => Place::Variable(name),
            Some(("credential", name)) => Place::Credential(name),
            _ => Place::Here,
        }
    }
}

enum Place<'a> {
    Here,
    File(&'a str),
    Variable(&'a str),
    Credential(&'a str),
}

fn read(path: &Path, denied: impl Fn(String) -> PortError) -> Result<String, PortError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| denied(format!("secret file {} cannot be read: {error}", path.display())))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        Err(denied(format!("secret file {} is empty", path.display())))
    } else {
        Ok(secret.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "***" } else { "(none)" })
    }
}

impl Serialize for Secret {
    /// Where it is kept, or `***`: `delayd config` prints the settings.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.place() {
            Place::Here if self.is_set() => serializer.serialize_str("***"),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_only_where_it_is_kept() {
        let open = Secret::new("s3cret");
        assert_eq!((format!("{open:?}"), serde_json::to_string(&open).unwrap()), ("***".into(), "\"***\"".into()));
        assert_eq!(open.reveal("telling").unwrap(), "s3cret");
        let kept = Secret::new("env:DELAYD_TEST_NO_SUCH");
        assert_eq!(serde_json::to_string(&kept).unwrap(), "\"env:DELAYD_TEST_NO_SUCH\"");
        assert!(kept.reveal("telling").unwrap_err().to_string().contains("DELAYD_TEST_NO_SUCH"));
        assert!(!Secret::default().is_set());
    }

    #[test]
    fn a_file_is_read_at_each_use_and_named_when_it_is_missing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::new(format!("file:{}", file.path().display()));
        assert!(secret.reveal("telling").unwrap_err().to_string().contains("is empty"));
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(secret.reveal("telling").unwrap(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(secret.reveal("telling").unwrap(), "two");
    }
}
