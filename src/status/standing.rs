//! Where a model or a release stands now: its own record says only what became of it then.

use serde::{Deserialize, Serialize};

use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_ledger::{
    CycleOutcome, Deployment, DeploymentState, Ledger, LedgerError, Model, Page, Snapshot, VerificationRecord,
};

/// A model in `GET /api/v1/models`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ListedModel {
    #[serde(flatten)]
    pub model: Model,
    /// The aliases that point at it; without any, what became of it: `rolled_back`, how its cycle ended, or
    /// `served_before`. Empty while its cycle is open.
    #[serde(default)]
    pub standing: Vec<String>,
}

impl ListedModel {
    /// One model; `None` where there is none.
    pub async fn read(ledger: &Ledger, version: ModelVersion) -> Result<Option<Self>, LedgerError> {
        let read = move |ledger: &Snapshot<'_>| ledger.model(version)?.map(|model| Self::of(ledger, model)).transpose();
        ledger.read("reading a model and its standing", read).await
    }

    /// Models, newest first.
    pub async fn list(ledger: &Ledger, page: Page) -> Result<Vec<Self>, LedgerError> {
        let read = move |ledger: &Snapshot<'_>| {
            ledger.models(page)?.into_iter().map(|model| Self::of(ledger, model)).collect()
        };
        ledger.read("listing models and their standing", read).await
    }

    fn of(ledger: &Snapshot<'_>, model: Model) -> rusqlite::Result<Self> {
        let aliases = ledger.aliases()?;
        let names: Vec<String> =
            aliases.iter().filter(|alias| alias.model == model.version).map(|alias| alias.alias.to_string()).collect();
        let standing = if names.is_empty() { became(ledger, &model)?.into_iter().collect() } else { names };
        Ok(Self { model, standing })
    }
}

/// What became of a model that no alias points at.
fn became(ledger: &Snapshot<'_>, model: &Model) -> rusqlite::Result<Option<String>> {
    let released = ledger.deployments_of(model.version)?.into_iter().max_by_key(|release| release.id);
    let ended = ledger.cycle(model.cycle)?.and_then(|cycle| cycle.outcome);
    Ok(match (released.map(|release| release.state), ended) {
        (Some(DeploymentState::RolledBack), _) => Some(DeploymentState::RolledBack.to_string()),
        (_, Some(outcome)) if outcome != CycleOutcome::Deployed => Some(outcome.to_string()),
        (Some(DeploymentState::Approved), _) => Some("served_before".to_owned()),
        _ => None,
    })
}

/// A release in `GET /api/v1/deployments`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ListedDeployment {
    #[serde(flatten)]
    pub deployment: Deployment,
    /// `serving` for the release that clients are answered by, `superseded` for one that was approved before it, else
    /// its state.
    #[serde(default)]
    pub standing: String,
}

/// Where releases stand: what the cluster serves now, or where it cannot be asked what was approved last.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    serving: Option<DeploymentId>,
    approved: Option<DeploymentId>,
}

impl Newest {
    fn standing(self, deployment: &Deployment) -> String {
        let id = Some(deployment.id);
        match deployment.state {
            _ if self.serving == id => "serving".to_owned(),
            DeploymentState::Approved if self.serving.is_some() || self.approved != id => "superseded".to_owned(),
            other => other.to_string(),
        }
    }
}

impl ListedDeployment {
    /// Releases, newest first. `serving` is what the cluster serves, where it can be asked.
    pub async fn list(ledger: &Ledger, page: Page, serving: Option<DeploymentId>) -> Result<Vec<Self>, LedgerError> {
        let read = move |ledger: &Snapshot<'_>| {
            let newest = Newest { serving, approved: ledger.approved_deployment()?.map(|approved| approved.id) };
            let found = ledger.deployments(page)?.into_iter();
            Ok(found.map(|deployment| Self { standing: newest.standing(&deployment), deployment }).collect())
        };
        ledger.read("listing releases and their standing", read).await
    }
}

/// `GET /api/v1/deployments/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeploymentDocument {
    /// The deployment.
    pub deployment: Deployment,
    /// Where it stands now, as in the list.
    #[serde(default)]
    pub standing: String,
    /// How it was verified, newest last.
    pub verifications: Vec<VerificationRecord>,
}

impl DeploymentDocument {
    /// Everything about a deployment; `None` where there is none.
    pub async fn read(
        ledger: &Ledger,
        id: DeploymentId,
        serving: Option<DeploymentId>,
    ) -> Result<Option<Self>, LedgerError> {
        let read = move |ledger: &Snapshot<'_>| {
            let Some(deployment) = ledger.deployment(id)? else { return Ok(None) };
            let newest = Newest { serving, approved: ledger.approved_deployment()?.map(|approved| approved.id) };
            let standing = newest.standing(&deployment);
            Ok(Some(Self { standing, deployment, verifications: ledger.verifications_of(id)? }))
        };
        ledger.read("reading a release", read).await
    }
}
