//! Datasets as training and the gate see them: flights with what was known at their
//! prediction times, read from the object store alone, so that every machine that
//! can reach it assembles the same examples.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::assemble::{Examples, outcome};
use super::dataset_rows::DatasetRows;
use super::error::DataError;
use super::frozen::{FrozenInputs, load_frozen};
use super::manifest::{DatasetManifest, load_manifest};
use super::reference::ReferenceData;
use super::weather::WeatherHistory;
use super::{Example, FlightRecord};
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// A dataset with what its flights are joined with. Clones share it. It holds no flights: they are read anew, a stretch
/// at a time, by whoever goes through them.
#[derive(Debug, Clone)]
pub struct TrainingSet {
    /// The dataset.
    pub version: Digest,
    /// Airports and holidays.
    pub reference: Arc<ReferenceData>,
    /// What the flights are joined with.
    pub inputs: FrozenInputs,
    /// When things were known.
    pub timing: Timing,
    manifest: Arc<DatasetManifest>,
    weather: Arc<WeatherHistory>,
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
}

/// Outcomes that are read at a time, at least.
const OUTCOMES_AT_A_TIME: usize = 1 << 15;

/// When things were known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Minutes before the scheduled departure at which the delay is predicted.
    pub horizon_minutes: u32,
    /// Minutes after its time stamp at which a weather observation is known.
    pub weather_delay_minutes: u32,
}

/// Where and when a dataset's flights leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The airports.
    pub origins: Vec<String>,
    /// The first scheduled departure.
    pub first: DateTime<Utc>,
    /// The last one.
    pub last: DateTime<Utc>,
}

/// Where and when a dataset's flights leave; none without flights. It blocks for a dataset of format 1.
///
/// # Errors
/// When a dataset of format 1 is missing or damaged, or the store fails.
pub fn surroundings(
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    version: &Digest,
    manifest: DatasetManifest,
) -> Result<Option<Surroundings>, DataError> {
    if manifest.format > 1 {
        return Ok(manifest.span.map(|(first, last)| Surroundings { origins: manifest.origins, first, last }));
    }
    let mut origins = BTreeSet::new();
    let mut span: Option<(DateTime<Utc>, DateTime<Utc>)> = None;
    for flight in DatasetRows::open(store, runtime, version, manifest)? {
        let FlightRecord { origin, scheduled_departure: at, .. } = flight?;
        origins.insert(origin);
        span = Some(span.map_or((at, at), |(first, _)| (first, at)));
    }
    Ok(span.map(|(first, last)| Surroundings { origins: origins.into_iter().collect(), first, last }))
}

/// Reads a dataset's manifest and what was frozen beside it.
///
/// # Errors
/// When something is missing or damaged, or the store fails.
pub async fn load_training_set(
    store: &Arc<dyn ObjectStore>,
    version: &Digest,
    inputs: &FrozenInputs,
    timing: Timing,
) -> Result<TrainingSet, DataError> {
    let manifest = load_manifest(store.as_ref(), version).await?;
    let (mut weather, reference) = load_frozen(store.as_ref(), version, inputs).await?;
    let delay = Duration::minutes(i64::from(timing.weather_delay_minutes));
    weather.iter_mut().for_each(|observation| observation.observed_at += delay);
    Ok(TrainingSet {
        version: version.clone(),
        reference: Arc::new(reference),
        inputs: inputs.clone(),
        timing,
        manifest: Arc::new(manifest),
        weather: Arc::new(WeatherHistory::new(&weather)),
        store: store.clone(),
        runtime: Handle::current(),
    })
}

impl TrainingSet {
    /// How many flights it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.manifest.rows
    }

    /// Its examples in time order, a stretch at a time; all flights of one departure time come together. It blocks: go
    /// through them where blocking is allowed.
    ///
    /// # Errors
    /// When an airport's time zone is unknown or the store fails; each stretch, when a part is missing or damaged.
    pub fn examples(&self) -> Result<impl Iterator<Item = Result<Vec<Example>, DataError>>, DataError> {
        let horizon = Duration::minutes(i64::from(self.timing.horizon_minutes));
        let manifest = DatasetManifest::clone(&self.manifest);
        let flights = DatasetRows::open(self.store.clone(), self.runtime.clone(), &self.version, manifest)?;
        Examples::new(flights, &self.reference.airports, &self.weather, horizon)
    }

    /// Its flights and outcomes in time order, a stretch at a time, without what their rows know of weather and
    /// operations: much quicker. It blocks.
    ///
    /// # Errors
    /// As for [`Self::examples`].
    pub fn outcomes(&self) -> Result<impl Iterator<Item = Result<Vec<Example>, DataError>>, DataError> {
        let horizon = Duration::minutes(i64::from(self.timing.horizon_minutes));
        let manifest = DatasetManifest::clone(&self.manifest);
        let mut flights =
            DatasetRows::open(self.store.clone(), self.runtime.clone(), &self.version, manifest)?.peekable();
        Ok(std::iter::from_fn(move || {
            let first = flights.next()?;
            let mut stretch = Vec::new();
            let mut next = Some(first);
            while let Some(flight) = next {
                let flight = match flight {
                    Ok(flight) => flight,
                    Err(error) => return Some(Err(error)),
                };
                let (departure, outcome) = (flight.scheduled_departure, outcome(&flight));
                stretch.push(Example { row: flight.scheduled_row(), prediction_time: departure - horizon, outcome });
                next = flights.next_if(|next| {
                    stretch.len() < OUTCOMES_AT_A_TIME
                        || next.as_ref().is_ok_and(|next| next.scheduled_departure == departure)
                });
            }
            Some(Ok(stretch))
        }))
    }

    /// Those of its examples that somebody wants, in time order. It blocks.
    ///
    /// # Errors
    /// As for [`Self::examples`].
    pub fn examples_that(&self, mut wanted: impl FnMut(&Example) -> bool) -> Result<Vec<Example>, DataError> {
        let mut kept = Vec::new();
        for stretch in self.examples()? {
            kept.extend(stretch?.into_iter().filter(|example| wanted(example)));
        }
        Ok(kept)
    }
}
