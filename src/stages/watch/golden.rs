//! Train/serve skew after the deployment: once an hour every ready replica is asked for
//! the bundle's golden rows, whose scores training computed. They go to its own
//! address and are marked as probes, which are neither traffic nor predictions.

use chrono::{DateTime, Duration, Utc};
use delayd_model::{Bundle, GoldenRow};

use super::MonitorStage;
use super::memory::Memory;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::ModelVersion;
use delayd_core::ports::{Replica, ReplicaState, Severity};
use delayd_judge::monitoring::skew::TrainServeLook;
use delayd_judge::monitoring::skew::{ScoredTwice, train_serve_skew};
use delayd_outside::service::{ProbePolicy, ProbeRow, replay};

/// How long a check counts.
const EVERY: Duration = Duration::hours(1);
/// Seconds that one replica has for all rows.
const REPLICA_DEADLINE_SECS: u64 = 5;

impl MonitorStage {
    /// Asks for the golden rows where that is due; a difference raises an alert at once, one per episode.
    pub(super) async fn check_train_serve_skew(
        &self,
        version: ModelVersion,
        bundle: &Bundle,
        replicas: &[Replica],
        memory: &mut Memory,
        now: DateTime<Utc>,
    ) -> Result<(), StepFailure> {
        // A check of another model says nothing about this one.
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
            // No replica answered: that is reported elsewhere, and asked again at the next check.
            return Ok(());
        }
        let report = train_serve_skew(&pairs, &self.settings.monitoring.skew);
        let what = format!("train_serve/{version}");
        if report.skewed {
            let body = format!(
                "{}. The service computes different scores than training did for the same rows: its predictions \
                 cannot be trusted. `delayd rollback` goes back to the previous release.",
                report.reason
            );
            let title = format!("{version} scores differently in service than in training");
            self.env.alert(Severity::Critical, memory.episodes.alarm(&what, now), title, body).await?;
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
