//! Retention: removes what is no longer needed: predictions and outcomes that no evaluation uses any
//! more, the monitor's old checks, layouts of images that were pushed, folders of
//! training runs. A timer of the daemon does it once a day, in small transactions;
//! repeating it removes nothing more.
//!
//! Never touched are datasets, models, bundles, decisions, drift reports, the audit
//! and everything else that lineage and a rollback need, nor what the live and the
//! previous model's retrains count from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

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

/// What was removed, in one run or so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Removed {
    /// Served predictions.
    pub predictions: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// The monitor's checks.
    pub metrics_windows: u64,
    /// Layouts of pushed images.
    pub packages: u64,
    /// Folders of training runs.
    pub run_folders: u64,
}

/// The time of the last run, and everything removed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRecord {
    pub at: DateTime<Utc>,
    /// What all runs removed.
    pub removed: Removed,
}

#[derive(Clone)]
pub struct Retention {
    pub env: Env,
    pub settings: Arc<Settings>,
}

impl Retention {
    /// Removes what is old; answers what it removed. After a failure what was removed before stays removed.
    pub async fn run(&self) -> Result<Removed, StepFailure> {
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
            "removed what is no longer needed"
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
            // A folder with another name is not ours.
            let Ok(model) = name.parse::<ModelVersion>() else { continue };
            if Some(model) != open && !self.env.ledger.images_of(model).await?.is_empty() {
                old.push(name);
            }
        }
        removed(root, old).await
    }

    /// Folders of runs whose cycle ended before `before`. What a run produced is a bundle by then, or nothing.
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

fn failed(error: &io::Error) -> StepFailure {
    StepFailure::new(ErrorKind::of_io(error), error.to_string())
}

async fn listed(root: PathBuf) -> Result<Vec<String>, StepFailure> {
    run_blocking(move || folders_in(&root)).await?.map_err(|error| failed(&error))
}

async fn removed(root: PathBuf, names: Vec<String>) -> Result<u64, StepFailure> {
    run_blocking(move || remove_folders(&root, &names)).await?.map_err(|error| failed(&error))
}

/// The folders directly in `root`, by name; none where `root` does not exist.
fn folders_in(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes folders of `root`; answers how many were there. The first failure is the
/// answer, after all were tried.
fn remove_folders(root: &Path, names: &[String]) -> io::Result<u64> {
    let mut removed = 0;
    let mut outcome = Ok(());
    for name in names {
        let folder = root.join(name);
        match fs::remove_dir_all(&folder) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!("removing {}: {error}", folder.display());
                outcome = outcome.and(Err(io::Error::new(error.kind(), text)));
            }
        }
    }
    outcome.map(|()| removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RetentionPolicy;
    use crate::testing::{FixedCluster, env, live_model};
    use delayd_core::clock::ReplayClock;
    use delayd_core::ids::{Digest, FlightKey};
    use delayd_core::ports::PushedImage;
    use delayd_judge::monitoring::settings::MonitoringSettings;
    use delayd_ledger::{CycleReason, ImageRecord, KnownOutcome, MetricsWindow, ServedPrediction};

    fn at(day: i64) -> DateTime<Utc> {
        "2013-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day)
    }

    fn flight(number: u32, day: i64) -> FlightKey {
        FlightKey {
            carrier: "AA".to_owned(),
            flight_number: number,
            origin: "JFK".to_owned(),
            dest: "LAX".to_owned(),
            scheduled_departure: at(day),
        }
    }

    /// A retention at day 200 of a ledger with a prediction and an outcome on each day.
    async fn retention(folder: &Path) -> Retention {
        let clock = Arc::new(ReplayClock::starting_at(at(200)));
        let env = env(folder, clock, Arc::new(FixedCluster::default()));
        let days = 0..200_i64;
        let predictions = days.clone().map(|day| ServedPrediction {
            replica: "a".to_owned(),
            seq: day.unsigned_abs(),
            flight: flight(1, day),
            prediction_time: at(day),
            score: 0.5,
            model: ModelVersion(1),
        });
        env.ledger.insert_predictions(predictions.collect()).await.unwrap();
        let outcomes = days.map(|day| KnownOutcome { flight: flight(1, day), delayed: false, known_at: at(day) });
        env.ledger.upsert_outcomes(outcomes.collect()).await.unwrap();
        let mut settings = Settings::default();
        settings.daemon.state_dir = folder.to_owned();
        Retention { env, settings: Arc::new(settings) }
    }

    #[tokio::test]
    async fn what_is_old_goes_and_what_monitoring_and_retraining_need_stays() {
        let folder = tempfile::tempdir().unwrap();
        let retention = retention(folder.path()).await;
        let ledger = &retention.env.ledger;
        live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(1), at(60)).await;
        let scored_before = ledger.scored_outcomes(at(186), at(200)).await.unwrap();
        let counts_before = ledger.outcome_counts(at(60)).await.unwrap();
        let removed = retention.run().await.unwrap();
        // 120 days are kept of predictions; outcomes since the live model was trained, which is longer ago.
        assert_eq!((removed.predictions, removed.outcomes), (80, 60));
        assert_eq!(ledger.scored_outcomes(at(186), at(200)).await.unwrap(), scored_before);
        assert_eq!(ledger.outcome_counts(at(60)).await.unwrap(), counts_before);
        assert_eq!(retention.run().await.unwrap(), Removed::default(), "a second run finds nothing");
        let record = ledger.setting::<RetentionRecord>(SETTING).await.unwrap().unwrap();
        assert_eq!((record.at, record.removed), (at(200), removed));
    }

    #[tokio::test]
    async fn without_a_live_model_every_outcome_counts_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let retention = retention(folder.path()).await;
        assert_eq!(retention.run().await.unwrap().outcomes, 0);
    }

    #[tokio::test]
    async fn of_the_monitors_checks_all_then_one_an_hour_then_one_a_day_stay() {
        let folder = tempfile::tempdir().unwrap();
        let retention = retention(folder.path()).await;
        let ledger = &retention.env.ledger;
        // Four checks an hour for a day: today, 20 days ago, 100 days ago.
        for day in [199, 180, 100] {
            for quarter in 0..96 {
                let at = at(day) + Duration::minutes(15 * quarter);
                let body = serde_json::json!({}).into();
                ledger.save_metrics_window(MetricsWindow { at, model: ModelVersion(1), body }).await.unwrap();
            }
        }
        assert_eq!(retention.run().await.unwrap().metrics_windows, 72 + 95);
        let kept = async |day| ledger.metrics_windows(at(day), at(day + 1)).await.unwrap();
        assert_eq!((kept(199).await.len(), kept(180).await.len()), (96, 24));
        let oldest = kept(100).await;
        assert_eq!((oldest.len(), oldest[0].at), (1, at(100) + Duration::minutes(15 * 95)), "a day's last check stays");
        assert_eq!(retention.run().await.unwrap().metrics_windows, 0);
    }

    #[tokio::test]
    async fn a_pushed_package_and_an_old_runs_folder_go_and_the_open_cycles_stay() {
        let folder = tempfile::tempdir().unwrap();
        let retention = retention(folder.path()).await;
        let ledger = &retention.env.ledger;
        live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(1), at(60)).await;
        live_model(folder.path(), ledger, &delayd_model::testing::tiny_bundle(2), at(190)).await;
        let open = ledger.begin_cycle(CycleReason::Scheduled, at(199)).await.unwrap();
        assert_eq!(open.model, ModelVersion(3));
        let image = PushedImage {
            reference: "delay-ml:model_v1".to_owned(),
            tag: "model_v1".to_owned(),
            digest: Digest::of(b"image"),
            size_bytes: 1,
            layers_pushed: 1,
            layers_reused: 0,
        };
        ledger.save_image(ImageRecord { image, model: ModelVersion(1), pushed_at: at(61) }).await.unwrap();
        let folders = ["packages/model_v1", "packages/model_v2", "packages/model_v3", "packages/notes"];
        let folders = folders.iter().chain(&["runs/run_1", "runs/run_2", "runs/run_3", "runs/elsewhere"]);
        for name in folders.clone() {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "x").unwrap();
        }
        let removed = retention.run().await.unwrap();
        assert_eq!((removed.packages, removed.run_folders), (1, 1));
        let gone: Vec<&&str> = folders.filter(|name| !folder.path().join(name).exists()).collect();
        // model_v2 was never pushed, run_2 is ten days old, model_v3 and run_3 are under way.
        assert_eq!(gone, [&"packages/model_v1", &"runs/run_1"]);
    }

    #[test]
    fn what_realised_performance_still_uses_cannot_be_configured_away() {
        let monitoring = MonitoringSettings::default();
        assert_eq!(RetentionPolicy::default().faults(&monitoring), Vec::<String>::new());
        let short = RetentionPolicy { predictions_days: 27, hourly_windows_days: 13, ..RetentionPolicy::default() };
        let faults = short.faults(&monitoring);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("28 or more"), "{faults:?}");
    }
}
