//! What the API answers where a record of the ledger alone would not do. The command
//! line makes the same documents from the ledger when no daemon answers.

use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, TraceId};
use delayd_core::ports::ReferenceKind;
use delayd_ledger::{
    BuildRecord, Cycle, DatasetWeather, Decision, Ledger, LedgerError, Page, ReferenceVersion, RefusedDataset, Run,
    Step, VerificationRecord,
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
