//! Verifying a release that serves again: what was gone back to is judged like what was new.
//!
//! It decides nothing: there is nothing further back to go to. A release that fails
//! raises an alert at once, and keeps serving.

use super::steps::CycleContext;
use crate::stages::verify::VerifyDeployment;
use delayd_core::error::ErrorKind;
use delayd_core::failure::StepFailure;
use delayd_core::ids::DeploymentId;
use delayd_core::ports::Severity;
use delayd_ledger::{Cycle, Deployment, LedgerError, Model};

pub(super) struct RestoredVerified {
    /// Whether every check passed.
    pub(super) passed: bool,
    /// One sentence: what serves again, and how it was found.
    pub(super) text: String,
}

/// Verifies a deployment that serves again; its record goes to the ledger like every other. One that fails, or
/// that cannot be verified, raises a critical alert. `after` names what was undone, the same in all repetitions.
pub(super) async fn verify_restored(
    context: &CycleContext,
    deployment: DeploymentId,
    after: &str,
) -> Result<RestoredVerified, StepFailure> {
    let Some((record, model, made)) = known(context, deployment).await? else {
        return Err(StepFailure::new(
            ErrorKind::NotFound,
            format!("{deployment} serves again, but it or its model is not in the ledger"),
        ));
    };
    let message = VerifyDeployment {
        deployment,
        model: model.version,
        bundle: record.release.bundle.clone(),
        dataset: model.dataset,
        as_of: made.started_at,
        restored: true,
    };
    let version = model.version;
    let (passed, found) = match context.stages.verification.ask(message).await {
        Ok(answer) if answer.passed => (true, format!("it passed verification: {}", answer.reason)),
        Ok(answer) => (false, format!("it fails verification: {}", answer.reason)),
        Err(failure) => (false, format!("it could not be verified: {failure}")),
    };
    let text = format!("{version} ({deployment}) serves again, and {found}");
    if passed {
        tracing::info!(deployment.id = %deployment, model.version = %version, "{text}");
    } else {
        let body = format!(
            "After {after}: {text}. It keeps serving: there is no earlier release to go back to automatically. \
             `delayd deployments {deployment}` lists every check; `delayd retrain` makes a new release."
        );
        let title = format!("{version} serves again but fails its verification");
        context.env.alert(Severity::Critical, format!("restored/{deployment}/{after}"), title, body).await?;
    }
    Ok(RestoredVerified { passed, text })
}

async fn known(
    context: &CycleContext,
    deployment: DeploymentId,
) -> Result<Option<(Deployment, Model, Cycle)>, LedgerError> {
    let ledger = &context.env.ledger;
    let Some(record) = ledger.deployment(deployment).await? else { return Ok(None) };
    let Some(model) = ledger.model(record.model).await? else { return Ok(None) };
    let Some(cycle) = ledger.cycle(model.cycle).await? else { return Ok(None) };
    Ok(Some((record, model, cycle)))
}
