//! The one way to try again: exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015), bounded, and only for failures that may pass.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::error::PortError;

/// How often and how fast to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Calls altogether, the first one included; 1 never tries again.
    pub attempts: u32,
    /// Upper bound of the first delay; doubled for every further one.
    pub base_delay: Duration,
    /// Upper bound of every delay. A failure that asks for a longer one (`Retry-After`) is not tried again.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, base_delay: Duration::from_millis(200), max_delay: Duration::from_secs(20) }
    }
}

/// A failure that says whether the same call may succeed a moment later.
pub trait Retryable: fmt::Display {
    /// Whether it may.
    fn is_retryable(&self) -> bool;

    /// How long the other side asks to be left alone; the policy's own delay without.
    fn asked_delay(&self) -> Option<Duration> {
        None
    }

    /// The same failure, known to have been met by each of `attempts` calls.
    #[must_use]
    fn after(self, _attempts: u32) -> Self
    where
        Self: Sized,
    {
        self
    }
}

impl Retryable for PortError {
    fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

/// A port's failure with the delay that the other side asks for (`Retry-After`).
#[derive(Debug)]
pub struct Deferred {
    /// The failure.
    pub error: PortError,
    /// The delay.
    pub wait: Option<Duration>,
}

impl From<PortError> for Deferred {
    fn from(error: PortError) -> Self {
        Self { error, wait: None }
    }
}

impl fmt::Display for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Retryable for Deferred {
    fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }

    fn asked_delay(&self) -> Option<Duration> {
        self.wait
    }
}

impl RetryPolicy {
    /// Calls until it succeeds, fails for good, or the attempts are used up.
    ///
    /// # Errors
    /// The last failure.
    pub async fn run<T, E: Retryable, F: Future<Output = Result<T, E>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, E> {
        let mut attempt = 1;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let delay = error.asked_delay().unwrap_or_else(|| self.delay_bound(attempt).mul_f64(random_fraction()));
            if !error.is_retryable() || attempt >= self.attempts || delay > self.max_delay {
                return Err(error.after(attempt));
            }
            tracing::debug!(attempt, delay_ms = delay.as_millis() as u64, %error, "trying again");
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    /// The longest delay after the `failed`th failure, counted from 1.
    fn delay_bound(&self, failed: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failed.saturating_sub(1));
        self.base_delay.saturating_mul(factor).min(self.max_delay)
    }
}

/// A number from 0 to 1, different for every daemon: the standard library seeds its hashers from the system. It decides
/// nothing that would have to be repeatable.
fn random_fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
