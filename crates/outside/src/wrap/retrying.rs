//! A port whose calls are tried again while they may succeed later.
//!
//! A cluster is not wrapped: a rollout that failed was undone as a whole, and whether to roll again is the saga's
//! decision. A notifier is not wrapped either: the outbox tries again, and remembers that across restarts.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, ObjectMeta, ObjectStore, PushedImage};
use delayd_core::retry::{RetryPolicy, Retryable};

/// A port that tries again.
#[derive(Debug, Clone)]
pub struct Retrying<P> {
    inner: P,
    policy: RetryPolicy,
}

impl<P> Retrying<P> {
    /// Wraps a port.
    pub fn new(inner: P, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for Retrying<P> {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.policy.run(|| self.inner.list(prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.policy.run(|| self.inner.get(key)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.policy.run(|| self.inner.put(key, body.clone())).await
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.policy.run(|| self.inner.delete(key)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}

/// A push fails with a `Conflict` where the tag cannot move: that is an answer, and will stay the same.
struct PushError(PortError);

impl std::fmt::Display for PushError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Retryable for PushError {
    fn is_retryable(&self) -> bool {
        self.0.is_retryable() && self.0.kind() != ErrorKind::Conflict
    }
}

#[async_trait]
impl<P: ImageRegistry> ImageRegistry for Retrying<P> {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        let push = || async { self.inner.push(layout, repository, tag).await.map_err(PushError) };
        self.policy.run(push).await.map_err(|PushError(error)| error)
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        self.policy.run(|| self.inner.resolve(repository, tag)).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        self.policy.run(|| self.inner.remove_tag(repository, tag)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}
