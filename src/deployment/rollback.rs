//! An administrator's rollback: the previous model becomes live again, as a whole release.
//!
//! What is to be done is kept in the ledger before the cluster is touched, so that a daemon that dies in between
//! finishes it at its next start: the model that serves and the model that is said to be live are then the same again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::messages::RollBackToPrevious;
use super::serving;
use super::stage::DeploymentStage;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_core::ports::Severity;
use delayd_ledger::{Alias, DeploymentState, NewAlert};

/// The name under which the ledger keeps a rollback that is not finished.
pub(super) const ROLLBACK: &str = "rollback";

/// A rollback that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedRollback {
    /// When it was asked for.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: String,
    /// Why.
    pub why: String,
    /// The model that was live.
    pub from: ModelVersion,
    /// The model to be live.
    pub to: ModelVersion,
    /// Its release.
    pub target: DeploymentId,
    /// The release that served, where the ledger knows it.
    pub left: Option<DeploymentId>,
}

/// The previous release serves, and its model is live. The plan is kept until the release was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// What was planned and done.
    pub plan: PlannedRollback,
}

impl DeploymentStage {
    /// Plans a rollback and does it; one that was planned before is finished instead.
    pub(super) async fn roll_back(&self, message: RollBackToPrevious) -> Result<RolledBack, StepFailure> {
        if let Some(done) = self.finish_rollback().await? {
            return Ok(done);
        }
        let plan = self.plan(message).await?;
        self.env.ledger.set_setting(ROLLBACK, Some(plan.clone()), plan.at).await?;
        self.carry_out(plan).await
    }

    /// Finishes a rollback that was planned and not finished.
    pub(super) async fn finish_rollback(&self) -> Result<Option<RolledBack>, StepFailure> {
        match self.env.ledger.setting::<Option<PlannedRollback>>(ROLLBACK).await?.flatten() {
            Some(plan) => self.carry_out(plan).await.map(Some),
            None => Ok(None),
        }
    }

    async fn plan(&self, message: RollBackToPrevious) -> Result<PlannedRollback, StepFailure> {
        let nothing = |what: &str| StepFailure::new(ErrorKind::NotFound, format!("there is no {what} to roll back to"));
        let ledger = &self.env.ledger;
        let to = ledger.model_by_alias(Alias::Previous).await?.ok_or_else(|| nothing("previous model"))?.version;
        let target = ledger.approved_deployment_of(to).await?;
        let target = target.ok_or_else(|| nothing("approved release of the previous model"))?.id;
        let live = ledger.model_by_alias(Alias::Live).await?;
        let from = live.ok_or_else(|| StepFailure::new(ErrorKind::NotFound, "no model is live"))?.version;
        let left = match self.env.cluster.current().await? {
            Some(current) if serving::is_known(&self.env, &current).await? => Some(current.deployment),
            _ => None,
        };
        Ok(PlannedRollback { at: self.env.now(), by: message.by, why: message.why, from, to, target, left })
    }

    /// Every part is safe to repeat.
    async fn carry_out(&self, plan: PlannedRollback) -> Result<RolledBack, StepFailure> {
        let release = self.release_of(plan.target).await?;
        if let Err(failure) = self.apply(&release).await {
            return Err(self.given_up(&plan, failure).await?);
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
        Ok(RolledBack { plan })
    }

    /// The failure as the one who asked is to read it. While the cluster is away, the rollback stays planned and is
    /// tried again by the timer; for every other reason it is given up, and the release that served serves on.
    async fn given_up(&self, plan: &PlannedRollback, failure: StepFailure) -> Result<StepFailure, StepFailure> {
        let to = plan.to;
        if matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::Interrupted) {
            let message = format!("the rollback to {to} is not finished and goes on by itself: {failure}");
            return Ok(StepFailure::new(failure.kind, message));
        }
        let now = self.env.now();
        let body = format!(
            "{} asked for it ({}). {failure}. {} stays live. Repair the cause and ask again, or `delayd retrain`.",
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

    /// Forgets a rollback whose release was verified.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(super) async fn rollback_verified(&self) -> Result<(), StepFailure> {
        Ok(self.env.ledger.set_setting(ROLLBACK, None::<PlannedRollback>, self.env.now()).await?)
    }
}
