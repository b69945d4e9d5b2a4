//! The object store as a bucket of S3, or of any store that speaks its protocol.
//!
//! Large objects are read and written in parts, several at a time. Every object that is written here carries the SHA-256
//! of its bytes, which is checked when it is read. A write is atomic and may be repeated: an object is seen when its last
//! request succeeded, and it is the same whichever attempt that was.
//!
//! It connects when it is used. It makes no bucket, keeps no versions, changes no rights, and follows no redirect to
//! another region; it sweeps no abandoned upload of a process that was killed: a lifecycle rule of the bucket does.

mod settings;
mod transfer;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::Object;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{OnceCell, Semaphore};

use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectMeta, ObjectStore, check_key, check_prefix};
use delayd_core::retry::RetryPolicy;

use crate::cloud::aws::Failure;
pub use settings::S3Settings;

/// Longest key of S3 in bytes (Amazon S3 User Guide, "Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;
/// Metadata of an object: the SHA-256 of its bytes, in hexadecimal.
const SHA256_MARK: &str = "delayd-sha256";

/// Bounds that all requests of a store share. The SDK's own retries are off, because an attempt here ends with the last
/// byte of the body and not with the answer's headers.
#[derive(Debug)]
struct Bounds {
    policy: RetryPolicy,
    /// Until a request must be through.
    attempt: Duration,
    /// Until the next byte of an answer must come.
    read: Duration,
    /// Requests that may be under way.
    places: Semaphore,
}

impl Bounds {
    fn of(settings: &S3Settings) -> Self {
        Self {
            policy: settings.retry_policy(),
            attempt: Duration::from_secs(settings.attempt_timeout_secs),
            read: Duration::from_secs(settings.http.read_timeout_secs),
            places: Semaphore::new(settings.concurrency),
        }
    }

    /// One request, in its turn and within its deadline.
    async fn once<T, E: Into<Failure>>(&self, request: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(Failure::new(ErrorKind::Cancelled, "the store is closed"));
        };
        match tokio::time::timeout(self.attempt, request).await {
            Ok(outcome) => outcome.map_err(Into::into),
            Err(_) => Err(too_slow("it was not through", self.attempt)),
        }
    }

    /// Waits for the next sign of life of the other side.
    async fn next<T>(&self, sign: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::time::timeout(self.read, sign).await.map_err(|_| too_slow("nothing came", self.read))
    }

    /// One request that sends little and gets little.
    async fn short<T, E: Into<Failure>>(&self, request: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        self.once(async { self.next(request).await?.map_err(Into::into) }).await
    }

    /// A short request until it succeeds, fails for good, or its attempts are used up.
    async fn retried<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, Failure>
    where
        E: Into<Failure>,
        F: Future<Output = Result<T, E>>,
    {
        self.policy.run(|| self.short(request())).await
    }
}

fn too_slow(what: &str, limit: Duration) -> Failure {
    Failure::new(ErrorKind::Timeout, format!("{what} within {} s", limit.as_secs()))
}

/// Objects in a bucket.
pub struct S3Store {
    settings: S3Settings,
    root: String,
    bounds: Bounds,
    client: OnceCell<Client>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl S3Store {
    /// A store of the settings' bucket. Nothing is asked of anybody yet.
    #[must_use]
    pub fn new(settings: S3Settings) -> Self {
        Self { root: settings.root(), bounds: Bounds::of(&settings), client: OnceCell::new(), settings }
    }

    /// The client, made at its first use; a failure is not kept.
    async fn client(&self, action: &str) -> Result<&Client, PortError> {
        self.client.get_or_try_init(|| connect(&self.settings, action)).await
    }

    /// The key in the bucket of a key of the port.
    fn key_in_bucket(&self, action: &str, key: &str) -> Result<String, PortError> {
        check_key(action, key)?;
        let full = format!("{}{key}", self.root);
        if full.len() <= MAX_KEY_BYTES {
            return Ok(full);
        }
        let message = format!("key {key:?} is longer than 1024 bytes with the store's prefix before it; shorten it");
        Err(PortError::new(ErrorKind::Invalid, action, message))
    }

    /// What is tried on what, for errors.
    fn action(&self, what: &str, key: &str) -> String {
        format!("{what} object {key} in bucket {}", self.settings.bucket)
    }

    /// Every object under a prefix, page by page. What is not a key of the port, such as
    /// the placeholders `folder/` that consoles make, is not shown.
    async fn entries(&self, action: &str, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        check_prefix(action, prefix)?;
        let client = self.client(action).await?;
        let prefix = format!("{}{prefix}", self.root);
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let request = || {
                let request = client.list_objects_v2().bucket(&self.settings.bucket).prefix(&prefix);
                request.set_continuation_token(from.clone()).send()
            };
            let page = self.bounds.retried(request).await.map_err(|failure| failure.into_port(action))?;
            for object in page.contents() {
                found.extend(self.entry(action, object)?);
            }
            if page.is_truncated() != Some(true) {
                break;
            }
            let next = page.next_continuation_token().map(str::to_owned);
            if next.is_none() || next == from {
                let message = "the listing is truncated and does not say where it continues; the store is at fault";
                return Err(PortError::new(ErrorKind::Corrupt, action, message));
            }
            from = next;
        }
        // Amazon's directory buckets, and some other stores, list in an order of their own.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn entry(&self, action: &str, object: &Object) -> Result<Option<ObjectMeta>, PortError> {
        let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.root)) else { return Ok(None) };
        if check_key(action, key).is_err() {
            return Ok(None);
        }
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let (Some(size_bytes), Some(last_modified)) = (size, object.last_modified().and_then(moment)) else {
            let message = format!("the listing does not tell size and time of {key}; the store is at fault");
            return Err(PortError::new(ErrorKind::Corrupt, action, message));
        };
        Ok(Some(ObjectMeta { key: key.to_owned(), size_bytes, last_modified }))
    }

    /// Whether the bucket is there and lets us list. One attempt each: somebody waits.
    async fn check_bucket(&self, action: &str) -> Result<String, PortError> {
        let client = self.client(action).await?;
        let bucket = &self.settings.bucket;
        let failed = |failure: Failure| failure.into_port(action);
        // First the listing: unlike that to HEAD, its answer says why it is refused.
        let listing = client.list_objects_v2().bucket(bucket).prefix(&self.root).max_keys(1).send();
        let page = self.bounds.short(listing).await.map_err(failed)?;
        let head = self.bounds.short(client.head_bucket().bucket(bucket).send()).await.map_err(failed)?;
        let configured = client.config().region().map(ToString::to_string).unwrap_or_default();
        let region = head.bucket_region().map_or(configured, ToOwned::to_owned);
        let place = if self.settings.endpoint.is_empty() { "Amazon S3" } else { self.settings.endpoint.as_str() };
        let prefix = if self.root.is_empty() { String::new() } else { format!(" under {}", self.root) };
        let content = if page.contents().is_empty() { "nothing yet" } else { "objects" };
        Ok(format!("bucket {bucket} in {region} at {place}: lists {content}{prefix}"))
    }

    /// A small object by one request, a large one in parts.
    async fn write(&self, client: &Client, key: &str, body: Bytes) -> Result<(), Failure> {
        let hashed = blocking("hashing an object", move || {
            let sha256 = Digest::of(&body).hex().to_owned();
            Ok::<_, PortError>((body, sha256))
        });
        let (body, sha256) = hashed.await?;
        let metadata = HashMap::from([(SHA256_MARK.to_owned(), sha256.clone())]);
        if body.len() as u64 <= self.settings.multipart_threshold_bytes {
            return self.put_at_once(client, key, body, metadata).await;
        }
        match self.upload(client, key, &body, metadata).await {
            // The answer to an earlier attempt to complete it may have been lost.
            Err(failure) if failure.code == "NoSuchUpload" && self.holds(client, key, &sha256).await? => Ok(()),
            written => written,
        }
    }

    async fn put_at_once(
        &self,
        client: &Client,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
    ) -> Result<(), Failure> {
        let request = || {
            let request = client.put_object().bucket(&self.settings.bucket).key(key);
            let request = request.body(ByteStream::from(body.clone())).set_metadata(Some(metadata.clone())).customize();
            let request = if self.settings.is_encrypted() { request.disable_payload_signing() } else { request };
            self.bounds.once(request.send())
        };
        self.bounds.policy.run(request).await.map(|_| ())
    }

    /// Whether the object has these bytes by its mark.
    async fn holds(&self, client: &Client, key: &str, sha256: &str) -> Result<bool, Failure> {
        let request = || client.head_object().bucket(&self.settings.bucket).key(key).send();
        match self.bounds.retried(request).await {
            Ok(head) => Ok(head.metadata().and_then(|marks| marks.get(SHA256_MARK)).is_some_and(|it| it == sha256)),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        let action = format!("listing objects {prefix}* in bucket {}", self.settings.bucket);
        self.entries(&action, prefix).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        let action = self.action("reading", key);
        let key = self.key_in_bucket(&action, key)?;
        let client = self.client(&action).await?;
        self.read(client, &key).await.map_err(|failure| failure.into_port(&action))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        let action = self.action("writing", key);
        let key = self.key_in_bucket(&action, key)?;
        let client = self.client(&action).await?;
        self.write(client, &key, body).await.map_err(|failure| failure.into_port(&action))
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        let action = self.action("removing", key);
        let key = self.key_in_bucket(&action, key)?;
        let client = self.client(&action).await?;
        let request = || client.delete_object().bucket(&self.settings.bucket).key(&key).send();
        match self.bounds.retried(request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.code == "NoSuchKey" => Ok(()),
            Err(failure) => Err(failure.into_port(&action)),
        }
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.check_bucket(&format!("checking bucket {}", self.settings.bucket)).await
    }
}

/// Makes the client. Nothing is asked of S3; the region and the whereabouts of the
/// credentials may be asked of the environment.
async fn connect(settings: &S3Settings, action: &str) -> Result<Client, PortError> {
    let shared = settings.access().sdk_config(action).await?;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    // Amazon's own where none is named, whatever the environment says: the settings say where data goes.
    config.set_endpoint_url(Some(settings.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()));
    Ok(Client::from_conf(config.build()))
}

fn moment(time: &aws_sdk_s3::primitives::DateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}
