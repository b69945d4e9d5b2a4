//! Releases to the cluster, and what verifying them found.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Json, text_enum};
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use super::refuse;
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, DeploymentId, ModelVersion};
use delayd_core::ports::Release;

text_enum! {
    /// Where a deployment is.
    DeploymentState {
        /// It is being rolled out.
        Applying = "applying",
        /// The cluster runs it.
        Applied = "applied",
        /// Its verification passed.
        Verified = "verified",
        /// It is the one to serve.
        Approved = "approved",
        /// It was taken back.
        RolledBack = "rolled_back",
        /// It never became ready, or its verification failed.
        Failed = "failed",
    }
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deployment {
    /// Its identity, minted with the cycle, or on its own for a rollback asked for by a person.
    pub id: DeploymentId,
    /// The cycle, where there is one.
    pub cycle: Option<CycleId>,
    /// The model it serves.
    pub model: ModelVersion,
    /// All of it, to apply again.
    pub release: Release,
    /// Where it is.
    pub state: DeploymentState,
    /// The deployment that served before, and to which a rollback goes.
    pub previous: Option<DeploymentId>,
    /// When it was applied first.
    pub created_at: DateTime<Utc>,
    /// When its state changed last.
    pub changed_at: DateTime<Utc>,
}

impl Deployment {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            cycle: row.get("cycle")?,
            model: row.get("model")?,
            release: row.get::<_, Json<_>>("release")?.0,
            state: row.get("state")?,
            previous: row.get("previous")?,
            created_at: row.get::<_, At>("created_at")?.0,
            changed_at: row.get::<_, At>("changed_at")?.0,
        })
    }
}

/// What verifying a deployment found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerificationRecord {
    /// The deployment.
    pub deployment: DeploymentId,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it may serve.
    pub passed: bool,
    /// Every check with its numbers.
    pub report: Document,
}

impl VerificationRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            deployment: row.get("deployment")?,
            at: row.get::<_, At>("at")?.0,
            passed: row.get("passed")?,
            report: row.get("report")?,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a deployment. The same one again changes nothing; the same id with
    /// another release is refused.
    pub fn insert_deployment(&self, deployment: Deployment) -> W::Answer<()> {
        self.write("noting a deployment", move |tx| {
            if let Some(existing) = tx.deployment(deployment.id)? {
                if existing.release == deployment.release {
                    return Ok(());
                }
                let message =
                    format!("{} is the release of {}; another release needs its own id", existing.id, existing.model);
                return Err(refuse(ErrorKind::Conflict, message));
            }
            tx.execute(
                "INSERT INTO deployments (id, cycle, model, release, state, previous, created_at, changed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    deployment.id,
                    deployment.cycle,
                    deployment.model,
                    Json(&deployment.release),
                    deployment.state,
                    deployment.previous,
                    At(deployment.created_at),
                    At(deployment.changed_at)
                ],
            )?;
            Ok(())
        })
    }

    /// Moves a deployment to a state; the state it has already changes nothing.
    pub fn set_deployment_state(&self, id: DeploymentId, state: DeploymentState, at: DateTime<Utc>) -> W::Answer<()> {
        self.write("changing a deployment's state", move |tx| {
            let Some(existing) = tx.deployment(id)? else {
                return Err(refuse(ErrorKind::NotFound, format!("there is no {id}")));
            };
            if existing.state != state {
                tx.execute(
                    "UPDATE deployments SET state = ?2, changed_at = ?3 WHERE id = ?1",
                    params![id, state, At(at)],
                )?;
            }
            Ok(())
        })
    }

    /// Notes a verification; the same deployment and moment again changes nothing.
    pub fn insert_verification(&self, record: VerificationRecord) -> W::Answer<()> {
        self.write("noting a verification", move |tx| {
            tx.execute(
                "INSERT INTO verifications (deployment, at, passed, report) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (deployment, at) DO NOTHING",
                params![record.deployment, At(record.at), record.passed, record.report],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// One deployment.
    pub fn deployment(&self, id: DeploymentId) -> R::Answer<Option<Deployment>> {
        self.read("reading a deployment", move |connection| {
            query::one(connection, "SELECT * FROM deployments WHERE id = ?1", [id], Deployment::from_row)
        })
    }

    /// The newest deployment that was approved and not taken back: what serves, or should.
    pub fn approved_deployment(&self) -> R::Answer<Option<Deployment>> {
        let sql = "SELECT * FROM deployments WHERE state = 'approved' ORDER BY changed_at DESC, id DESC LIMIT 1";
        self.read("reading the approved deployment", move |c| query::one(c, sql, [], Deployment::from_row))
    }

    /// A model's newest deployment that was approved and not taken back.
    pub fn approved_deployment_of(&self, model: ModelVersion) -> R::Answer<Option<Deployment>> {
        self.read("reading a model's deployment", move |connection| {
            let sql = "SELECT * FROM deployments WHERE state = 'approved' AND model = ?1 ORDER BY id DESC LIMIT 1";
            query::one(connection, sql, [model], Deployment::from_row)
        })
    }

    /// A model's deployments, oldest first.
    pub fn deployments_of(&self, model: ModelVersion) -> R::Answer<Vec<Deployment>> {
        let sql = "SELECT * FROM deployments WHERE model = ?1 ORDER BY id";
        self.read("reading a model's deployments", move |c| query::all(c, sql, [model], Deployment::from_row))
    }

    /// Deployments, newest first.
    pub fn deployments(&self, page: Page) -> R::Answer<Vec<Deployment>> {
        self.read("listing deployments", move |c| query::page(c, "deployments", "id DESC", page, Deployment::from_row))
    }

    /// Verifications, newest first.
    pub fn verifications(&self, page: Page) -> R::Answer<Vec<VerificationRecord>> {
        self.read("reading verifications", move |c| {
            query::page(c, "verifications", "at DESC, deployment DESC", page, VerificationRecord::from_row)
        })
    }

    /// A deployment's verifications, newest first.
    pub fn verifications_of(&self, id: DeploymentId) -> R::Answer<Vec<VerificationRecord>> {
        let sql = "SELECT * FROM verifications WHERE deployment = ?1 ORDER BY at DESC";
        self.read("reading verifications", move |c| query::all(c, sql, [id], VerificationRecord::from_row))
    }
}
