//! The daemon's timers: when it does by itself what nobody asked for.

use std::time::{Duration, Instant};

use super::Daemon;
use crate::monitoring::messages::CollectDraining;
use crate::supervision::ActorState;
use delayd_core::error::chain;
use delayd_core::failure::StepFailure;
use delayd_core::ports::Severity;
use delayd_ledger::{Alias, NewAlert};

/// A timer that fails this often in a row is told of.
const TOLD_FAILURES: u32 = 3;
/// How long the timers wait for the actors' threads to start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A turn of a timer has at most two such waits; what is left is the machine's slowness.
const TURN_LIMIT: Duration = Duration::from_secs(2 * 1800 + 120);
/// A pause may take this much longer than it should before its timer stands still.
const LATE_LIMIT: Duration = Duration::from_secs(60);
/// How often what grows is cut back.
const RETENTION_PAUSE: Duration = Duration::from_secs(86_400);
/// How often replicas that drain in a rollout are asked: several times in the shortest linger time there is.
const COLLECT_PAUSE: Duration = Duration::from_millis(400);
/// How often the thread of the timers shows that it comes round at all.
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
            self.every(RETENTION_PAUSE, "retention", || async { self.cut_back().await.map(|_| ()) }),
            self.every(ingestion, "ingestion", || async { self.ingest().await.map(|_| ()) }),
            self.every(monitoring, "monitoring", || async { self.observe().await.map(|_| ()) }),
            self.every(notification, "alerts", || self.deliver_alerts()),
            self.every(reconcile, "replicas", || self.resume()),
        );
    }

    /// A first turn that meets no actors would be tried again only at the next one.
    async fn actors_are_up(&self) {
        let started = || self.supervision.statuses().iter().all(|actor| actor.state == ActorState::Running);
        let all = async {
            while !started() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Whoever is late is waited for by the timers that need it.
        let _ = tokio::time::timeout(START_LIMIT, all).await;
    }

    /// Fetches the last counts of replicas that leave, while a rollout is under way
    /// and until the last one has gone: they linger for much less than a look's
    /// interval. What fails here is tried again at once, and by the next look.
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
                        tracing::warn!(error = %failure, "the last counts of replicas that leave could not be fetched");
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
            self.turns.back_within("event loop", PULSE + LATE_LIMIT);
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Does something now and then. A failure is logged and tried again next time;
    /// one that lasts is told, and so is its end.
    async fn every<F, Fut>(&self, pause: Duration, what: &str, work: F)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), StepFailure>>,
    {
        let mut failures: u32 = 0;
        loop {
            self.turns.back_within(what, TURN_LIMIT);
            let begun = Instant::now();
            let turn = work().await;
            self.observer.turned(what, self.env.now(), begun.elapsed(), turn.as_ref().err());
            match turn {
                Ok(()) => {
                    if failures >= TOLD_FAILURES {
                        let body = format!("It succeeded again after {failures} failures in a row.");
                        self.tell(Severity::Info, what, "works again", body).await;
                    }
                    failures = 0;
                }
                Err(failure) => {
                    failures += 1;
                    tracing::error!(timer = what, failures, error = %failure, "tried again at the next turn");
                    if failures == TOLD_FAILURES {
                        let body = format!(
                            "{failure}. It is tried again every {} s; {}.",
                            pause.as_secs(),
                            self.meanwhile().await
                        );
                        self.tell(Severity::Warning, what, "keeps failing", body).await;
                    }
                }
            }
            self.turns.back_within(what, pause + LATE_LIMIT);
            tokio::time::sleep(pause).await;
        }
    }

    /// What goes on while a timer fails.
    async fn meanwhile(&self) -> &'static str {
        match self.env.ledger.model_by_alias(Alias::Live).await {
            Ok(Some(_)) => "the live model keeps serving",
            Ok(None) => "no model is live yet, so nobody is served",
            // A ledger that cannot be read is what the alert itself tells of.
            Err(_) => "what is live goes on serving",
        }
    }

    async fn tell(&self, severity: Severity, what: &str, how: &str, body: String) {
        let now = self.env.now();
        let dedup_key = format!("timer/{what}/{how}/{}", now.timestamp());
        let alert = NewAlert { at: now, severity, dedup_key, title: format!("{what} {how}"), body };
        if let Err(error) = self.env.ledger.enqueue_alert(alert).await {
            tracing::error!(error = chain(&error), "an alert could not be put into the outbox");
        }
    }
}
