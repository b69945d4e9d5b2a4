//! Who logs in at a registry, and where the login is kept.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::secret::Secret;

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::cloud) struct Login {
    pub(in crate::cloud) username: String,
    pub(in crate::cloud) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"***").finish()
    }
}

impl Login {
    /// From `base64(user:password)`, as Docker's configuration and ECR write it.
    pub(in crate::cloud) fn from_base64(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
    }

    /// The value of an `Authorization` header of the scheme Basic.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

/// Where a login comes from. It is asked for each time one is needed, so that
/// logins may change and expire.
#[async_trait]
pub(in crate::cloud) trait LoginSource: Send + Sync + fmt::Debug {
    /// The login; `None` where nobody logs in.
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError>;
    /// The registry refused the last one: do not answer it from memory again.
    fn forget(&self);
}

/// What the configuration names.
#[derive(Debug)]
pub(super) enum ConfiguredLogin {
    /// Nobody.
    Anonymous,
    /// A user and where its password is kept.
    User { username: String, password: Secret },
    /// The entry of `host` in a `config.json` of Docker.
    DockerConfig { path: PathBuf, host: String },
}

#[async_trait]
impl LoginSource for ConfiguredLogin {
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::User { username, password } => {
                Ok(Some(Login { username: username.clone(), password: password.reveal(action)? }))
            }
            Self::DockerConfig { path, host } => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|error| PortError::io(format!("{action}: reading {}", path.display()), error))?;
                login_of(&text, host).map(Some).map_err(|fault| unusable(action, path, &fault))
            }
        }
    }

    fn forget(&self) {}
}

fn unusable(action: &str, path: &Path, fault: &str) -> PortError {
    PortError::new(ErrorKind::Denied, action, format!("{} {fault}", path.display()))
}

/// The part of Docker's `config.json` that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
    #[serde(default)]
    cred_helpers: HashMap<String, serde::de::IgnoredAny>,
    creds_store: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The login of `host`. The fault never quotes the file: it is full of passwords.
fn login_of(text: &str, host: &str) -> Result<Login, String> {
    let config: DockerConfig = serde_json::from_str(text)
        .map_err(|error| format!("is no Docker configuration (line {}, column {})", error.line(), error.column()))?;
    let named = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next() == Some(host)
    };
    let Some((_, entry)) = config.auths.iter().find(|(key, _)| named(key)) else {
        let helped = config.cred_helpers.contains_key(host) || config.creds_store.is_some();
        let hint = if helped { "; credential helpers are not asked" } else { "" };
        return Err(format!("holds no login for {host} under `auths`{hint}; run `docker login {host}`"));
    };
    if !entry.identitytoken.is_empty() {
        return Err(format!("holds an identity token for {host}; expected user name and password in `auth`"));
    }
    Login::from_base64(&entry.auth)
        .ok_or_else(|| format!("holds for {host} an `auth` that is not base64 of user:password (or a helper keeps it)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_writes_a_registrys_key_in_several_ways() {
        for key in
            ["registry.example.com:5000", "https://registry.example.com:5000", "http://registry.example.com:5000/v2/"]
        {
            let text = serde_json::json!({"auths": {key: {"auth": STANDARD.encode("ci:s3:cret")}}}).to_string();
            let login = login_of(&text, "registry.example.com:5000").unwrap();
            assert_eq!((login.username.as_str(), login.password.as_str()), ("ci", "s3:cret"), "{key}");
            assert!(!format!("{login:?}").contains("s3:cret"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_quoting_the_file() {
        let token = r#"{"auths":{"a":{"auth":"","identitytoken":"s3cret"}}}"#;
        let helper = r#"{"auths":{"b":{"auth":"czNjcmV0"}},"credHelpers":{"a":"ecr-login"}}"#;
        for (text, part) in [
            ("{\"auths\": s3cret", "is no Docker configuration"),
            (token, "identity token"),
            (helper, "credential helpers are not asked"),
            (r#"{"auths":{"a":{"auth":"czNjcmV0"}}}"#, "not base64 of user:password"),
        ] {
            let fault = login_of(text, "a").unwrap_err();
            assert!(fault.contains(part) && !fault.contains("s3cret") && !fault.contains("czNjcmV0"), "{fault}");
        }
    }
}
