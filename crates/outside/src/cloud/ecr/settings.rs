//! `[registry.ecr]`: which registry of Amazon ECR, and how its repositories are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::Faults;
use crate::cloud::aws::{AwsAccess, is_base_url};
use crate::cloud::registry::{UploadSettings, is_host, repository_or_nothing};
use delayd_core::fault::Fault;
use delayd_core::http_client::HttpClientSettings;
use delayd_core::secret::Secret;

/// `[registry.ecr]`: a private registry of Amazon ECR.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EcrRegistrySettings {
    /// The registry's region; `AWS_REGION`, the profile or the instance tell it when empty.
    pub region: String,
    /// Address of ECR's API, such as a VPC endpoint's; Amazon's when empty.
    pub endpoint: String,
    /// The AWS account whose registry it is, 12 digits; the account of the credentials when empty.
    pub registry_id: String,
    /// Host that images are pushed to; what ECR names when empty.
    pub registry_host: String,
    /// The same registry as the nodes call it; the host pushed to when empty.
    pub pull_host: String,
    /// Whether `registry_host` speaks http without TLS: never Amazon's.
    pub plain_http: bool,
    /// Put before every repository, with a `/` between; nothing when empty.
    pub repository_prefix: String,
    /// Profile of the shared configuration files; the chain's own choice when empty.
    pub profile: String,
    /// Access key; the standard chain (environment, profile, web identity, container, instance) when empty.
    pub access_key_id: Secret,
    /// Its secret.
    pub secret_access_key: Secret,
    /// Session token of temporary keys; none when empty.
    pub session_token: Secret,
    /// Whether a repository that is missing is created.
    pub create_repository: bool,
    /// Whether a tag never moves once it is pushed: repositories are created so, and
    /// a push that would move one is refused before anything is sent.
    pub immutable_tags: bool,
    /// Whether repositories are created with a scan of every image pushed.
    pub scan_on_push: bool,
    /// Images kept by the repository's lifecycle policy, the newest ones; 0 sets no policy.
    /// A policy that somebody else wrote is left alone.
    pub keep_images: u32,
    /// How blobs are sent.
    pub upload: UploadSettings,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl Default for EcrRegistrySettings {
    fn default() -> Self {
        Self {
            region: String::new(),
            endpoint: String::new(),
            registry_id: String::new(),
            registry_host: String::new(),
            pull_host: String::new(),
            plain_http: false,
            repository_prefix: String::new(),
            profile: String::new(),
            access_key_id: Secret::default(),
            secret_access_key: Secret::default(),
            session_token: Secret::default(),
            create_repository: true,
            immutable_tags: true,
            scan_on_push: true,
            keep_images: 100,
            upload: UploadSettings::default(),
            http: HttpClientSettings::default(),
        }
    }
}

/// Fewer could expire the image that is live or the one to roll back to.
const MIN_KEPT_IMAGES: u32 = 10;
/// ECR's limit of images per repository (Amazon ECR, "Service quotas"); it can be raised no further by a policy.
const MAX_KEPT_IMAGES: u32 = 20_000;

impl EcrRegistrySettings {
    /// Every value that cannot be; `section` is where the settings stand.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<Fault> {
        let mut faults = Faults::of(section);
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        faults.check(self.region.bytes().all(plain), "region", &self.region, "a region like eu-central-1");
        for (key, found, expected) in self.access().faults() {
            faults.found.push(Fault { key: format!("{section}.{key}"), found, expected: expected.to_owned() });
        }
        let endpoint = self.endpoint.is_empty() || is_base_url(&self.endpoint);
        faults.check(endpoint, "endpoint", "(not shown)", "http(s)://host:port without user and query, or nothing");
        let id = &self.registry_id;
        let account = id.is_empty() || (id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit()));
        faults.check(account, "registry_id", id, "an AWS account of 12 digits, or nothing");
        for (key, host) in [("registry_host", &self.registry_host), ("pull_host", &self.pull_host)] {
            faults.check(host.is_empty() || is_host(host), key, host, "a host with or without a port, or nothing");
        }
        faults.check(
            !self.plain_http || !self.registry_host.is_empty(),
            "plain_http",
            self.plain_http,
            "TLS, unless registry_host names a registry of your own",
        );
        let prefix = &self.repository_prefix;
        faults.check(repository_or_nothing(prefix), "repository_prefix", prefix, "a repository name, or nothing");
        faults.check(
            self.keep_images == 0 || (MIN_KEPT_IMAGES..=MAX_KEPT_IMAGES).contains(&self.keep_images),
            "keep_images",
            self.keep_images,
            "10 to 20000 images, or 0 for no policy",
        );
        faults.found.extend(self.upload.faults(&format!("{section}.upload")));
        faults.found
    }

    /// Who asks, and from where.
    pub(super) fn access(&self) -> AwsAccess<'_> {
        AwsAccess {
            section: "registry.ecr",
            region: &self.region,
            profile: &self.profile,
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: &self.session_token,
            http: &self.http,
            answer_within: Some(Duration::from_secs(self.http.read_timeout_secs)),
        }
    }

    /// The account, where one is named.
    pub(super) fn registry_id(&self) -> Option<String> {
        (!self.registry_id.is_empty()).then(|| self.registry_id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_told_with_its_key_and_never_with_a_secret() {
        let settings = EcrRegistrySettings {
            region: "Frankfurt".to_owned(),
            endpoint: "https://user:s3cret@ecr".to_owned(),
            registry_id: "12".to_owned(),
            registry_host: "https://x".to_owned(),
            plain_http: true,
            secret_access_key: Secret::new("s3cret"),
            keep_images: 3,
            ..EcrRegistrySettings::default()
        };
        let faults = settings.faults("registry.ecr");
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.trim_start_matches("registry.ecr.")).collect();
        assert_eq!(keys, ["region", "access_key_id", "endpoint", "registry_id", "registry_host", "keep_images"]);
        assert!(faults.iter().all(|fault| !fault.to_string().contains("s3cret")), "{faults:?}");
        assert_eq!(EcrRegistrySettings::default().faults("registry.ecr"), []);
    }
}
