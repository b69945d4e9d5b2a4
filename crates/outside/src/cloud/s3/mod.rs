//! The object store as a bucket of S3, or of any store that speaks its protocol.
//!
//! Large objects are read and written in parts, several at a time. Every object
//! that is written here carries the SHA-256 of its bytes, which is checked when it
//! is read, and the mark of its write, by which a writer whose answer was lost
//! knows its own object. Two writers of a new key cannot overwrite each other:
//! the store is told to write only where there is nothing (`If-None-Match: *`).
//!
//! It connects when it is used. It makes no bucket, keeps no versions, changes no
//! rights, and follows no redirect to another region; it sweeps no abandoned upload
//! of a process that was killed: a lifecycle rule of the bucket does.

mod attempts;
mod client;
mod failure;
mod list;
mod read;
mod settings;
mod upload;
mod write;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use bytes::Bytes;
use tokio::sync::OnceCell;

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{ObjectMeta, ObjectStore, check_key};

use attempts::Bounds;
use failure::Failure;
pub use settings::S3Settings;

/// Longest key of S3 in bytes (Amazon S3 User Guide, "Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;

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
        self.client.get_or_try_init(|| client::connect(&self.settings, action)).await
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
        self.write(client, &key, body, false).await.map_err(|failure| failure.into_port(&action))
    }

    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        let action = self.action("writing new", key);
        let key = self.key_in_bucket(&action, key)?;
        let client = self.client(&action).await?;
        self.write(client, &key, body, true).await.map_err(|failure| failure.into_port(&action))
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
        self.look(&format!("looking at bucket {}", self.settings.bucket)).await
    }
}

/// Work that takes long enough to be kept off the threads that serve futures.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let failed = |error| Failure::new(ErrorKind::Internal, format!("the worker thread failed: {error}"));
    delayd_core::spans::spawn_blocking(work).await.map_err(failed)
}
