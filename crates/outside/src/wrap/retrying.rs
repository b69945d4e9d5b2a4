//! Tries again what may succeed later: exponential backoff with full jitter
//! (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015),
//! bounded, and only for errors that call themselves retryable.
//!
//! A cluster is not wrapped: a rollout that failed was undone as a whole, and
//! whether to roll again is the saga's decision. A notifier is not wrapped either:
//! the outbox tries again, and remembers that across restarts.
//!
//! A `Conflict` is an answer, not a hiccup, for the calls whose contract gives it
//! a meaning (`put_if_absent`, `push` to a tag that cannot move); there it is
//! passed on at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, ObjectMeta, ObjectStore, PushedImage};

/// How often and how fast to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Calls altogether, the first one included; 1 never tries again.
    pub attempts: u32,
    /// Upper bound of the first delay; doubled for every further one.
    pub base_delay: Duration,
    /// Upper bound of every delay.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, base_delay: Duration::from_millis(200), max_delay: Duration::from_secs(20) }
    }
}

impl RetryPolicy {
    /// The longest delay after the `failed`th failure, counted from 1.
    fn delay_bound(&self, failed: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
        self.base_delay.saturating_mul(factor).min(self.max_delay)
    }

    /// How long to wait after the `failed`th failure: any time up to its bound.
    pub(crate) fn pause(&self, failed: u32) -> Duration {
        self.delay_bound(failed).mul_f64(random_fraction())
    }

    /// Calls until it succeeds, fails for good, or the attempts are used up.
    async fn run<T, F>(&self, worth_it: fn(&PortError) -> bool, mut call: impl FnMut() -> F) -> Result<T, PortError>
    where
        F: Future<Output = Result<T, PortError>>,
    {
        let mut failed = 0;
        loop {
            match call().await {
                Err(error) if worth_it(&error) && failed + 1 < self.attempts => {
                    failed += 1;
                    let delay = self.pause(failed);
                    let error = delayd_core::error::chain(&error);
                    tracing::debug!(attempt = failed, delay_ms = delay.as_millis() as u64, error, "trying again");
                    tokio::time::sleep(delay).await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// A number from 0 to 1, different for every daemon: the standard library seeds
/// its hashers from the system. It decides nothing that would have to be repeatable.
fn random_fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

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

fn retryable(error: &PortError) -> bool {
    error.is_retryable()
}

fn retryable_but_no_conflict(error: &PortError) -> bool {
    error.is_retryable() && error.kind() != ErrorKind::Conflict
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for Retrying<P> {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.policy.run(retryable, || self.inner.list(prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.policy.run(retryable, || self.inner.get(key)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.policy.run(retryable, || self.inner.put(key, body.clone())).await
    }

    /// When an attempt failed after it had written, the next one meets its own
    /// object: that counts as success if the content is the same.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        let mut attempts = 0;
        let outcome = self
            .policy
            .run(retryable_but_no_conflict, || {
                attempts += 1;
                self.inner.put_if_absent(key, body.clone())
            })
            .await;
        match outcome {
            Err(error) if error.kind() == ErrorKind::Conflict && attempts > 1 => match self.get(key).await {
                Ok(there) if there == body => Ok(()),
                _ => Err(error),
            },
            outcome => outcome,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.policy.run(retryable, || self.inner.delete(key)).await
    }
    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}

#[async_trait]
impl<P: ImageRegistry> ImageRegistry for Retrying<P> {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        self.policy.run(retryable_but_no_conflict, || self.inner.push(layout, repository, tag)).await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        self.policy.run(retryable, || self.inner.resolve(repository, tag)).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        self.policy.run(retryable, || self.inner.remove_tag(repository, tag)).await
    }
    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}
