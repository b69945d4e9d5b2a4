//! How a request is tried again. The SDK's own retries are off, because an attempt
//! here ends with the last byte of the body and not with the answer's headers.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::failure::Failure;
use super::settings::S3Settings;
use crate::wrap::RetryPolicy;
use delayd_core::error::ErrorKind;

/// Bounds that all requests of a store share.
#[derive(Debug)]
pub(super) struct Bounds {
    policy: RetryPolicy,
    /// Until a request must be through.
    attempt: Duration,
    /// Until the next byte of an answer must come.
    read: Duration,
    /// Requests that may be under way.
    places: Semaphore,
}

impl Bounds {
    pub(super) fn of(settings: &S3Settings) -> Self {
        Self {
            policy: settings.retry_policy(),
            attempt: Duration::from_secs(settings.attempt_timeout_secs),
            read: Duration::from_secs(settings.http.read_timeout_secs),
            places: Semaphore::new(settings.concurrency),
        }
    }

    /// Begins to count.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts { bounds: self, failed: 0 }
    }

    /// One request, in its turn and within its deadline.
    pub(super) async fn once<T, E: Into<Failure>>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(Failure::new(ErrorKind::Cancelled, "the store is closed"));
        };
        match tokio::time::timeout(self.attempt, request).await {
            Ok(outcome) => outcome.map_err(Into::into),
            Err(_) => Err(too_slow("it was not through", self.attempt)),
        }
    }

    /// Waits for the next sign of life of the other side.
    pub(super) async fn next<T>(&self, sign: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::time::timeout(self.read, sign).await.map_err(|_| too_slow("nothing came", self.read))
    }

    /// One request that sends little and gets little.
    pub(super) async fn short<T, E: Into<Failure>>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        self.once(async { self.next(request).await?.map_err(Into::into) }).await
    }

    /// A short request until it succeeds, fails for good, or its attempts are used up.
    pub(super) async fn retried<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, Failure>
    where
        E: Into<Failure>,
        F: Future<Output = Result<T, E>>,
    {
        let mut attempts = self.attempts();
        loop {
            match self.short(request()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.again(failure).await?,
            }
        }
    }
}

fn too_slow(what: &str, limit: Duration) -> Failure {
    Failure::new(ErrorKind::Timeout, format!("{what} within {} s", limit.as_secs()))
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    bounds: &'a Bounds,
    failed: u32,
}

impl Attempts<'_> {
    /// Waits until the request may be tried again.
    ///
    /// # Errors
    /// The failure, where trying again is of no use or was done often enough.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        self.failed += 1;
        if !failure.again || self.failed >= self.bounds.policy.attempts {
            return Err(match self.failed {
                1 => failure,
                tries => Failure { message: format!("{} (tried {tries} times)", failure.message), ..failure },
            });
        }
        let pause = self.bounds.policy.pause(self.failed);
        tracing::debug!(
            attempt = self.failed,
            delay_ms = pause.as_millis() as u64,
            error = failure.message,
            "S3: trying again"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
