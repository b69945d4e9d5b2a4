//! Making the dataset of a cycle from canonical parts, and giving it to those who train and judge.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::ingest::DataStage;
use crate::supervision::Request;
use delayd_core::document::Document;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, Digest};
use delayd_core::ports::{Severity, WeatherObservation};
use delayd_data::assemble;
use delayd_data::dataset::{BuiltDataset, DatasetManifest, DatasetWindow, build_dataset, load_manifest, store_dataset};
use delayd_data::frozen::{freeze, frozen_inputs};
use delayd_data::parts::{self, Part, SourceJudge, store_part};
use delayd_data::sources::{SourceVersion, keep_copy, read_source};
use delayd_data::training_sets::{Surroundings, Timing, TrainingSet, load_training_set, surroundings};
use delayd_data::validation::{LeftOutSource, ValidationReport};
use delayd_data::weather::WeatherHistory;
use delayd_data::weather_coverage::{CoverageWindow, WeatherCoverage};
use delayd_data::{Example, FlightRecord, ReferenceData};
use delayd_ledger::{
    self as ledger, DatasetWeather, IngestedObject, NewAlert, ObjectRef, ObjectStatus, Page, RefusedDataset,
};

/// Builds the dataset of a cycle from what is ingested.
#[derive(Debug, Clone)]
pub struct BuildDataset {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// Only what was known by then.
    pub as_of: DateTime<Utc>,
}

/// The dataset is stored and has its version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatasetBuilt {
    /// Its version.
    pub version: Digest,
    /// Flights.
    pub rows: usize,
    /// Flights with a known outcome.
    pub labelled: usize,
    /// First scheduled departure.
    pub from: DateTime<Utc>,
    /// Last scheduled departure.
    pub until: DateTime<Utc>,
}

impl Request for BuildDataset {
    type Stage = DataStage;
    type Answer = DatasetBuilt;

    async fn run(self, stage: &DataStage) -> Result<DatasetBuilt, StepFailure> {
        let judge = stage.judge().await?;
        let sources = stage.sources().await?;
        if sources.is_empty() {
            let prefix = &stage.settings.ingestion.flights_prefix;
            let text = format!("no flights are ingested yet; put logs under `{prefix}` in the object store");
            return Err(StepFailure::new(ErrorKind::Invalid, text));
        }
        let (parts, left_out) = stage.parts(sources, &judge, self.as_of).await?;
        stage.alert_left_out(&left_out).await?;
        let window = stage.window(self.as_of)?;
        let store = stage.env.object_store.as_ref();
        let built = build_dataset(store, parts, left_out, &window, &judge.contract).await?;
        let BuiltDataset { manifest, arrived, quarantined, mut report, counted } = built;
        stage.save_parts(&counted).await?;
        report.quarantine_key = stage.set_aside(&format!("{}-dataset", self.cycle), &quarantined).await?;
        if !report.failures.is_empty() {
            stage.record_refused(&self, manifest.rows, &report).await?;
            let text = format!(
                "the dataset breaks the contract: {}; `delayd cycles {}` shows what was found",
                report.failures.join("; "),
                self.cycle
            );
            return Err(StepFailure::new(ErrorKind::Invalid, text));
        }
        let version = store_dataset(store, &manifest).await?;
        let (from, until) = manifest.span.unwrap_or((self.as_of, self.as_of));
        let (rows, labelled) = (manifest.rows as usize, arrived as usize);
        let built = DatasetBuilt { version, rows, labelled, from, until };
        stage.record_dataset(&self, &built, &manifest, &report).await?;
        Ok(built)
    }
}

impl DataStage {
    fn timing(&self) -> Timing {
        let ingestion = &self.settings.ingestion;
        Timing { horizon_minutes: ingestion.horizon_minutes, weather_delay_minutes: ingestion.weather_delay_minutes }
    }

    fn window(&self, as_of: DateTime<Utc>) -> Result<DatasetWindow, StepFailure> {
        let training = &self.settings.training_policy;
        let policy = serde_json::to_string(training).map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let history = training.history_days.map(|days| as_of - Duration::days(i64::from(days)));
        Ok(DatasetWindow { from: history.unwrap_or(DateTime::UNIX_EPOCH), until: as_of, as_of, policy })
    }

    /// The flight logs that count, oldest first: of a key the newest version that was
    /// taken in. A newer one that was refused does not replace it.
    async fn sources(&self) -> Result<Vec<SourceVersion>, StepFailure> {
        let mut newest_first = self.env.ledger.objects(Some(ObjectStatus::Ingested), Page::everything()).await?;
        newest_first.sort_by(|a, b| (b.ingested_at, &b.key).cmp(&(a.ingested_at, &a.key)));
        let mut seen = BTreeSet::new();
        newest_first.retain(|object| seen.insert(object.key.clone()));
        let of = |object: IngestedObject| SourceVersion { key: object.key, sha256: object.digest };
        Ok(newest_first.into_iter().rev().map(of).collect())
    }

    /// The canonical part of every source, and the sources of which none can be had. A part that is there and still
    /// holds is not read; any other is made again, which a restart in between does not undo.
    async fn parts(
        &self,
        sources: Vec<SourceVersion>,
        judge: &std::sync::Arc<SourceJudge>,
        as_of: DateTime<Utc>,
    ) -> Result<(Vec<(String, Part)>, Vec<LeftOutSource>), StepFailure> {
        let store = self.env.object_store.as_ref();
        // One that cannot be read was written by another version of delayd, and is made again.
        let known = self.env.ledger.parts().await?.into_iter();
        let known: BTreeMap<Digest, Part> =
            known.filter_map(|(source, text)| Some((source, serde_json::from_str(&text).ok()?))).collect();
        let stored: BTreeSet<String> = store.list(parts::PREFIX).await?.into_iter().map(|object| object.key).collect();
        let (mut parts, mut left_out) = (Vec::with_capacity(sources.len()), Vec::new());
        for source in sources {
            let part = known.get(&source.sha256).filter(|part| stored.contains(&part.key()));
            if let Some(part) = part
                && judge.upholds(part, as_of)?
            {
                parts.push((source.key, part.clone()));
                continue;
            }
            tracing::info!(object.key = source.key, "the flight log is read again: its part is missing or outdated");
            match self.make_part(&source, judge, as_of).await? {
                Ok(part) => parts.push((source.key, part)),
                Err(reason) => left_out.push(LeftOutSource { key: source.key, sha256: source.sha256, reason }),
            }
        }
        Ok((parts, left_out))
    }

    /// Inside: why there can be none.
    async fn make_part(
        &self,
        source: &SourceVersion,
        judge: &std::sync::Arc<SourceJudge>,
        as_of: DateTime<Utc>,
    ) -> Result<Result<Part, String>, StepFailure> {
        let store = self.env.object_store.as_ref();
        let body = match read_source(store, source).await? {
            Ok(body) => body,
            Err(reason) => return Ok(Err(reason)),
        };
        keep_copy(store, &source.sha256, body.clone()).await?;
        let (judge, wanted) = (judge.clone(), source.clone());
        let made = run_blocking(move || {
            let judged = judge.judge(&wanted.key, &wanted.sha256, &body, as_of)?;
            judge.part(&wanted.sha256, &judged.validated)
        });
        match made.await? {
            Ok((part, bytes)) => {
                store_part(store, &part, bytes).await?;
                self.save_parts(std::slice::from_ref(&part)).await?;
                Ok(Ok(part))
            }
            Err(error) if error.is_retryable() => Err(error.into()),
            Err(error) => Ok(Err(chain(&error))),
        }
    }

    /// Alerts, once for each, about flight logs that are no longer in datasets.
    async fn alert_left_out(&self, left_out: &[LeftOutSource]) -> Result<(), StepFailure> {
        for LeftOutSource { key, sha256, reason } in left_out {
            tracing::warn!(object.key = key, object.digest = sha256.short(), "a flight log is left out: {reason}");
            let alert = NewAlert {
                at: self.env.now(),
                severity: Severity::Warning,
                dedup_key: format!("source-left-out/{key}/{}", sha256.short()),
                title: format!("a flight log that was taken in cannot be read any more: {key}"),
                body: format!(
                    "{reason}. Its flights are left out of datasets from now on; the loop continues without them. To \
                     have them back, upload the log as it was ({sha256}) under the same key or another."
                ),
            };
            self.env.ledger.enqueue_alert(alert).await?;
        }
        Ok(())
    }

    async fn record_refused(
        &self,
        request: &BuildDataset,
        rows: u64,
        report: &ValidationReport,
    ) -> Result<(), StepFailure> {
        let validation = Document::of(report)?;
        let refused = RefusedDataset { cycle: request.cycle, rows, validation, refused_at: self.env.now() };
        Ok(self.env.ledger.record_refused_dataset(refused).await?)
    }

    async fn record_dataset(
        &self,
        request: &BuildDataset,
        built: &DatasetBuilt,
        manifest: &DatasetManifest,
        report: &ValidationReport,
    ) -> Result<(), StepFailure> {
        let sources =
            manifest.sources.iter().map(|source| ObjectRef { key: source.key.clone(), digest: source.sha256.clone() });
        let dataset = ledger::Dataset {
            version: built.version.clone(),
            cycle: request.cycle,
            sources: sources.collect(),
            manifest: Document::of(manifest)?,
            rows: manifest.rows,
            from: built.from,
            until: built.until,
            validation: Document::of(report)?,
            created_at: self.env.now(),
        };
        Ok(self.env.ledger.insert_dataset(dataset).await?)
    }

    /// A dataset with what its flights are joined with. Whoever is first freezes weather and reference data with it;
    /// all later ones see the same.
    ///
    /// # Errors
    /// When the dataset is missing or damaged, less weather is there than required, or the store fails.
    pub async fn training_set(&self, version: &Digest) -> Result<TrainingSet, StepFailure> {
        let mut last = self.set.lock().await;
        if let Some(set) = last.as_ref().filter(|set| set.version == *version) {
            return Ok(set.clone());
        }
        let store = &self.env.object_store;
        let inputs = match frozen_inputs(store.as_ref(), version).await? {
            Some(inputs) => inputs,
            None => {
                let manifest = load_manifest(store.as_ref(), version).await?;
                let (store_of, runtime, of) = (store.clone(), tokio::runtime::Handle::current(), version.clone());
                let found = run_blocking(move || surroundings(store_of, runtime, &of, manifest)).await??;
                let reference = self.reference().await?;
                let weather = match found {
                    None => Vec::new(),
                    Some(Surroundings { origins, first, last }) => {
                        let (weather, coverage) = self.weather(&origins, first - Duration::days(1), last).await?;
                        self.record_weather(version, &coverage).await?;
                        weather
                    }
                };
                freeze(store.as_ref(), version, &weather, &reference).await?
            }
        };
        let set = load_training_set(store, version, &inputs, self.timing()).await?;
        *last = Some(set.clone());
        Ok(set)
    }

    /// The examples of some flights, with the weather and operations known at their prediction times.
    ///
    /// # Errors
    /// When less weather is there than required, or an airport's time zone is unknown.
    pub async fn examples(
        &self,
        records: Vec<FlightRecord>,
        reference: &ReferenceData,
    ) -> Result<Vec<Example>, StepFailure> {
        let departures = || records.iter().map(|record| record.scheduled_departure);
        let (Some(first), Some(last)) = (departures().min(), departures().max()) else { return Ok(Vec::new()) };
        let origins: BTreeSet<&String> = records.iter().map(|record| &record.origin).collect();
        let origins: Vec<String> = origins.into_iter().cloned().collect();
        let (mut weather, _) = self.weather(&origins, first - Duration::days(1), last).await?;
        let timing = self.timing();
        let delay = Duration::minutes(i64::from(timing.weather_delay_minutes));
        weather.iter_mut().for_each(|observation| observation.observed_at += delay);
        let horizon = Duration::minutes(i64::from(timing.horizon_minutes));
        let airports = reference.airports.clone();
        let examples =
            run_blocking(move || assemble(&records, &airports, &WeatherHistory::new(&weather), horizon)).await?;
        Ok(examples?)
    }

    /// What there is of the weather. Weather that is away makes a poorer model, not
    /// a lost cycle, as long as the required share of it is there; it is told.
    async fn weather(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<(Vec<WeatherObservation>, WeatherCoverage), StepFailure> {
        let answer = self.env.weather.available(airports, from, until).await;
        let fresh_days = Duration::days(i64::from(self.settings.training_policy.fresh_window_days));
        let window = CoverageWindow { from, fresh_from: until - fresh_days, until: until.min(self.env.now()) };
        let coverage = WeatherCoverage::of(airports, window, &answer);
        if coverage.is_degraded() {
            self.tell_degraded(&coverage).await?;
        }
        let required = self.settings.weather.required_share;
        if coverage.share() < required {
            let because =
                if coverage.is_degraded() { coverage.failures.join("; ") } else { "it knows no more".to_owned() };
            let text = format!("{}; weather.required_share asks for {required}: {because}", coverage.told());
            return Err(StepFailure::new(ErrorKind::Unavailable, text));
        }
        Ok((answer.observations, coverage))
    }

    async fn tell_degraded(&self, coverage: &WeatherCoverage) -> Result<(), StepFailure> {
        let (told, missing) = (coverage.told(), coverage.missing());
        tracing::warn!(weather.missing_airport_hours = missing, failures = ?coverage.failures, "weather is incomplete");
        let now = self.env.now();
        let body = format!(
            "{told}: {}. What is there is used, and the model knows missing weather; with weather.required_share above 0 \
             the cycle waits instead. The next cycle asks again.",
            coverage.failures.join("; ")
        );
        let alert = NewAlert {
            at: now,
            severity: Severity::Warning,
            dedup_key: format!("weather-degraded/{}", now.date_naive()),
            title: format!("weather is incomplete: {missing} airport-hours are missing"),
            body,
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }

    async fn record_weather(&self, version: &Digest, coverage: &WeatherCoverage) -> Result<(), StepFailure> {
        let (dataset, at, share) = (version.clone(), self.env.now(), coverage.share());
        let coverage = Document::of(coverage)?;
        Ok(self.env.ledger.record_dataset_weather(DatasetWeather { dataset, at, share, coverage }).await?)
    }

    /// Frees what the last cycle needed.
    pub async fn release(&self) {
        *self.set.lock().await = None;
    }
}
