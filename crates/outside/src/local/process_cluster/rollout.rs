//! Which replicas there should be: rolling to a release, going back when it does
//! not work, and putting right what broke in between.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::ProcessCluster;
use super::launch::{Inherited, rotate_logs};
use super::state::{Phase, ReplicaRecord};
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ports::{Release, RolloutProgress};

/// A replica that misses this many readiness checks in a row hangs, and is replaced. Its administrative
/// port is asked: on the public one clients that hold all its connections could have it killed.
const MISSED_PROBES_OF_A_HANGING_REPLICA: u32 = 3;
/// A release whose replicas die this often right after becoming ready does not work.
const DEATHS_OF_A_BROKEN_RELEASE: usize = 3;
/// How long `delayd-serve` waits for its last requests, beyond lingering.
const UNANSWERED_REQUESTS_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

type Progress<'a> = &'a (dyn Fn(RolloutProgress) + Send + Sync);

/// The replicas as a rollout counts them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Census {
    updated: Vec<String>,
    outdated: Vec<String>,
    died: Vec<String>,
}

/// The next thing a rollout does.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start,
    Drain(String),
    Done,
}

impl Census {
    fn of(records: &[ReplicaRecord], target: &Release, port: u16) -> Self {
        let mut census = Self::default();
        for record in records {
            let current = record.serves(target, port);
            match record.phase {
                Phase::Serving if current => census.updated.push(record.name.clone()),
                Phase::Serving => census.outdated.push(record.name.clone()),
                Phase::Failed if current => census.died.push(record.reason.clone().unwrap_or_default()),
                Phase::Failed | Phase::Starting | Phase::Draining => {}
            }
        }
        census
    }

    /// One more than wanted at most, never fewer; and no old replica goes before
    /// one of the new has shown that it can become ready.
    fn next_step(&self, wanted: usize) -> Step {
        let serving = self.updated.len() + self.outdated.len();
        match self.outdated.first() {
            Some(name) if serving > wanted && !self.updated.is_empty() => Step::Drain(name.clone()),
            _ if self.updated.len() < wanted => Step::Start,
            _ => match self.updated.first() {
                Some(name) if self.updated.len() > wanted => Step::Drain(name.clone()),
                _ => Step::Done,
            },
        }
    }
}

impl ProcessCluster {
    pub(super) async fn apply_release(
        &self,
        release: &Release,
        deadline: Instant,
        progress: Progress<'_>,
    ) -> Result<(), PortError> {
        let action = || format!("rolling to {} ({})", release.model, release.deployment);
        if release.replicas == 0 {
            let message = "a release needs at least one replica; to stop the service, tear it down";
            return Err(PortError::new(ErrorKind::Invalid, action(), message));
        }
        self.sweep().await?;
        self.forget_failed(|_| true).await?;
        let Err(cause) = self.roll(release, deadline, progress).await else {
            return self.change(|state| state.release = Some(release.clone())).await;
        };
        let outcome = match self.roll_back().await {
            Ok(outcome) => outcome,
            Err(error) => format!("and going back failed: {}", delayd_core::error::chain(&error)),
        };
        Err(PortError::new(cause.kind(), action(), format!("{}; {outcome}", delayd_core::error::chain(&cause))))
    }

    /// Takes the steps to `target` one after the other.
    async fn roll(&self, target: &Release, deadline: Instant, progress: Progress<'_>) -> Result<(), PortError> {
        let wanted = target.replicas as usize;
        loop {
            self.sweep().await?;
            let census = Census::of(&self.state().replicas, target, self.port);
            let report = |message: String| {
                let updated = u32::try_from(census.updated.len()).unwrap_or(u32::MAX);
                progress(RolloutProgress { updated, wanted: target.replicas, message });
            };
            if census.died.len() >= DEATHS_OF_A_BROKEN_RELEASE {
                let message = format!("its replicas die soon after they became ready: {}", census.died.join(", "));
                return Err(PortError::new(ErrorKind::Invalid, format!("rolling to {}", target.model), message));
            }
            match census.next_step(wanted) {
                Step::Done => {
                    report(format!("{} of {wanted} replicas serve {}", census.updated.len(), target.model));
                    return Ok(());
                }
                Step::Start => {
                    report(format!("starting replica {} of {wanted}", census.updated.len() + 1));
                    self.start_replica(target, deadline, Inherited::default()).await?;
                }
                Step::Drain(name) => {
                    report(format!("draining {name}"));
                    self.drain(&name).await?;
                }
            }
        }
    }

    /// Back to the release that was applied before, all of it; says what came of it.
    async fn roll_back(&self) -> Result<String, PortError> {
        self.forget_failed(|_| true).await?;
        let Some(previous) = self.state().release else {
            self.drain_others(None).await?;
            return Ok("there is no earlier release to serve".to_owned());
        };
        self.roll(&previous, Instant::now() + self.config.ready_deadline, &|_| ()).await?;
        Ok(format!("{} still serves", previous.model))
    }

    /// Notes what happened by itself: who died, who drained and left, who should have left.
    async fn sweep(&self) -> Result<(), PortError> {
        for record in self.state().replicas {
            let ending = self.ended(&record);
            match (record.phase, ending) {
                (Phase::Serving, Some(ending)) => self.note_failure(&record, ending.reason).await?,
                (Phase::Starting | Phase::Draining, Some(_)) => self.forget(&record.name).await?,
                // Nobody waits for it: its rollout was interrupted. It may serve already, so it goes gently.
                (Phase::Starting, None) => self.drain(&record.name).await?,
                (Phase::Draining, None) => self.end_overlong_drain(&record).await?,
                (Phase::Serving, None) | (Phase::Failed, _) => {}
            }
        }
        Ok(())
    }

    async fn note_failure(&self, record: &ReplicaRecord, reason: String) -> Result<(), PortError> {
        tracing::warn!(replica.name = %record.name, reason, "a replica died");
        let now = Instant::now();
        let stable = {
            let mut lives = self.lives();
            let life = lives.entry(record.name.clone()).or_default();
            life.failed_since = Some(now);
            life.ready_since.is_some_and(|since| now.duration_since(since) >= self.config.stable_after)
        };
        self.change_replica(&record.name, |record| {
            record.phase = Phase::Failed;
            record.reason = Some(reason);
            if stable {
                record.failures_in_a_row = 0;
            }
        })
        .await
    }

    async fn end_overlong_drain(&self, record: &ReplicaRecord) -> Result<(), PortError> {
        let since =
            *self.lives().entry(record.name.clone()).or_default().draining_since.get_or_insert_with(Instant::now);
        // The service lingers twice at most: for idle connections, then for its counts to be collected.
        if since.elapsed() < 2 * self.config.linger + UNANSWERED_REQUESTS_LIMIT {
            return Ok(());
        }
        tracing::warn!(replica.name = %record.name, "the replica did not leave after draining and is killed");
        self.kill(&record.name).await;
        self.forget(&record.name).await
    }

    async fn forget_failed(&self, which: impl Fn(&ReplicaRecord) -> bool) -> Result<(), PortError> {
        let failed = self.state().replicas.into_iter().filter(|record| record.phase == Phase::Failed);
        for record in failed.filter(|record| which(record)) {
            self.forget(&record.name).await?;
        }
        Ok(())
    }

    /// Drains whatever serves something other than `release`.
    async fn drain_others(&self, release: Option<&Release>) -> Result<(), PortError> {
        for record in self.state().replicas {
            let wanted = release.is_some_and(|release| record.serves(release, self.port));
            if record.phase == Phase::Serving && !wanted {
                self.drain(&record.name).await?;
            }
        }
        Ok(())
    }

    /// What reconciliation does: the applied release, with all its replicas. A
    /// rollout that an earlier daemon did not finish is undone; its step is repeated.
    pub(super) async fn restore_wanted_state(&self) -> Result<(), PortError> {
        self.sweep().await?;
        self.kill_hanging().await?;
        let Some(release) = self.state().release else {
            self.forget_failed(|_| true).await?;
            return self.drain_others(None).await;
        };
        self.forget_failed(|record| !record.serves(&release, self.port)).await?;
        self.restart_failed(&release).await?;
        if self.state().replicas.iter().any(|record| record.phase == Phase::Failed) {
            // Its turn comes when its backoff is over.
            return Ok(());
        }
        self.roll(&release, Instant::now() + self.config.ready_deadline, &|_| ()).await
    }

    async fn kill_hanging(&self) -> Result<(), PortError> {
        for record in self.state().replicas.into_iter().filter(|record| record.phase == Phase::Serving) {
            let probe = self.probe(record.admin_url.as_deref().unwrap_or_default()).await;
            let missed = {
                let mut lives = self.lives();
                let life = lives.entry(record.name.clone()).or_default();
                life.missed_probes = if probe.is_ok() { 0 } else { life.missed_probes + 1 };
                life.ready_since.get_or_insert_with(Instant::now);
                life.missed_probes
            };
            let Err(reason) = probe else { continue };
            if missed >= MISSED_PROBES_OF_A_HANGING_REPLICA {
                self.kill(&record.name).await;
                self.note_failure(&record, format!("{} hung and was killed: {reason}", record.name)).await?;
            }
        }
        Ok(())
    }

    /// Replaces dead replicas whose backoff is over. The first failure to do so is
    /// the answer, after all were tried.
    async fn restart_failed(&self, release: &Release) -> Result<(), PortError> {
        let mut outcome = Ok(());
        for dead in self.state().replicas.into_iter().filter(|record| record.phase == Phase::Failed) {
            let waited = {
                let mut lives = self.lives();
                lives.entry(dead.name.clone()).or_default().failed_since.get_or_insert_with(Instant::now).elapsed()
            };
            if waited < self.backoff(dead.failures_in_a_row) {
                continue;
            }
            let inherited =
                Inherited { restarts: dead.restarts + 1, failures_in_a_row: dead.failures_in_a_row.saturating_add(1) };
            let deadline = Instant::now() + self.config.ready_deadline;
            match self.start_replica(release, deadline, inherited).await {
                Ok(_) => self.forget(&dead.name).await?,
                Err(error) => {
                    self.lives().entry(dead.name.clone()).or_default().failed_since = Some(Instant::now());
                    self.change_replica(&dead.name, |record| {
                        record.restarts = inherited.restarts;
                        record.failures_in_a_row = inherited.failures_in_a_row;
                        record.reason = Some(delayd_core::error::chain(&error));
                    })
                    .await?;
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }

    fn backoff(&self, failures_in_a_row: u32) -> Duration {
        let Some(doublings) = failures_in_a_row.checked_sub(1) else { return Duration::ZERO };
        let delay = self.config.restart_backoff.saturating_mul(2_u32.saturating_pow(doublings));
        delay.min(self.config.max_restart_backoff)
    }

    pub(super) async fn rotate_logs(&self) -> Result<(), PortError> {
        let in_use: Vec<String> = self.state().replicas.into_iter().map(|record| record.name).collect();
        let config = self.config.clone();
        blocking("rotating the replicas' logs", move || {
            rotate_logs(&config.log_dir, config.max_log_bytes, config.kept_logs, &in_use)
                .map_err(|error| PortError::io(format!("rotating the logs in {}", config.log_dir.display()), error))
        })
        .await
    }

    /// Drains all at once, lets nobody linger, and kills what does not go.
    pub(super) async fn stop_everything(&self) -> Result<(), PortError> {
        self.change(|state| state.release = None).await?;
        let records = self.state().replicas;
        for record in &records {
            if let Some(process) = record.process.as_ref().filter(|process| process.is_alive()) {
                process
                    .signal(Signal::SIGTERM)
                    .map_err(|error| PortError::io(format!("stopping replica {}", record.name), error))?;
            }
        }
        let deadline = Instant::now() + self.config.drain_timeout;
        for record in &records {
            while self.ended(record).is_none() && Instant::now() < deadline {
                if let Some(admin_url) = &record.admin_url {
                    // It may not listen any more; whether it is gone is what counts.
                    let _ = self.http.post(format!("{admin_url}/admin/v1/collected")).send().await;
                }
                sleep(POLL_INTERVAL).await;
            }
            if self.ended(record).is_none() {
                tracing::warn!(replica.name = %record.name, "the replica did not stop and is killed");
                self.kill(&record.name).await;
            }
            self.forget(&record.name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(updated: usize, outdated: usize) -> Census {
        let names = |kind: &str, count: usize| (0..count).map(|number| format!("{kind}{number}")).collect();
        Census { updated: names("new", updated), outdated: names("old", outdated), died: Vec::new() }
    }

    #[test]
    fn a_rollout_never_has_fewer_than_wanted_nor_more_than_one_extra() {
        for (old, wanted) in [(0, 1), (0, 3), (2, 2), (3, 3), (4, 2), (1, 4)] {
            let (mut updated, mut outdated) = (0, old);
            let floor = wanted.min(old);
            for _ in 0..50 {
                match census(updated, outdated).next_step(wanted) {
                    Step::Start => updated += 1,
                    Step::Drain(name) if name.starts_with("old") => outdated -= 1,
                    Step::Drain(_) => updated -= 1,
                    Step::Done => break,
                }
                assert!(updated + outdated >= floor, "{old} to {wanted}: {updated} new, {outdated} old");
                assert!(updated + outdated <= wanted.max(old) + 1, "{old} to {wanted}: {updated} new, {outdated} old");
            }
            assert_eq!((updated, outdated), (wanted, 0), "{old} to {wanted}");
        }
    }

    #[test]
    fn no_old_replica_goes_before_a_new_one_is_ready() {
        assert_eq!(census(0, 4).next_step(2), Step::Start);
        assert_eq!(census(1, 4).next_step(2), Step::Drain("old0".to_owned()));
    }

    #[test]
    fn surplus_replicas_of_the_right_release_are_drained() {
        assert_eq!(census(3, 0).next_step(2), Step::Drain("new0".to_owned()));
        assert_eq!(census(2, 0).next_step(2), Step::Done);
    }
}
