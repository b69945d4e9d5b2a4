//! What ingesting and building a dataset do.

use super::messages::{BuildDataset, DatasetBuilt, FlightsIngested, IngestFlights};
use crate::supervision::{Request, StageActor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};

use super::reference_library::{ReferenceDocuments, ReferenceLibrary};
use crate::config::Settings;
use crate::env::Env;
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::Digest;
use delayd_core::ports::{Severity, WeatherObservation};
use delayd_data::DataError;
use delayd_data::ObjectReader;
use delayd_data::contract::Contract;
use delayd_data::dataset::{
    BuildContext, BuiltDataset, DatasetManifest, DatasetWindow, build_dataset, load_dataset, store_dataset,
};
use delayd_data::frozen::{freeze, frozen_inputs, load_frozen};
use delayd_data::ingest::{IngestOptions, KnownObject, ingest_new};
use delayd_data::reference::ReferenceData;
use delayd_data::sources::{SourceVersion, keep_earlier_copies};
use delayd_data::training_sets::{Timing, TrainingSet, TrainingSets, assemble_examples, load_training_set};
use delayd_data::validation::ValidationReport;
use delayd_data::weather_coverage::{CoverageWindow, WeatherCoverage};
use delayd_data::{Example, FlightRecord};
use delayd_ledger::{
    self as ledger, DatasetWeather, IngestedObject, NewAlert, ObjectRef, ObjectStatus, Page, RefusedDataset,
};

/// The stage's actor.
pub type DataActor = StageActor<DataStage>;

/// The data stage's work, apart from its actor. Training and verification read
/// datasets through it too.
#[derive(Clone)]
pub struct DataStage {
    pub(super) env: Env,
    settings: Arc<Settings>,
    contract: Arc<Contract>,
    library: ReferenceLibrary,
    reader: ObjectReader,
    sets: TrainingSets,
}

impl DataStage {
    /// The stage, with its contract read.
    ///
    /// # Errors
    /// When the contract is malformed, or says of a column that features read that it is known too late.
    pub fn new(env: Env, settings: Arc<Settings>) -> Result<Self, DataError> {
        let contract = Contract::configured(&settings.ingestion.contract_path)?;
        let library = ReferenceLibrary::new(env.clone(), settings.clone(), ReferenceDocuments::default());
        let reader = ObjectReader::new(settings.ingestion.limits, env.ledger.path().and_then(Path::parent));
        Ok(Self { env, settings, contract: Arc::new(contract), library, reader, sets: TrainingSets::default() })
    }

    /// The same stage, with reference data that are fetched from documents.
    #[must_use]
    pub fn with_documents(mut self, documents: ReferenceDocuments) -> Self {
        self.library = ReferenceLibrary::new(self.env.clone(), self.settings.clone(), documents);
        self
    }

    /// Airports and holidays, fetched anew where that is due.
    ///
    /// # Errors
    /// When a configured object is missing or malformed, or a document has no copy
    /// yet and cannot be fetched.
    pub async fn reference(&self) -> Result<ReferenceData, StepFailure> {
        self.library.read().await
    }

    /// Takes in what is new under the flight logs' prefix, and tells what it refuses.
    ///
    /// # Errors
    /// When reference data are missing, or the store or the ledger fails.
    pub async fn ingest(&self, message: IngestFlights) -> Result<FlightsIngested, StepFailure> {
        let reference = self.reference().await?;
        let ingestion = &self.settings.ingestion;
        let options = IngestOptions {
            prefix: ingestion.flights_prefix.clone(),
            max_concurrent_fetches: ingestion.concurrency,
            mapping: ingestion.column_mapping.clone(),
            reader: self.reader.clone(),
            ..IngestOptions::default()
        };
        let store = &self.env.object_store;
        let mut summary = FlightsIngested::default();
        // What was being read when an earlier process ended is read alone: if that ends this one too, it was the cause.
        for suspect in self.reader.suspects(&options.prefix) {
            let (known, alone) = (self.known_objects().await?, IngestOptions { prefix: suspect, ..options.clone() });
            let ingested = ingest_new(store, &known, &alone, &self.contract, &reference.airports, message.at).await?;
            summary.add(self.record(&ingested, message.at).await?);
        }
        let known = self.known_objects().await?;
        let ingested = ingest_new(store, &known, &options, &self.contract, &reference.airports, message.at).await?;
        summary.add(self.record(&ingested, message.at).await?);
        Ok(summary)
    }

    /// What was taken in before, by key; of several versions the newest.
    pub(super) async fn known_objects(&self) -> Result<BTreeMap<String, KnownObject>, StepFailure> {
        let listed = self.env.ledger.setting::<BTreeMap<String, KnownObject>>("ingested_objects").await?;
        Ok(listed.unwrap_or_default())
    }

    fn timing(&self) -> Timing {
        let ingestion = &self.settings.ingestion;
        Timing { horizon_minutes: ingestion.horizon_minutes, weather_delay_minutes: ingestion.weather_delay_minutes }
    }

    /// Freezes what is ingested under a version: every accepted log is read again, as
    /// it was taken in, so that the manifest tells exactly what went in.
    ///
    /// # Errors
    /// When there are no flights, the dataset breaks the contract, or the store or the ledger fails.
    pub async fn build(&self, message: BuildDataset) -> Result<DatasetBuilt, StepFailure> {
        let reference = self.reference().await?;
        let sources = self.sources().await?;
        if sources.is_empty() {
            return Err(StepFailure::new(
                ErrorKind::Invalid,
                format!(
                    "no flights are ingested yet; put logs under `{}` in the object store",
                    self.settings.ingestion.flights_prefix
                ),
            ));
        }
        keep_earlier_copies(self.env.object_store.as_ref(), &sources).await?;
        let built = self.built(sources, reference, message.as_of).await?;
        let BuiltDataset { manifest, records, quarantined, mut report } = built;
        self.tell_left_out(&report.left_out).await?;
        report.quarantine_key = self.set_aside(&format!("{}-dataset", message.cycle), &quarantined).await?;
        if !report.failures.is_empty() {
            self.record_refused(&message, records.len() as u64, &report).await?;
            let text = format!(
                "the dataset breaks the contract: {}; `delayd cycles {}` shows what was found",
                report.failures.join("; "),
                message.cycle
            );
            return Err(StepFailure::new(ErrorKind::Invalid, text));
        }
        let version = store_dataset(self.env.object_store.as_ref(), &manifest, &records).await?;
        let labelled = records.iter().filter(|record| record.arrived_at.is_some()).count();
        let first = records.iter().map(|record| record.scheduled_departure).min().unwrap_or(message.as_of);
        let last = records.iter().map(|record| record.scheduled_departure).max().unwrap_or(message.as_of);
        let built = DatasetBuilt { version, rows: records.len(), labelled, from: first, until: last };
        self.record_dataset(&message, &built, &manifest, &report).await?;
        Ok(built)
    }

    async fn record_refused(
        &self,
        message: &BuildDataset,
        rows: u64,
        report: &ValidationReport,
    ) -> Result<(), StepFailure> {
        let validation = Document::of(report)?;
        let refused = RefusedDataset { cycle: message.cycle, rows, validation, refused_at: self.env.now() };
        Ok(self.env.ledger.record_refused_dataset(refused).await?)
    }

    async fn record_dataset(
        &self,
        message: &BuildDataset,
        built: &DatasetBuilt,
        manifest: &DatasetManifest,
        report: &ValidationReport,
    ) -> Result<(), StepFailure> {
        let sources =
            manifest.sources.iter().map(|source| ObjectRef { key: source.key.clone(), digest: source.sha256.clone() });
        let dataset = ledger::Dataset {
            version: built.version.clone(),
            cycle: message.cycle,
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

    /// The flight logs that count, oldest first: of a key the newest version that was
    /// taken in. A newer one that was refused does not replace it.
    async fn sources(&self) -> Result<Vec<SourceVersion>, StepFailure> {
        let everything = Page { offset: 0, limit: 1_000_000 };
        let mut newest_first = self.env.ledger.objects(Some(ObjectStatus::Ingested), everything).await?;
        newest_first.sort_by(|a, b| (b.ingested_at, &b.key).cmp(&(a.ingested_at, &a.key)));
        let mut seen = BTreeSet::new();
        newest_first.retain(|object| seen.insert(object.key.clone()));
        let of = |object: IngestedObject| SourceVersion { key: object.key, sha256: object.digest };
        Ok(newest_first.into_iter().rev().map(of).collect())
    }

    /// Reads every source again, off the actor's thread.
    async fn built(
        &self,
        sources: Vec<SourceVersion>,
        reference: ReferenceData,
        as_of: DateTime<Utc>,
    ) -> Result<BuiltDataset, StepFailure> {
        let policy = serde_json::to_string(&self.settings.training_policy)
            .map_err(|error| StepFailure::of(ErrorKind::Internal, &error))?;
        let history = self
            .settings
            .training_policy
            .history_days
            .map_or(DateTime::UNIX_EPOCH, |days| as_of - Duration::days(i64::from(days)));
        let window = DatasetWindow { from: history, until: as_of, as_of, policy };
        let (store, contract, settings) = (self.env.object_store.clone(), self.contract.clone(), self.settings.clone());
        let runtime = tokio::runtime::Handle::current();
        let built = run_blocking(move || {
            let context = BuildContext {
                contract: &contract,
                airports: &reference.airports,
                mapping: settings.ingestion.column_mapping.as_ref(),
                limits: &settings.ingestion.limits,
            };
            runtime.block_on(build_dataset(store.as_ref(), &sources, &window, context))
        });
        Ok(built.await??)
    }

    /// The examples of a dataset: read, verified against its version, and
    /// assembled with what was known at each prediction time. Whoever is first
    /// freezes weather and reference data with it; all later ones see the same.
    ///
    /// # Errors
    /// When the dataset is missing or damaged, or the store fails.
    pub async fn training_set(&self, version: &Digest) -> Result<Arc<TrainingSet>, StepFailure> {
        self.sets.get_or(version, self.read_set(version)).await
    }

    async fn read_set(&self, version: &Digest) -> Result<TrainingSet, StepFailure> {
        let store = self.env.object_store.as_ref();
        if let Some(inputs) = frozen_inputs(store, version).await? {
            return load_training_set(store, version, &inputs, self.timing()).await;
        }
        let reference = self.reference().await?;
        let (_, records) = load_dataset(store, version).await?;
        let (weather, coverage) = self.weather_of(&records).await?;
        if let Some(coverage) = coverage {
            self.record_weather(version, &coverage).await?;
        }
        let inputs = freeze(store, version, &weather, &reference).await?;
        let (weather, reference) = load_frozen(store, version, &inputs).await?;
        let examples = assemble_examples(records, weather, &reference, self.timing()).await?;
        Ok(TrainingSet { version: version.clone(), examples, reference, inputs, timing: self.timing() })
    }

    /// Assembles flights with the weather and operations known at their
    /// prediction times.
    ///
    /// # Errors
    /// When less weather is there than required, or an airport's time zone is unknown.
    pub async fn examples(
        &self,
        records: Vec<FlightRecord>,
        reference: &ReferenceData,
    ) -> Result<Vec<Example>, StepFailure> {
        let (weather, _) = self.weather_of(&records).await?;
        assemble_examples(records, weather, reference, self.timing()).await
    }

    /// The observations that some flights may be joined with, and how complete they are.
    async fn weather_of(
        &self,
        records: &[FlightRecord],
    ) -> Result<(Vec<WeatherObservation>, Option<WeatherCoverage>), StepFailure> {
        let departures = || records.iter().map(|record| record.scheduled_departure);
        let (Some(from), Some(until)) = (departures().min(), departures().max()) else { return Ok((Vec::new(), None)) };
        let mut origins: Vec<String> = records.iter().map(|record| record.origin.clone()).collect();
        origins.sort_unstable();
        origins.dedup();
        let (weather, coverage) = self.weather(&origins, from - Duration::days(1), until).await?;
        Ok((weather, Some(coverage)))
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

    /// Frees the examples of the last cycle.
    pub async fn release(&self) {
        self.sets.release().await;
    }
}

impl Request for IngestFlights {
    type Stage = DataStage;
    type Answer = FlightsIngested;

    async fn run(self, stage: &DataStage) -> Result<FlightsIngested, StepFailure> {
        stage.ingest(self).await
    }
}

impl Request for BuildDataset {
    type Stage = DataStage;
    type Answer = DatasetBuilt;

    async fn run(self, stage: &DataStage) -> Result<DatasetBuilt, StepFailure> {
        stage.build(self).await
    }
}
