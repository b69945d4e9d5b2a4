//! The daemon's timers: what it does by itself, and when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Daemon;
use crate::stages::watch::CollectDraining;
use crate::supervision::ActorState;
use delayd_core::error::chain;
use delayd_core::failure::StepFailure;
use delayd_core::ports::Severity;
use delayd_ledger::Alias;

/// A timer that fails this often in a row raises an alert.
const ALERTED_FAILURES: u32 = 3;
/// How long the timers wait for the actors' threads to start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A timer asks at most two actors, for half an hour each; the rest allows for a slow machine.
const RUN_LIMIT: Duration = Duration::from_secs(2 * 1800 + 120);
/// A pause may take this much longer than it should before its timer counts as stuck.
const LATE_LIMIT: Duration = Duration::from_secs(60);
/// How often old records and files are removed.
const RETENTION_PAUSE: Duration = Duration::from_secs(86_400);
/// How often replicas that drain in a rollout are asked: several times in the shortest linger time there is.
const COLLECT_PAUSE: Duration = Duration::from_millis(400);
/// How often the timers' thread shows that it runs at all.
const PULSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// The daemon's timers: every part also wakes by itself, so that a lost
    /// message is only a late one. Never returns.
    pub async fn run_timers(&self) {
        let ingestion = Duration::from_secs(self.settings.ingestion.interval_secs);
        let monitoring = Duration::from_secs(self.settings.monitoring.interval_secs);
        let notification = Duration::from_secs(self.settings.notification.interval_secs);
        let reconcile = Duration::from_secs(10);
        self.actors_are_up().await;
        let ((), (), (), (), (), (), ()) = tokio::join!(
            self.pulse(),
            self.collect_in_rollouts(),
            self.every(RETENTION_PAUSE, "retention", || async { self.retain().await.map(|_| ()) }),
            self.every(ingestion, "ingestion", || async { self.ingest().await.map(|_| ()) }),
            self.every(monitoring, "monitoring", || async { self.observe().await.map(|_| ()) }),
            self.every(notification, "alerts", || self.deliver_alerts()),
            self.every(reconcile, "replicas", || self.resume()),
        );
    }

    /// A first run that meets no actors would be retried only at the next one.
    async fn actors_are_up(&self) {
        let started = || self.supervision.statuses().iter().all(|actor| actor.state == ActorState::Running);
        let all = async {
            while !started() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // An actor that is late is waited for by the timers that need it.
        let _ = tokio::time::timeout(START_LIMIT, all).await;
    }

    /// Fetches the last counts of draining replicas, while a rollout is under way
    /// and until the last one has gone: they linger for much less than the monitor's
    /// interval. What fails here is retried at once, and by the next check.
    async fn collect_in_rollouts(&self) {
        let mut changes = self.rollouts.watch();
        // A daemon that was restarted in a rollout finds replicas that drain.
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            loop {
                let under_way = self.rollouts.any_under_way();
                match self.monitor.ask(CollectDraining).await {
                    Ok(collected) if collected.draining == 0 && !under_way => break,
                    Ok(_) => {}
                    Err(failure) => {
                        tracing::warn!(error = %failure, "the last counts of draining replicas could not be fetched");
                        if !under_way {
                            break;
                        }
                    }
                }
                tokio::time::sleep(COLLECT_PAUSE).await;
            }
        }
    }

    async fn pulse(&self) {
        loop {
            self.timer_deadlines.due_within("event loop", PULSE + LATE_LIMIT);
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Does something again and again. A failure is logged and retried next time;
    /// one that lasts raises an alert, and so does its end.
    async fn every<F, Fut>(&self, pause: Duration, what: &str, work: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), StepFailure>>,
    {
        let mut failures: u32 = 0;
        loop {
            self.timer_deadlines.due_within(what, RUN_LIMIT);
            let started = Instant::now();
            let result = work().await;
            self.observer.timer_ran(what, self.env.now(), started.elapsed(), result.as_ref().err());
            match result {
                Ok(()) => {
                    if failures >= ALERTED_FAILURES {
                        let body = format!("It succeeded again after {failures} failures in a row.");
                        self.alert(Severity::Info, what, "works again", body).await;
                    }
                    failures = 0;
                }
                Err(failure) => {
                    failures += 1;
                    tracing::error!(timer = what, failures, error = %failure, "timer failed; it is retried at its next run");
                    if failures == ALERTED_FAILURES {
                        let body = format!(
                            "{failure}. It is retried every {} s; {}.",
                            pause.as_secs(),
                            self.meanwhile().await
                        );
                        self.alert(Severity::Warning, what, "keeps failing", body).await;
                    }
                }
            }
            self.timer_deadlines.due_within(what, pause + LATE_LIMIT);
            tokio::time::sleep(pause).await;
        }
    }

    /// What happens while a timer fails.
    async fn meanwhile(&self) -> &'static str {
        match self.env.ledger.model_by_alias(Alias::Live).await {
            Ok(Some(_)) => "the live model keeps serving",
            Ok(None) => "no model is live yet, so no predictions are served",
            // A ledger that cannot be read is what the alert itself is about.
            Err(_) => "whatever is live keeps serving",
        }
    }

    async fn alert(&self, severity: Severity, what: &str, how: &str, body: String) {
        let key = format!("timer/{what}/{how}/{}", self.env.now().timestamp());
        if let Err(error) = self.env.alert(severity, key, format!("{what} {how}"), body).await {
            tracing::error!(error = chain(&error), "an alert could not be put into the outbox");
        }
    }
}

/// When each timer must have run again; clones share them. A timer that waits or works longer than it may is stuck,
/// and supervision would not see that: timers are not actors.
#[derive(Debug, Clone, Default)]
pub struct TimerDeadlines(Arc<Mutex<BTreeMap<String, Instant>>>);

impl TimerDeadlines {
    /// The timer makes progress now, and again within `limit`.
    pub fn due_within(&self, timer: &str, limit: Duration) {
        let due = Instant::now() + limit;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(timer.to_owned(), due);
    }

    /// The timers that should have run by `now`, and have not.
    pub fn overdue(&self, now: Instant) -> Vec<String> {
        let deadlines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deadlines.iter().filter(|(_, due)| **due < now).map(|(timer, _)| timer.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_overdue_until_it_runs_again() {
        let deadlines = TimerDeadlines::default();
        let now = Instant::now();
        deadlines.due_within("alerts", Duration::from_secs(10));
        deadlines.due_within("ingestion", Duration::from_secs(100));
        assert!(deadlines.overdue(now).is_empty());
        assert_eq!(deadlines.overdue(now + Duration::from_secs(50)), ["alerts"]);
        deadlines.due_within("alerts", Duration::from_secs(200));
        assert_eq!(deadlines.overdue(now + Duration::from_secs(150)), ["ingestion"]);
    }
}
