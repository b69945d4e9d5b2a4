//! Datasets as training and the gate see them: flights with what was known at their
//! prediction times, read from the object store alone, so that every machine that
//! can reach it assembles the same examples.

use std::sync::Arc;

use chrono::Duration;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::dataset::load_dataset;
use super::error::DataError;
use super::frozen::{FrozenInputs, load_frozen};
use super::reference::ReferenceData;
use super::weather::WeatherHistory;
use super::{Example, FlightRecord, OperationsIndex, assemble};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectStore, WeatherObservation};

/// Examples of one dataset, kept while a cycle needs them.
#[derive(Debug)]
pub struct TrainingSet {
    /// The dataset.
    pub version: Digest,
    /// Its flights with what was known at their prediction times.
    pub examples: Vec<Example>,
    /// Airports and holidays.
    pub reference: ReferenceData,
    /// What the flights were joined with.
    pub inputs: FrozenInputs,
    /// When things were known.
    pub timing: Timing,
}

/// When things were known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Minutes before the scheduled departure at which the delay is predicted.
    pub horizon_minutes: u32,
    /// Minutes after its time stamp at which a weather observation is known.
    pub weather_delay_minutes: u32,
}

/// The last dataset that was read, for all who need it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct TrainingSets(Arc<Mutex<Option<Arc<TrainingSet>>>>);

impl TrainingSets {
    /// The dataset as it was kept, or as `make` makes it; whoever asks meanwhile
    /// waits for it.
    ///
    /// # Errors
    /// What `make` fails with.
    pub async fn get_or<F>(&self, version: &Digest, make: F) -> Result<Arc<TrainingSet>, StepFailure>
    where
        F: Future<Output = Result<TrainingSet, StepFailure>>,
    {
        let mut kept = self.0.lock().await;
        if let Some(set) = kept.as_ref().filter(|set| set.version == *version) {
            return Ok(set.clone());
        }
        // Two sets at once would double the memory.
        *kept = None;
        let set = Arc::new(make.await?);
        *kept = Some(set.clone());
        Ok(set)
    }

    /// Frees the memory.
    pub async fn release(&self) {
        *self.0.lock().await = None;
    }
}

/// Reads a dataset with what was frozen beside it, and assembles it.
///
/// # Errors
/// When something is missing or damaged, or an airport's time zone is unknown.
pub async fn load_training_set(
    store: &dyn ObjectStore,
    version: &Digest,
    inputs: &FrozenInputs,
    timing: Timing,
) -> Result<TrainingSet, StepFailure> {
    let (_, records) = load_dataset(store, version).await?;
    let (weather, reference) = load_frozen(store, version, inputs).await?;
    let examples = assemble_examples(records, weather, &reference, timing).await?;
    Ok(TrainingSet { version: version.clone(), examples, reference, inputs: inputs.clone(), timing })
}

/// Joins flights with the weather and operations known at their prediction times,
/// off the caller's thread.
///
/// # Errors
/// When an airport's time zone is unknown.
pub async fn assemble_examples(
    records: Vec<FlightRecord>,
    mut weather: Vec<WeatherObservation>,
    reference: &ReferenceData,
    timing: Timing,
) -> Result<Vec<Example>, StepFailure> {
    let delay = Duration::minutes(i64::from(timing.weather_delay_minutes));
    let horizon = Duration::minutes(i64::from(timing.horizon_minutes));
    let airports = reference.airports.clone();
    let examples = run_blocking(move || -> Result<Vec<Example>, DataError> {
        weather.iter_mut().for_each(|observation| observation.observed_at += delay);
        let operations = OperationsIndex::new(&records, &airports)?;
        Ok(assemble(&records, &operations, &WeatherHistory::new(&weather), horizon))
    });
    Ok(examples.await??)
}
