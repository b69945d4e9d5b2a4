//! Whether the live model is being served: the cluster's release against the
//! ledger's alias. It only compares; alerting is [`super::reconcile`]'s part, and the status and the metrics show it.

use serde::{Deserialize, Serialize};

use super::rollback::{RollbackTarget, rollback_target};
use crate::env::Env;
use delayd_core::failure::StepFailure;
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_core::ports::Release;
use delayd_ledger::{Alias, LedgerError, Model};

/// The live model, and whether the cluster serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LiveService {
    /// The model that the ledger has as live.
    pub live: ModelVersion,
    /// Whether the cluster's release is of this model.
    pub served: bool,
    /// In words, and what can be done where it is not served.
    pub text: String,
}

/// What should be served according to the ledger.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    live: Model,
    /// The model to which `delayd rollback` leads, if it can.
    rollback_to: Option<ModelVersion>,
}

/// Whether the ledger knows the deployment that a cluster serves: its name, with the same bundle and image.
pub(super) async fn is_known(env: &Env, current: &Release) -> Result<bool, LedgerError> {
    let known = env.ledger.deployment(current.deployment).await?;
    Ok(known.is_some_and(|known| {
        let release = known.release;
        release.model == current.model && release.bundle == current.bundle && release.image == current.image
    }))
}

/// Compares the cluster's release with the live model. `None` where nothing can be said: no model is live, a cycle
/// is open (its release may serve before its model is live), a rollback is under way, or the ledger changed meanwhile.
pub async fn live_service(env: &Env) -> Result<Option<LiveService>, StepFailure> {
    let Some(before) = expected(env).await? else { return Ok(None) };
    let current = env.cluster.current().await?;
    let known = match &current {
        Some(current) => is_known(env, current).await?,
        None => false,
    };
    // Cluster and ledger are not read at one moment.
    if expected(env).await?.as_ref() != Some(&before) {
        return Ok(None);
    }
    Ok(Some(compare(&before, current.as_ref(), known)))
}

/// What the cluster serves in place of `deployment`, in words; `None` while it serves that one.
pub async fn served_instead_of(env: &Env, deployment: DeploymentId) -> Result<Option<String>, StepFailure> {
    Ok(match env.cluster.current().await? {
        Some(current) if current.deployment == deployment => None,
        Some(current) => Some(format!("{} of {}", current.deployment, current.model)),
        None => Some("nothing".to_owned()),
    })
}

async fn expected(env: &Env) -> Result<Option<Expected>, LedgerError> {
    env.ledger
        .read("reading what should serve", |snapshot| {
            let rollback_to = match rollback_target(snapshot)? {
                RollbackTarget::UnderWay(_) => return Ok(None),
                RollbackTarget::To { to, .. } => Some(to),
                RollbackTarget::Nowhere(_) => None,
            };
            if snapshot.open_cycle()?.is_some() {
                return Ok(None);
            }
            let Some(live) = snapshot.alias(Alias::Live)? else { return Ok(None) };
            let Some(live) = snapshot.model(live)? else { return Ok(None) };
            Ok(Some(Expected { live, rollback_to }))
        })
        .await
}

fn compare(expected: &Expected, current: Option<&Release>, known: bool) -> LiveService {
    let live = expected.live.version;
    let served = current.is_some_and(|current| current.model == live && current.bundle == expected.live.bundle);
    if served {
        return LiveService { live, served, text: format!("{live} is live, and the cluster serves it") };
    }
    let serves = match current {
        None => "the cluster serves nothing".to_owned(),
        Some(other) if known => format!("the cluster serves {} of {}", other.deployment, other.model),
        Some(other) => format!(
            "the cluster serves {} of {} (bundle {}), a deployment unknown to this ledger. Was an older backup restored, \
             or does someone else deploy here?",
            other.deployment, other.model, other.bundle
        ),
    };
    let end = if serves.ends_with('?') { "" } else { "." };
    let back =
        expected.rollback_to.map(|to| format!("`delayd rollback` brings {to} back as a whole; ")).unwrap_or_default();
    let text =
        format!("{live} is live but not being served: {serves}{end} {back}`delayd retrain` deploys a new model.");
    LiveService { live, served, text }
}
