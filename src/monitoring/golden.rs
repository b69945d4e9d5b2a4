//! Train/serve skew after the deployment: once an hour every ready replica is asked
//! the bundle's golden rows, whose scores training computed. They go to its own
//! address and are marked as probes, which are neither traffic nor predictions.

use chrono::{DateTime, Duration, Utc};
use delayd_model::{Bundle, GoldenRow};

use super::memory::Memory;
use super::stage::MonitorStage;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{Replica, ReplicaState, Severity};
use delayd_judge::monitoring::skew::TrainServeLook;
use delayd_judge::monitoring::skew::{ScoredTwice, train_serve_skew};
use delayd_ledger::NewAlert;
use delayd_outside::service::{ProbePolicy, ProbeRow, replay};

/// How long a check is good for.
const EVERY: Duration = Duration::hours(1);
/// Seconds that one replica has for all rows.
const REPLICA_DEADLINE_SECS: u64 = 5;

impl MonitorStage {
    /// Asks the golden rows where that is due; what differs is told at once, once an episode.
    pub(super) async fn check_train_serve_skew(
        &self,
        version: ModelVersion,
        bundle: &Bundle,
        replicas: &[Replica],
        memory: &mut Memory,
        now: DateTime<Utc>,
    ) -> Result<(), StepFailure> {
        // What was seen of another model says nothing of this one.
        memory.train_serve = memory.train_serve.take().filter(|last| last.model == version);
        if memory.train_serve.as_ref().is_some_and(|last| last.at > now - EVERY) {
            return Ok(());
        }
        let rows = bundle.golden.iter().map(probe_row).collect::<Result<Vec<ProbeRow>, StepFailure>>()?;
        let policy = ProbePolicy {
            timeout_ms: 1_000 * REPLICA_DEADLINE_SECS,
            deadline_secs: REPLICA_DEADLINE_SECS,
            warm_up: 0,
            ..ProbePolicy::default()
        };
        let (mut pairs, mut asked) = (Vec::new(), 0);
        for replica in replicas.iter().filter(|one| one.state == ReplicaState::Ready && one.model == version) {
            let result = replay(&replica.admin_url, &rows, &policy).await;
            let result = result.map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
            let answered = result.answers.into_iter().filter_map(|answer| {
                let row = format!("{} by {}", answer.label, replica.name);
                Some(ScoredTwice { row, served: answer.score?, recomputed: answer.expected_score? })
            });
            let before = pairs.len();
            pairs.extend(answered);
            asked += usize::from(pairs.len() > before);
        }
        if pairs.is_empty() {
            // Nobody answered: that is told elsewhere, and asked again at the next look.
            return Ok(());
        }
        let report = train_serve_skew(&pairs, &self.settings.monitoring.skew);
        let what = format!("train_serve/{version}");
        if report.skewed {
            let alert = NewAlert {
                at: now,
                severity: Severity::Critical,
                dedup_key: memory.episodes.alarm(&what, now),
                title: format!("{version} is served otherwise than it was trained"),
                body: format!(
                    "{}. The service computes other scores than training did of the same rows: its predictions \
                     cannot be trusted. `delayd rollback` goes back to the release before.",
                    report.reason
                ),
            };
            self.env.ledger.enqueue_alert(alert).await?;
        } else {
            memory.episodes.quiet(&what);
        }
        memory.train_serve = Some(TrainServeLook { at: now, model: version, replicas: asked, report });
        Ok(())
    }
}

/// A golden row as a client would ask it: everything but its score, what is not known left out.
fn probe_row(golden: &GoldenRow) -> Result<ProbeRow, StepFailure> {
    let mut body = serde_json::to_value(golden).map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|name, value| name != "score" && !value.is_null());
    }
    let label = format!(
        "{}{} {}-{} {}",
        golden.carrier, golden.flight_number, golden.origin, golden.dest, golden.scheduled_departure
    );
    Ok(ProbeRow { label, body, expected_score: Some(golden.score) })
}
