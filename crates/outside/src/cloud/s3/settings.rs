//! What `[object_store.s3]` says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::aws::{AwsAccess, is_base_url};
use delayd_core::http_client::HttpClientSettings;
use delayd_core::ports::check_key;
use delayd_core::retry::RetryPolicy;
use delayd_core::secret::Secret;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// S3's bounds of a part, the last one excepted, and of an object written by one
/// request (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
const PART_BYTES: std::ops::RangeInclusive<u64> = 5 * MIB..=5 * GIB;

/// `[object_store.s3]`: a bucket of S3, or of a store that speaks its protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Settings {
    /// The bucket. It must exist.
    pub bucket: String,
    /// Every key lies under this prefix of the bucket, such as `delayd/`; nothing above it is seen or touched.
    pub prefix: String,
    /// The bucket's region; `AWS_REGION`, the profile or the instance tell it when empty.
    pub region: String,
    /// Address of a store that is not Amazon's, such as `https://minio.example:9000`; Amazon's when empty.
    pub endpoint: String,
    /// Whether the bucket stands in the path and not in the host name: most stores other than Amazon's want it.
    pub path_style: bool,
    /// Profile of the shared configuration files; the chain's own choice when empty.
    pub profile: String,
    /// Access key; the standard chain (environment, profile, web identity, container, instance) when empty.
    pub access_key_id: Secret,
    /// Its secret.
    pub secret_access_key: Secret,
    /// Session token of temporary keys; none when empty.
    pub session_token: Secret,
    /// Seconds within which one request, with the bytes it moves, must be through.
    pub attempt_timeout_secs: u64,
    /// Tries of one request altogether, the first one included.
    pub attempts: u32,
    /// Longest pause before the second try in milliseconds; doubled for each later one …
    pub retry_pause_ms: u64,
    /// … up to so many milliseconds. The pause is drawn between 0 and that.
    pub longest_retry_pause_ms: u64,
    /// Bytes that one request of a large object moves.
    pub part_bytes: u64,
    /// Objects of more bytes are moved in parts, several at a time.
    pub multipart_threshold_bytes: u64,
    /// Requests under way at a time, over all objects.
    pub concurrency: usize,
    /// Larger objects are refused: an object is held in memory as a whole.
    pub maximum_object_bytes: u64,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            region: String::new(),
            endpoint: String::new(),
            path_style: false,
            profile: String::new(),
            access_key_id: Secret::default(),
            secret_access_key: Secret::default(),
            session_token: Secret::default(),
            attempt_timeout_secs: 300,
            attempts: 5,
            retry_pause_ms: 200,
            longest_retry_pause_ms: 20_000,
            part_bytes: 8 * MIB,
            multipart_threshold_bytes: 16 * MIB,
            concurrency: 8,
            maximum_object_bytes: 4 * GIB,
            http: HttpClientSettings::default(),
        }
    }
}

impl S3Settings {
    /// Every value that cannot be, with what was expected.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.transfer_faults();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let bucket_fits = !self.bucket.is_empty() && !self.bucket.chars().any(|c| c.is_whitespace() || c.is_control());
        check(bucket_fits, "bucket: the name of a bucket that exists");
        let prefix_fits = self.prefix.is_empty() || check_key("", self.prefix.trim_end_matches('/')).is_ok();
        check(prefix_fits, "prefix: empty, or a prefix such as delayd/");
        let endpoint_fits = self.endpoint.is_empty() || is_base_url(&self.endpoint);
        check(endpoint_fits, "endpoint: empty, or http(s)://host:port without user, password, query or fragment");
        faults.extend(self.access().faults().into_iter().map(|(key, _, expected)| format!("{key}: {expected}")));
        faults
    }

    fn transfer_faults(&self) -> Vec<String> {
        let checks = [
            (self.http.connect_timeout_secs >= 1, "http.connect_timeout_secs: 1 second or more"),
            (self.http.read_timeout_secs >= 1, "http.read_timeout_secs: 1 second or more"),
            (self.attempt_timeout_secs >= 1, "attempt_timeout_secs: 1 second or more"),
            ((1..=20).contains(&self.attempts), "attempts: 1 to 20"),
            (self.retry_pause_ms <= self.longest_retry_pause_ms, "retry_pause_ms: at most longest_retry_pause_ms"),
            (PART_BYTES.contains(&self.part_bytes), "part_bytes: 5242880 (5 MiB, S3's least) to 5368709120 (5 GiB)"),
            (
                (self.part_bytes..=*PART_BYTES.end()).contains(&self.multipart_threshold_bytes),
                "multipart_threshold_bytes: part_bytes to 5368709120 (5 GiB, the most one request may write)",
            ),
            ((1..=256).contains(&self.concurrency), "concurrency: 1 to 256"),
            (
                self.maximum_object_bytes >= self.multipart_threshold_bytes,
                "maximum_object_bytes: multipart_threshold_bytes or more",
            ),
        ];
        checks.into_iter().filter(|(holds, _)| !holds).map(|(_, fault)| fault.to_owned()).collect()
    }

    pub(super) fn access(&self) -> AwsAccess<'_> {
        AwsAccess {
            section: "object_store.s3",
            region: &self.region,
            profile: &self.profile,
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: &self.session_token,
            http: &self.http,
            // Deadlines are the store's own, because only it knows what a request moves.
            answer_within: None,
        }
    }

    pub(super) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.attempts,
            base_delay: Duration::from_millis(self.retry_pause_ms),
            max_delay: Duration::from_millis(self.longest_retry_pause_ms),
        }
    }

    /// The prefix with its closing `/`; nothing where there is none.
    pub(super) fn root(&self) -> String {
        match self.prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    /// Whether requests are encrypted, which makes signing their bodies needless.
    pub(super) fn is_encrypted(&self) -> bool {
        !self.endpoint.starts_with("http://")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> S3Settings {
        S3Settings { bucket: "flights".to_owned(), ..S3Settings::default() }
    }

    #[test]
    fn every_value_that_cannot_be_is_told_by_its_key() {
        assert_eq!(usable().faults(), Vec::<String>::new());
        let wrong = |change: fn(&mut S3Settings), key: &str| {
            let mut settings = usable();
            change(&mut settings);
            let faults = settings.faults();
            assert!(faults.len() == 1 && faults[0].starts_with(key), "{key}: {faults:?}");
        };
        wrong(|s| s.bucket.clear(), "bucket");
        wrong(|s| s.prefix = "a//b".to_owned(), "prefix");
        wrong(|s| s.endpoint = "minio:9000".to_owned(), "endpoint");
        wrong(|s| s.endpoint = "https://user:pass@minio".to_owned(), "endpoint");
        wrong(|s| s.access_key_id = Secret::new("id"), "access_key_id");
        wrong(|s| s.session_token = Secret::new("token"), "session_token");
        wrong(|s| s.http.connect_timeout_secs = 0, "http.connect_timeout_secs");
        wrong(|s| s.attempts = 0, "attempts");
        wrong(|s| s.retry_pause_ms = 30_000, "retry_pause_ms");
        wrong(|s| s.part_bytes = 5 * MIB - 1, "part_bytes");
        wrong(|s| s.multipart_threshold_bytes = 5 * MIB, "multipart_threshold_bytes");
        wrong(|s| s.concurrency = 0, "concurrency");
        wrong(|s| s.maximum_object_bytes = 1, "maximum_object_bytes");
    }

    #[test]
    fn a_prefix_means_the_same_with_and_without_its_slash() {
        let root = |prefix: &str| S3Settings { prefix: prefix.to_owned(), ..usable() }.root();
        assert_eq!((root(""), root("a/b"), root("a/b/")), (String::new(), "a/b/".to_owned(), "a/b/".to_owned()));
    }
}
