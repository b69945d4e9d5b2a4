//! What the API answers where a record of the ledger alone would not do. The command
//! line makes the same documents from the ledger when no daemon answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::IngestionSettings;
use crate::replay::ReplaySpan;
use crate::stages::live_service::LiveService;
use crate::supervision::ActorStatus;
use delayd_core::ids::{CycleId, DeploymentId, TraceId};
use delayd_core::ports::ReferenceKind;
use delayd_core::ports::Replica;
use delayd_judge::decide::OperatorWord;
use delayd_ledger::{
    Alias, AliasRecord, BuildRecord, Cycle, DatasetWeather, Decision, Deployment, Ledger, LedgerError, ObjectStatus,
    Page, ReferenceVersion, RefusedDataset, Run, Step, VerificationRecord,
};

/// A part of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Listed<T> {
    /// The entries.
    pub items: Vec<T>,
    /// The `offset` of what follows; null at the end of the list.
    pub next_offset: Option<u64>,
}

impl<T> Listed<T> {
    /// A page that asks for one entry more, which tells whether there are more.
    #[must_use]
    pub fn ask(page: Page) -> Page {
        Page { limit: page.limit.saturating_add(1), ..page }
    }

    /// The page's part of what [`Listed::ask`] gave.
    #[must_use]
    pub fn of(page: Page, mut items: Vec<T>) -> Self {
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let next_offset = (items.len() > limit).then(|| page.offset.saturating_add(page.limit));
        items.truncate(limit);
        Self { items, next_offset }
    }
}

/// `GET /api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusDocument {
    /// Version of the daemon.
    pub version: String,
    /// The daemon's clock.
    pub now: DateTime<Utc>,
    /// Where the inference service is reached.
    pub service_url: String,
    /// `live`, `previous` and `candidate`.
    pub aliases: Vec<AliasRecord>,
    /// What has to be there before a first model can be trained, in words; empty where nothing is missing.
    #[serde(default)]
    pub waits_for: Vec<String>,
    /// The cycle under way or the last one.
    pub cycle: Option<Cycle>,
    /// Who paused the loop, and why; null while it is not paused.
    pub paused: Option<OperatorWord>,
    /// The time that is replayed; null for a daemon that lives in the present.
    #[serde(default)]
    pub replay: Option<ReplaySpan>,
    /// Whether the live model is what serves; null where that cannot be said: without a live model, while a cycle is
    /// open (its release serves before its model is live) or a rollback under way, or while the cluster is away.
    #[serde(default)]
    pub live_service: Option<LiveService>,
    /// The copies of the service; empty where the cluster cannot tell.
    pub replicas: Vec<Replica>,
    /// Why the cluster cannot tell them; null when it can.
    pub replicas_unknown: Option<String>,
    /// The daemon's actors.
    pub actors: Vec<ActorStatus>,
}

impl StatusDocument {
    /// What has to be there before a first model can be trained; nothing where a model is live.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn waits_for(ledger: &Ledger, ingestion: &IngestionSettings) -> Result<Vec<String>, LedgerError> {
        if ledger.aliases().await?.iter().any(|alias| alias.alias == Alias::Live) {
            return Ok(Vec::new());
        }
        let mut missing = Vec::new();
        if ledger.newest_reference(ReferenceKind::Airports).await?.is_none() {
            let key = &ingestion.airports_key;
            missing.push(if ingestion.airports_url.is_set() {
                format!("no airports yet: {key} could not be fetched by ingestion.airports_url so far")
            } else {
                format!("no airports yet: {key} is not in the object store, or cannot be read")
            });
        }
        if ledger.objects(Some(ObjectStatus::Ingested), Page::newest(1)).await?.is_empty() {
            let prefix = &ingestion.flights_prefix;
            missing.push(if ledger.objects(None, Page::newest(1)).await?.is_empty() {
                format!("no flights yet: nothing was taken in from {prefix} in the object store")
            } else {
                format!("no flights yet: every log under {prefix} was refused so far; `delayd objects` says why")
            });
        }
        Ok(missing)
    }
}

/// `GET /api/v1/cycles/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CycleDocument {
    /// The cycle.
    pub cycle: Cycle,
    /// Its trace in the logs, as W3C Trace Context has it.
    pub trace_id: TraceId,
    /// Its steps, in their order.
    pub steps: Vec<Step>,
    /// What was decided in it.
    pub decisions: Vec<Decision>,
    /// Its training run, once it began.
    pub run: Option<Run>,
    /// How its release was verified.
    pub verifications: Vec<VerificationRecord>,
    /// How the service was built, where it was built from its source.
    pub build: Option<BuildRecord>,
    /// What was found in its dataset, where that broke the contract.
    #[serde(default)]
    pub refused_dataset: Option<RefusedDataset>,
}

impl CycleDocument {
    /// Everything about a cycle; `None` where there is none.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn read(ledger: &Ledger, id: CycleId) -> Result<Option<Self>, LedgerError> {
        let Some(cycle) = ledger.cycle(id).await? else { return Ok(None) };
        Ok(Some(Self {
            steps: ledger.steps_of(id).await?,
            decisions: ledger.decisions_of(id).await?,
            run: ledger.run(cycle.run).await?,
            verifications: ledger.verifications_of(cycle.deployment).await?,
            build: ledger.build_of(id).await?,
            refused_dataset: ledger.refused_dataset(id).await?,
            trace_id: cycle.trace_id(),
            cycle,
        }))
    }
}

/// `GET /api/v1/deployments/{id}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeploymentDocument {
    /// The deployment.
    pub deployment: Deployment,
    /// How it was verified, newest last.
    pub verifications: Vec<VerificationRecord>,
}

impl DeploymentDocument {
    /// Everything about a deployment; `None` where there is none.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn read(ledger: &Ledger, id: DeploymentId) -> Result<Option<Self>, LedgerError> {
        let Some(deployment) = ledger.deployment(id).await? else { return Ok(None) };
        Ok(Some(Self { deployment, verifications: ledger.verifications_of(id).await? }))
    }
}

/// `GET /api/v1/reference`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReferenceDocument {
    /// What counts now, the newest version of each kind.
    pub current: Vec<ReferenceVersion>,
    /// Every version, newest first, with what changed.
    pub versions: Vec<ReferenceVersion>,
    /// How much of the weather datasets had, newest first.
    pub weather: Vec<DatasetWeather>,
}

impl ReferenceDocument {
    /// Airports, holidays and events with their changes, and the weather of datasets.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn read(ledger: &Ledger, page: Page) -> Result<Self, LedgerError> {
        let mut current = Vec::new();
        for kind in [ReferenceKind::Airports, ReferenceKind::Holidays, ReferenceKind::Events] {
            current.extend(ledger.newest_reference(kind).await?);
        }
        let versions = ledger.reference_versions(page).await?;
        Ok(Self { current, versions, weather: ledger.dataset_weather(page).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_where_the_next_one_begins_and_the_last_one_that_it_is_the_last() {
        let all: Vec<u64> = (0..7).collect();
        let ask = |offset: u64| {
            let page = Page { offset, limit: 3 };
            let wanted = Listed::<u64>::ask(page);
            let found = all.iter().skip(wanted.offset as usize).take(wanted.limit as usize).copied().collect();
            let listed = Listed::of(page, found);
            (listed.items.len(), listed.next_offset)
        };
        assert_eq!([ask(0), ask(3), ask(6), ask(9)], [(3, Some(3)), (3, Some(6)), (1, None), (0, None)]);
    }
}
