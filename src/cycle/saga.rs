//! A durable saga: steps that are journaled in the ledger before and after, so
//! that a cycle resumes where it was after `kill -9`, and is undone in reverse
//! when a step fails.
//!
//! The saga knows nothing of flights or models; [`super::steps`] is the table of steps. Every step must be safe to repeat: ids are minted
//! before the first effect, and a step that was under way when the process died
//! is simply done again.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::Instrument;

use crate::config::DaemonSettings;
use crate::env::Env;
use crate::telemetry;
use delayd_core::document::{Document, Stored};
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::CycleId;
use delayd_core::ports::Severity;
use delayd_ledger::StepState;

/// A step's place in the journal, and its name for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepName {
    pub position: u32,
    pub name: &'static str,
}

impl StepName {
    pub const fn new(position: u32, name: &'static str) -> Self {
        Self { position, name }
    }
}

/// How often and how patiently a step is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for every later one.
    pub first_pause: Duration,
    /// The pause never grows past this.
    pub longest_pause: Duration,
    /// While an outside system is unavailable, attempts are not counted for this long.
    pub outage_patience: Duration,
}

impl RetryPolicy {
    /// How the steps of a daemon's cycles are tried again.
    pub fn of(settings: &DaemonSettings) -> Self {
        Self {
            attempts: settings.step_attempts,
            first_pause: Duration::from_secs_f64(settings.step_retry_secs),
            longest_pause: Duration::from_secs(60),
            outage_patience: Duration::from_secs(settings.outage_patience_secs),
        }
    }

    /// The pause after the `attempt`-th attempt (from 1) failed.
    pub fn pause_after(&self, attempt: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
        self.first_pause.saturating_mul(factor).min(self.longest_pause)
    }

    /// Whether to try once more after `tries` attempts, the first of them `waited` ago.
    pub fn tries_again(&self, kind: ErrorKind, tries: u32, waited: Duration) -> bool {
        if kind.is_outage() { waited < self.outage_patience } else { tries < self.attempts }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            outage_patience: Duration::from_secs(6 * 3600),
        }
    }
}

/// Follows every step, for terminals and metrics.
pub trait StepObserver: Send + Sync {
    /// A step began.
    fn started(&self, cycle: CycleId, step: &str);
    /// A step ended: its wall time, and the failure if there was one.
    fn finished(&self, cycle: CycleId, step: &str, wall: Duration, failure: Option<&StepFailure>);
    /// A timer of the daemon has run once, ending at `now` on the daemon's clock.
    fn timer_ran(&self, _timer: &str, _now: DateTime<Utc>, _wall: Duration, _failure: Option<&StepFailure>) {}
}

/// What a step made, as the journal keeps it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StepOutput<T>(pub(crate) T);

impl<T: Serialize + DeserializeOwned> Stored for StepOutput<T> {
    const NAME: &'static str = "output of a step";
}

/// One cycle's journal.
#[derive(Clone)]
pub struct Saga {
    env: Env,
    cycle: CycleId,
    retry: RetryPolicy,
    observer: Arc<dyn StepObserver>,
}

impl Saga {
    /// The journal of a cycle that the ledger already knows.
    pub fn new(env: Env, cycle: CycleId, retry: RetryPolicy, observer: Arc<dyn StepObserver>) -> Self {
        Self { env, cycle, retry, observer }
    }

    /// Does a step, or answers what it produced when it was already done before
    /// a restart. Retryable failures are tried again, with growing pauses.
    /// The last attempt's failure is journaled too.
    pub async fn step<T, F, Fut>(&self, step: StepName, mut attempt: F) -> Result<T, StepFailure>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StepFailure>>,
    {
        let span = telemetry::step_span(step.name);
        self.journaled(step, &mut attempt).instrument(span).await
    }

    async fn journaled<T, F, Fut>(&self, step: StepName, attempt: &mut F) -> Result<T, StepFailure>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StepFailure>>,
    {
        let StepName { position, name } = step;
        if let Some(output) = self.output_of(step).await? {
            tracing::info!("step was already done before the restart");
            return Ok(output);
        }
        self.fail_if_cancelled().await?;
        tracing::info!("step started");
        self.observer.started(self.cycle, name);
        let started_at = Instant::now();
        let result = self
            .retried(step, ErrorKind::is_retryable, || {
                let started = self.env.ledger.step_started(self.cycle, position, name, self.env.now());
                let (not_cancelled, attempt) = (self.fail_if_cancelled(), attempt());
                async move {
                    started.await?;
                    not_cancelled.await?;
                    attempt.await
                }
            })
            .await;
        let wall = started_at.elapsed();
        match &result {
            Ok(_) => tracing::info!(duration_ms = wall.as_millis() as u64, "step done"),
            Err(failure) => tracing::warn!(duration_ms = wall.as_millis() as u64, error = %failure, "step failed"),
        }
        self.observer.finished(self.cycle, name, wall, result.as_ref().err());
        match result {
            Ok(output) => {
                let output = StepOutput(output);
                let document = Document::of(&output)?;
                self.env
                    .ledger
                    .step_done(self.cycle, position, document, self.env.now(), wall.as_millis() as u64)
                    .await?;
                Ok(output.0)
            }
            Err(failure) => {
                let wall_ms = wall.as_millis() as u64;
                self.env.ledger.step_failed(self.cycle, position, &failure.message, self.env.now(), wall_ms).await?;
                Err(failure)
            }
        }
    }

    /// Fails with `Cancelled`, with who and why, once someone has cancelled the cycle: then no step starts or is retried.
    async fn fail_if_cancelled(&self) -> Result<(), StepFailure> {
        match self.env.ledger.cycle(self.cycle).await?.and_then(|cycle| cycle.cancel) {
            Some(request) => Err(StepFailure::new(ErrorKind::Cancelled, request.to_string())),
            None => Ok(()),
        }
    }

    /// What a finished step produced; `None` where it is not done.
    pub async fn output_of<T: Serialize + DeserializeOwned>(&self, step: StepName) -> Result<Option<T>, StepFailure> {
        let steps = self.env.ledger.steps_of(self.cycle).await?;
        let done = steps.into_iter().find(|other| other.position == step.position && other.state == StepState::Done);
        let Some(done) = done else { return Ok(None) };
        let output = done.output.unwrap_or_default();
        output.read().map(|StepOutput(output)| Some(output)).map_err(|error| {
            StepFailure::new(
                ErrorKind::Corrupt,
                format!("the journal of {} step `{}` cannot be read: {error}", self.cycle, step.name),
            )
        })
    }

    /// Whether a step was started and not undone.
    pub async fn touched(&self, step: StepName) -> Result<bool, StepFailure> {
        let steps = self.env.ledger.steps_of(self.cycle).await?;
        Ok(steps.iter().any(|other| {
            other.position == step.position && !matches!(other.state, StepState::Undone | StepState::Skipped)
        }))
    }

    /// Whether a step was ever started, undone since or not.
    pub async fn ever_started(&self, step: StepName) -> Result<bool, StepFailure> {
        let steps = self.env.ledger.steps_of(self.cycle).await?;
        Ok(steps.iter().any(|other| other.position == step.position && other.state != StepState::Skipped))
    }

    /// Undoes a step if it was done or started. Every failed attempt is journaled. An undo that keeps
    /// failing is marked `stuck`, and its failure is returned so that an alert is sent.
    pub async fn undo<F, Fut>(&self, step: StepName, mut attempt: F) -> Result<(), StepFailure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<(), StepFailure>>,
    {
        let StepName { position, name } = step;
        if !self.touched(step).await? {
            return Ok(());
        }
        let span = telemetry::undo_span(name);
        let journaled = || {
            let attempt = attempt();
            async move {
                let undone = attempt.await;
                if let Err(failure) = &undone {
                    let now = self.env.now();
                    self.env.ledger.step_undo_failed(self.cycle, position, &failure.message, now).await?;
                }
                undone
            }
        };
        match self.retried(step, |_| true, journaled).instrument(span.clone()).await {
            Ok(()) => {
                self.env.ledger.step_undone(self.cycle, position, self.env.now()).await?;
                span.in_scope(|| tracing::info!("step undone"));
                Ok(())
            }
            Err(failure) => {
                self.env.ledger.step_stuck(self.cycle, position, &failure.message, self.env.now()).await?;
                Err(failure)
            }
        }
    }

    /// Retries with growing pauses while it is worth it. An outage that outlasts the
    /// ordinary attempts raises an alert, and so does its end.
    async fn retried<T, F, Fut>(
        &self,
        step: StepName,
        is_worth_it: impl Fn(ErrorKind) -> bool,
        mut attempt: F,
    ) -> Result<T, StepFailure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StepFailure>>,
    {
        let started_at = Instant::now();
        let mut tries = 0;
        loop {
            let failure = match attempt().await {
                Ok(output) => {
                    self.alert_end_of_outage(step, tries, started_at.elapsed()).await?;
                    return Ok(output);
                }
                Err(failure) => failure,
            };
            tries += 1;
            if !is_worth_it(failure.kind) || !self.retry.tries_again(failure.kind, tries, started_at.elapsed()) {
                return Err(failure);
            }
            if failure.kind.is_outage() && tries == self.retry.attempts {
                self.alert_outage(step, &failure).await?;
            }
            let pause = self.retry.pause_after(tries);
            tracing::warn!(attempt = tries, pause_ms = pause.as_millis() as u64, error = %failure,
                "step failed and will be retried");
            tokio::time::sleep(pause).await;
        }
    }

    async fn alert_outage(&self, step: StepName, failure: &StepFailure) -> Result<(), StepFailure> {
        let (cycle, name) = (self.cycle, step.name);
        let patience = self.retry.outage_patience.as_secs();
        let body = format!(
            "{failure}. The step is retried for up to {patience} s; the live model keeps serving. \
             Nothing needs to be done once the system is back."
        );
        let (key, title) = (format!("outage/{cycle}/{name}"), format!("{cycle} is waiting at `{name}`"));
        Ok(self.env.alert(Severity::Warning, key, title, body).await?)
    }

    async fn alert_end_of_outage(&self, step: StepName, tries: u32, waited: Duration) -> Result<(), StepFailure> {
        if tries < self.retry.attempts {
            return Ok(());
        }
        let (cycle, name) = (self.cycle, step.name);
        let body = format!("The outside system is back; the step succeeded {} s after it started.", waited.as_secs());
        let (key, title) = (format!("outage-over/{cycle}/{name}"), format!("{cycle} resumes after `{name}`"));
        Ok(self.env.alert(Severity::Info, key, title, body).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_stops_growing() {
        let policy = RetryPolicy {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5),
            ..RetryPolicy::default()
        };
        let pauses: Vec<u64> = (1..=5).map(|attempt| policy.pause_after(attempt).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn an_outage_is_waited_for_and_everything_else_is_tried_a_few_times() {
        let policy = RetryPolicy { attempts: 3, outage_patience: Duration::from_secs(60), ..RetryPolicy::default() };
        let secs = Duration::from_secs;
        for (kind, tries, waited, again, reason) in [
            (ErrorKind::Unavailable, 50, secs(59), true, "the registry may come back"),
            (ErrorKind::Unavailable, 2, secs(61), false, "patience has an end"),
            (ErrorKind::Timeout, 2, secs(900), true, "one attempt is left"),
            (ErrorKind::Interrupted, 3, secs(1), false, "an actor that dies three times will die again"),
        ] {
            assert_eq!(policy.tries_again(kind, tries, waited), again, "{reason}");
        }
    }
}
