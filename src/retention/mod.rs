//! What grows is cut back: predictions and outcomes that no judgement looks at any
//! more, the monitor's looks, layouts of images that were pushed, folders of
//! training runs. A timer of the daemon does it once a day, in small transactions;
//! doing it again removes nothing more.
//!
//! Never touched are datasets, models, bundles, decisions, drift reports, the audit
//! and everything else that lineage and a rollback need, nor what the live and the
//! previous model's retrains count from.

mod folders;

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::env::Env;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{ModelVersion, RunId};
use delayd_ledger::Alias;

/// Name under which the ledger keeps what was removed.
pub(crate) const SETTING: &str = "retention";

/// What was removed, at one turn or so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Removed {
    /// Served predictions.
    pub predictions: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// The monitor's looks.
    pub metrics_windows: u64,
    /// Layouts of pushed images.
    pub packages: u64,
    /// Folders of training runs.
    pub run_folders: u64,
}

/// What is kept of the turns: the last one's time, and everything removed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRecord {
    /// When the last turn was.
    pub at: DateTime<Utc>,
    /// What all turns removed.
    pub removed: Removed,
}

/// The work of the timer.
#[derive(Clone)]
pub struct Retention {
    /// Clock and ledger.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
}

impl Retention {
    /// Removes what is old; answers what it removed.
    ///
    /// # Errors
    /// When the ledger or a folder fails; what was removed before stays removed.
    pub async fn turn(&self) -> Result<Removed, StepFailure> {
        let (now, policy) = (self.env.now(), &self.settings.retention);
        let days = |days: u32| Duration::days(i64::from(days));
        let predictions_before = now - days(policy.predictions_days);
        let predictions = self.env.ledger.prune_predictions(predictions_before).await?;
        let outcomes = match self.outcomes_needed_from().await? {
            Some(needed) => self.env.ledger.prune_outcomes(needed.min(predictions_before), now).await?,
            None => 0,
        };
        let full = now - days(policy.full_windows_days);
        let hourly = now - days(policy.hourly_windows_days);
        let metrics_windows = self.env.ledger.thin_metrics_windows(full, Duration::hours(1)).await?
            + self.env.ledger.thin_metrics_windows(hourly, Duration::days(1)).await?;
        let removed = Removed {
            predictions,
            outcomes,
            metrics_windows,
            packages: self.packages().await?,
            run_folders: self.run_folders(now - days(policy.run_folders_days)).await?,
        };
        self.note(removed, now).await?;
        tracing::info!(
            removed.predictions,
            removed.outcomes,
            removed.metrics_windows,
            removed.packages,
            removed.run_folders,
            "what is no longer needed was removed"
        );
        Ok(removed)
    }

    /// From when on outcomes are counted as new since a model was trained: the live
    /// model's, and that of the one to which a rollback would return. `None` while
    /// no model is live: then all count.
    async fn outcomes_needed_from(&self) -> Result<Option<DateTime<Utc>>, StepFailure> {
        let ledger = &self.env.ledger;
        let mut needed: Option<DateTime<Utc>> = None;
        for alias in [Alias::Live, Alias::Previous] {
            let Some(model) = ledger.model_by_alias(alias).await? else {
                if alias == Alias::Live {
                    return Ok(None);
                }
                continue;
            };
            let trained = ledger.cycle(model.cycle).await?.map_or(model.registered_at, |cycle| cycle.started_at);
            needed = Some(needed.map_or(trained, |earlier| earlier.min(trained)));
        }
        Ok(needed)
    }

    /// Layouts whose image is in the registry. The open cycle's stays: its steps may be repeated.
    async fn packages(&self) -> Result<u64, StepFailure> {
        if !self.settings.retention.remove_pushed_packages {
            return Ok(0);
        }
        let root = self.settings.daemon.state_dir.join("packages");
        let open = self.env.ledger.open_cycle().await?.map(|cycle| cycle.model);
        let mut old = Vec::new();
        for name in listed(root.clone()).await? {
            // A folder with another name is none of ours.
            let Ok(model) = name.parse::<ModelVersion>() else { continue };
            if Some(model) != open && !self.env.ledger.images_of(model).await?.is_empty() {
                old.push(name);
            }
        }
        removed(root, old).await
    }

    /// Folders of runs whose cycle ended before `before`. What a run brought is a bundle by then, or nothing.
    async fn run_folders(&self, before: DateTime<Utc>) -> Result<u64, StepFailure> {
        let root = self.settings.daemon.state_dir.join("runs");
        let mut old = Vec::new();
        for name in listed(root.clone()).await? {
            let Ok(id) = name.parse::<RunId>() else { continue };
            let Some(run) = self.env.ledger.run(id).await? else { continue };
            let cycle = self.env.ledger.cycle(run.cycle).await?;
            if cycle.and_then(|cycle| cycle.finished_at).is_some_and(|at| at < before) {
                old.push(name);
            }
        }
        removed(root, old).await
    }

    async fn note(&self, removed: Removed, now: DateTime<Utc>) -> Result<(), StepFailure> {
        let mut record = self.env.ledger.setting::<RetentionRecord>(SETTING).await?.unwrap_or_default();
        record.at = now;
        let all = &mut record.removed;
        all.predictions += removed.predictions;
        all.outcomes += removed.outcomes;
        all.metrics_windows += removed.metrics_windows;
        all.packages += removed.packages;
        all.run_folders += removed.run_folders;
        Ok(self.env.ledger.set_setting(SETTING, record, now).await?)
    }
}

fn failed(error: &std::io::Error) -> StepFailure {
    StepFailure::new(ErrorKind::of_io(error), error.to_string())
}

async fn listed(root: PathBuf) -> Result<Vec<String>, StepFailure> {
    run_blocking(move || folders::names(&root)).await?.map_err(|error| failed(&error))
}

async fn removed(root: PathBuf, names: Vec<String>) -> Result<u64, StepFailure> {
    run_blocking(move || folders::remove(&root, &names)).await?.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests;
