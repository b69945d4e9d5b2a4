//! How an OCI registry is reached, and how uploads behave.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::packaging::check_repository;
use crate::wrap::RetryPolicy;
use delayd_core::fault::Fault;
use delayd_core::http_client::HttpClientSettings;
use delayd_core::secret::Secret;

/// `[registry.oci]`: any registry that speaks the OCI distribution protocol.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OciRegistrySettings {
    /// Where images are pushed: a host, with its port where that is not the scheme's.
    pub host: String,
    /// The same registry as the nodes call it; `host` when empty.
    pub pull_host: String,
    /// Put before every repository, with a `/` between; nothing when empty.
    pub repository_prefix: String,
    /// Whether the registry speaks http without TLS. A login then travels readable.
    pub plain_http: bool,
    /// Who logs in; nobody when empty, or who `docker_config` names.
    pub username: String,
    /// The password or access token that goes with it.
    pub password: Secret,
    /// A `config.json` of Docker whose `auths` hold the login; none when empty.
    pub docker_config: PathBuf,
    /// How blobs are sent.
    pub upload: UploadSettings,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

/// How blobs are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UploadSettings {
    /// Another repository of the registry, by its whole name, from which layers are
    /// mounted where it has them; none when empty.
    pub mount_from: String,
    /// Bytes sent at a time; one such piece must get through within `http.read_timeout_secs`,
    /// and is held in memory. A registry may ask for more.
    pub chunk_bytes: u64,
    /// Attempts of a call before it fails; what was sent already is not sent again.
    pub attempts: u32,
    /// Seconds before the second attempt, at most; doubled for each later one, up to 20.
    pub retry_secs: f64,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self { mount_from: String::new(), chunk_bytes: 8 * 1024 * 1024, attempts: 5, retry_secs: 0.5 }
    }
}

/// Smaller pieces would be requests without end.
const MIN_CHUNK_BYTES: u64 = 64 * 1024;
/// A piece lies in memory while it is sent.
const MAX_CHUNK_BYTES: u64 = 512 * 1024 * 1024;

impl UploadSettings {
    /// When and how often to try again.
    #[must_use]
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.attempts,
            base_delay: Duration::from_secs_f64(self.retry_secs),
            ..RetryPolicy::default()
        }
    }

    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Faults::of(section);
        faults.check(repository_or_nothing(&self.mount_from), "mount_from", &self.mount_from, REPOSITORY);
        faults.check(
            (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&self.chunk_bytes),
            "chunk_bytes",
            self.chunk_bytes,
            "65536 to 536870912 bytes",
        );
        faults.check((1..=20).contains(&self.attempts), "attempts", self.attempts, "1 to 20");
        faults.check((0.0..=20.0).contains(&self.retry_secs), "retry_secs", self.retry_secs, "seconds from 0 to 20");
        faults.found
    }
}

impl OciRegistrySettings {
    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Faults::of(section);
        faults.check(is_host(&self.host), "host", &self.host, HOST);
        faults.check(self.pull_host.is_empty() || is_host(&self.pull_host), "pull_host", &self.pull_host, HOST);
        let prefix = &self.repository_prefix;
        faults.check(repository_or_nothing(prefix), "repository_prefix", prefix, REPOSITORY);
        let lacking = if self.password.is_set() { "username" } else { "password" };
        let together = self.username.is_empty() != self.password.is_set();
        faults.check(together, lacking, "", "username and password together, or neither");
        faults.check(
            self.username.is_empty() || self.docker_config.as_os_str().is_empty(),
            "docker_config",
            self.docker_config.display(),
            "one login: username and password, or docker_config",
        );
        faults.found.extend(self.upload.faults(&format!("{section}.upload")));
        faults.found
    }
}

const HOST: &str = "a host like registry.example.com or 10.0.0.5:5000, without scheme and path";
const REPOSITORY: &str = "a repository name like team/models, or nothing";

/// Gathers faults of one section.
pub(in crate::cloud) struct Faults<'a> {
    section: &'a str,
    /// Those found so far.
    pub(in crate::cloud) found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(in crate::cloud) fn of(section: &'a str) -> Self {
        Self { section, found: Vec::new() }
    }

    pub(in crate::cloud) fn check(&mut self, holds: bool, key: &str, found: impl std::fmt::Display, expected: &str) {
        if !holds {
            let key = format!("{}.{key}", self.section);
            let found = found.to_string();
            let found = if found.is_empty() { "not set".to_owned() } else { format!("`{found}`") };
            self.found.push(Fault { key, found, expected: expected.to_owned() });
        }
    }
}

/// Whether a text is a host with or without a port, and nothing else.
pub(in crate::cloud) fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !text.is_empty() && text.chars().all(plain) && reqwest::Url::parse(&format!("https://{text}/")).is_ok()
}

/// Whether a text is a repository's name, or empty.
pub(in crate::cloud) fn repository_or_nothing(text: &str) -> bool {
    text.is_empty() || check_repository(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_told_with_its_key_and_never_with_a_secret() {
        let settings = OciRegistrySettings {
            host: "https://registry/".to_owned(),
            pull_host: "user@host".to_owned(),
            repository_prefix: "Team".to_owned(),
            password: Secret::new("s3cret"),
            upload: UploadSettings { mount_from: "/".to_owned(), chunk_bytes: 1, attempts: 0, retry_secs: -1.0 },
            ..OciRegistrySettings::default()
        };
        let faults = settings.faults("registry.oci");
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.trim_start_matches("registry.oci.")).collect();
        let upload = ["upload.mount_from", "upload.chunk_bytes", "upload.attempts", "upload.retry_secs"];
        assert_eq!(keys, [["host", "pull_host", "repository_prefix", "username"], upload].concat());
        assert!(faults.iter().all(|fault| !fault.to_string().contains("s3cret")), "{faults:?}");
    }

    #[test]
    fn a_host_may_have_a_port_and_be_an_address() {
        let at = |host: &str| OciRegistrySettings { host: host.to_owned(), ..OciRegistrySettings::default() };
        for host in ["localhost:5000", "registry.example.com", "[::1]:5000", "10.0.0.5"] {
            assert_eq!(at(host).faults("registry.oci"), [], "{host}");
        }
    }
}
