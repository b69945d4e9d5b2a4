//! An administrator's rollback: the previous model becomes live again, as a whole release.
//!
//! The plan is recorded in the ledger before the cluster is touched, so that a daemon that dies in between
//! finishes it at its next start: the model being served and the live model are then the same again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::deploy::DeploymentStage;
use super::live_service::is_known;
use crate::supervision::Request;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_core::ports::Severity;
use delayd_ledger::{Alias, DeploymentState, NewAlert, Snapshot};

/// The name under which the ledger keeps a rollback that is not finished.
const ROLLBACK: &str = "rollback";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedRollback {
    pub at: DateTime<Utc>,
    /// Who asked for it.
    pub by: String,
    pub why: String,
    /// The model that was live.
    pub from: ModelVersion,
    /// The model that becomes live.
    pub to: ModelVersion,
    /// The release of `to`.
    pub target: DeploymentId,
    /// The release that was served, where the ledger knows it.
    pub left: Option<DeploymentId>,
}

/// Where a rollback would lead now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackTarget {
    /// One is planned and not finished.
    UnderWay(Box<PlannedRollback>),
    To {
        from: ModelVersion,
        to: ModelVersion,
        release: DeploymentId,
    },
    /// There is nothing to go back to, and why.
    Nowhere(&'static str),
}

pub fn rollback_target(ledger: &Snapshot<'_>) -> rusqlite::Result<RollbackTarget> {
    if let Some(plan) = ledger.setting::<Option<PlannedRollback>>(ROLLBACK)?.flatten() {
        return Ok(RollbackTarget::UnderWay(Box::new(plan)));
    }
    let Some(from) = ledger.alias(Alias::Live)? else { return Ok(RollbackTarget::Nowhere("no model is live")) };
    let Some(to) = ledger.alias(Alias::Previous)? else {
        return Ok(RollbackTarget::Nowhere("there is no previous model to roll back to"));
    };
    Ok(match ledger.approved_deployment_of(to)? {
        Some(release) => RollbackTarget::To { from, to, release: release.id },
        None => RollbackTarget::Nowhere("there is no approved release of the previous model to roll back to"),
    })
}

/// Goes back to the previous model's approved release, after the plan is recorded; one that was planned
/// before is finished instead. Answers the plan that was carried out: it is kept until [`ForgetRollback`].
#[derive(Debug, Clone)]
pub struct RollBackToPrevious {
    pub by: String,
    pub why: String,
}

impl Request for RollBackToPrevious {
    type Stage = DeploymentStage;
    type Answer = PlannedRollback;

    async fn run(self, stage: &DeploymentStage) -> Result<PlannedRollback, StepFailure> {
        if let Some(done) = FinishRollback.run(stage).await? {
            return Ok(done);
        }
        let plan = stage.plan_rollback(self).await?;
        stage.env.ledger.set_setting(ROLLBACK, Some(plan.clone()), plan.at).await?;
        stage.carry_out(plan).await
    }
}

/// Finishes a rollback that was planned and not finished, if there is one.
#[derive(Debug, Clone)]
pub struct FinishRollback;

impl Request for FinishRollback {
    type Stage = DeploymentStage;
    type Answer = Option<PlannedRollback>;

    async fn run(self, stage: &DeploymentStage) -> Result<Option<PlannedRollback>, StepFailure> {
        match stage.env.ledger.setting::<Option<PlannedRollback>>(ROLLBACK).await?.flatten() {
            Some(plan) => stage.carry_out(plan).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Forgets a rollback whose release was verified: nothing of it is left to do.
#[derive(Debug, Clone)]
pub struct ForgetRollback;

impl Request for ForgetRollback {
    type Stage = DeploymentStage;
    type Answer = ();

    async fn run(self, stage: &DeploymentStage) -> Result<(), StepFailure> {
        Ok(stage.env.ledger.set_setting(ROLLBACK, None::<PlannedRollback>, stage.env.now()).await?)
    }
}

impl DeploymentStage {
    async fn plan_rollback(&self, request: RollBackToPrevious) -> Result<PlannedRollback, StepFailure> {
        let (from, to, target) = match self.env.ledger.read("reading where to roll back to", rollback_target).await? {
            RollbackTarget::To { from, to, release } => (from, to, release),
            RollbackTarget::UnderWay(plan) => return Ok(*plan),
            RollbackTarget::Nowhere(why) => return Err(StepFailure::new(ErrorKind::NotFound, why)),
        };
        let left = match self.env.cluster.current().await? {
            Some(current) if is_known(&self.env, &current).await? => Some(current.deployment),
            _ => None,
        };
        Ok(PlannedRollback { at: self.env.now(), by: request.by, why: request.why, from, to, target, left })
    }

    /// Every part is safe to repeat.
    async fn carry_out(&self, plan: PlannedRollback) -> Result<PlannedRollback, StepFailure> {
        let release = self.release_of(plan.target).await?;
        if let Err(failure) = self.apply(&release).await {
            return Err(self.after_failed_rollback(&plan, failure).await?);
        }
        let (now, done) = (self.env.now(), plan.clone());
        self.env
            .ledger
            .write_durably("moving the alias live back", move |tx| {
                // The model taken back is no place to return to: nothing is previous now.
                tx.rollback_alias(done.from, now)?;
                let approved = tx.deployments_of(done.from)?;
                let approved = approved.iter().filter(|one| one.state == DeploymentState::Approved).map(|one| one.id);
                for left in approved.chain(done.left.filter(|left| *left != done.target)) {
                    tx.set_deployment_state(left, DeploymentState::RolledBack, now)?;
                }
                Ok(())
            })
            .await?;
        tracing::warn!(model.version = %plan.to, requested_by = plan.by, "rolled back to the previous model");
        Ok(plan)
    }

    /// The failure as the person who asked reads it. While the cluster is unavailable, the rollback stays planned and
    /// the timer retries it; after any other failure it is given up, and the release being served stays.
    async fn after_failed_rollback(
        &self,
        plan: &PlannedRollback,
        failure: StepFailure,
    ) -> Result<StepFailure, StepFailure> {
        let to = plan.to;
        if matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::Interrupted) {
            let message = format!("the rollback to {to} is not finished and is retried automatically: {failure}");
            return Ok(StepFailure::new(failure.kind, message));
        }
        let now = self.env.now();
        let body = format!(
            "{} asked for it ({}). {failure}. {} stays live. Fix the cause and ask again, or `delayd retrain`.",
            plan.by, plan.why, plan.from
        );
        let alert = NewAlert {
            at: now,
            severity: Severity::Critical,
            dedup_key: format!("rollback-failed/{}", plan.at.timestamp_micros()),
            title: format!("the rollback to {to} failed"),
            body,
        };
        let given_up = self.env.ledger.write("giving a rollback up", move |tx| {
            tx.set_setting(ROLLBACK, None::<PlannedRollback>, now)?;
            tx.enqueue_alert(alert)
        });
        given_up.await?;
        Ok(StepFailure::new(failure.kind, format!("the rollback to {to} failed: {failure}")))
    }
}
