//! Behaviour added to any adapter by wrapping its port, so that adapters themselves stay free of both: trying again, and
//! failing on purpose ("the second push is unavailable"), for the tests that break every step of the saga. The latter is
//! compiled always and used by tests only; without a plan it changes nothing.
//!
//! A cluster is not retried: a rollout that failed was undone as a whole, and whether to roll again is the saga's
//! decision. A notifier is not retried either: the outbox tries again, and remembers that across restarts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::{
    Cluster, Endpoint, ImageRegistry, Notice, Notifier, ObjectMeta, ObjectStore, PushedImage, Release, Replica,
    RolloutProgress, Undelivered,
};
pub use delayd_core::retry::RetryPolicy;
use delayd_core::retry::Retryable;

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

/// Which calls fail. Clones share the plan, so that a test keeps one in hand.
#[derive(Debug, Clone, Default)]
pub struct PlannedFailures(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    calls: HashMap<&'static str, u64>,
    failures: Vec<Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    method: &'static str,
    /// First and last call that fail, counted from 1.
    calls: (u64, u64),
    kind: ErrorKind,
    after_effect: bool,
}

impl PlannedFailures {
    /// No failures yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Lets the `call`th call of `method` (from 1, in all) fail before it does anything.
    pub fn fail_call(&self, method: &'static str, call: u64, kind: ErrorKind) {
        self.add(Failure { method, calls: (call, call), kind, after_effect: false });
    }

    /// Lets the `call`th call of `method` do its work and then fail, as a reply lost on the way would.
    pub fn fail_call_after_effect(&self, method: &'static str, call: u64, kind: ErrorKind) {
        self.add(Failure { method, calls: (call, call), kind, after_effect: true });
    }

    /// Lets every call of `method` fail until [`PlannedFailures::heal`].
    pub fn fail_always(&self, method: &'static str, kind: ErrorKind) {
        self.add(Failure { method, calls: (0, u64::MAX), kind, after_effect: false });
    }

    /// Forgets every planned failure.
    pub fn heal(&self) {
        self.plan().failures.clear();
    }

    /// How often `method` was called.
    #[must_use]
    pub fn calls(&self, method: &'static str) -> u64 {
        self.plan().calls.get(method).copied().unwrap_or_default()
    }

    fn add(&self, failure: Failure) {
        self.plan().failures.push(failure);
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass<T, E: From<PortError>>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let failure = {
            let mut plan = self.plan();
            let number = plan.calls.entry(method).or_default();
            *number += 1;
            let number = *number;
            let planned =
                |failure: &&Failure| failure.method == method && (failure.calls.0..=failure.calls.1).contains(&number);
            plan.failures.iter().find(planned).cloned()
        };
        let Some(failure) = failure else { return call.await };
        if failure.after_effect {
            call.await?;
        }
        Err(PortError::new(failure.kind, format!("calling {method}"), "planned failure").into())
    }
}

/// A port that fails by plan.
#[derive(Debug, Clone)]
pub struct Failing<P> {
    inner: P,
    failures: PlannedFailures,
}

impl<P> Failing<P> {
    /// Wraps a port.
    pub fn new(inner: P, failures: PlannedFailures) -> Self {
        Self { inner, failures }
    }
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for Failing<P> {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.failures.pass("list", self.inner.list(prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.failures.pass("get", self.inner.get(key)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.failures.pass("put", self.inner.put(key, body)).await
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.failures.pass("delete", self.inner.delete(key)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.failures.pass("probe", self.inner.probe()).await
    }
}

#[async_trait]
impl<P: ImageRegistry> ImageRegistry for Failing<P> {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        self.failures.pass("push", self.inner.push(layout, repository, tag)).await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        self.failures.pass("resolve", self.inner.resolve(repository, tag)).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        self.failures.pass("remove_tag", self.inner.remove_tag(repository, tag)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.failures.pass("probe", self.inner.probe()).await
    }
}

#[async_trait]
impl<P: Cluster> Cluster for Failing<P> {
    async fn apply(
        &self,
        release: &Release,
        deadline: Duration,
        progress: &(dyn Fn(RolloutProgress) + Send + Sync),
    ) -> Result<(), PortError> {
        self.failures.pass("apply", self.inner.apply(release, deadline, progress)).await
    }

    async fn current(&self) -> Result<Option<Release>, PortError> {
        self.failures.pass("current", self.inner.current()).await
    }

    async fn replicas(&self) -> Result<Vec<Replica>, PortError> {
        self.failures.pass("replicas", self.inner.replicas()).await
    }

    async fn reconcile(&self) -> Result<Vec<String>, PortError> {
        self.failures.pass("reconcile", self.inner.reconcile()).await
    }

    fn service_url(&self) -> String {
        self.inner.service_url()
    }

    async fn tear_down(&self) -> Result<(), PortError> {
        self.failures.pass("tear_down", self.inner.tear_down()).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.failures.pass("probe", self.inner.probe()).await
    }
}

#[async_trait]
impl<P: Notifier> Notifier for Failing<P> {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.inner.endpoints()
    }

    async fn deliver(&self, endpoint: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        self.failures.pass("deliver", self.inner.deliver(endpoint, notice)).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        self.failures.pass("probe", self.inner.probe()).await
    }
}
