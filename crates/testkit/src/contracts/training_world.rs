//! A small world of flights in an object store, frozen as a dataset, with a training
//! job about it.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::data_support::stored_dataset;
use chrono::{DateTime, Duration, Utc};
use delayd_core::ids::{CycleId, RunId};
use delayd_core::ports::{ObjectStore, WeatherObservation};
use delayd_data::dataset::DatasetWindow;
use delayd_data::frozen::freeze;
use delayd_data::{FlightRecord, ReferenceData, Timing};
use delayd_features::{Airport, HolidayCalendar};
use delayd_outside::local::{FolderStore, ProcessPool};
use delayd_outside::object_store::ObjectStoreSettings;
use delayd_outside::worker_trainer::{WaitPolicy, WorkerTrainer};
use delayd_training_job::HoldoutSettings;
use delayd_training_job::TrainingJob;
use delayd_training_job::params::ValidationTail;
use delayd_training_job::policy::TrainingPolicy;
use delayd_training_job::tune::SearchSpace;
use delayd_training_job::{TrainingParameters, TuningParameters};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::programs::training_program;

const CARRIERS: [(&str, f32); 4] = [("AA", -0.5), ("B6", 0.6), ("DL", -0.9), ("UA", 0.1)];
const ORIGINS: [&str; 3] = ["EWR", "JFK", "LGA"];
const DESTS: [&str; 4] = ["BOS", "LAX", "MIA", "ORD"];
const FLIGHTS: usize = 3000;
const DAYS: i64 = 60;

/// A folder store with a dataset in it.
pub struct World {
    pub place: tempfile::TempDir,
    pub store: Arc<dyn ObjectStore>,
    pub job: TrainingJob,
}

impl World {
    pub async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(FolderStore::open(&place.path().join("store")).unwrap());
        let job = job_in(store.as_ref()).await;
        Self { place, store, job }
    }

    pub fn store_dir(&self) -> PathBuf {
        self.place.path().join("store")
    }

    /// The daemon's own trainer. Another one each time: nothing is kept for the next.
    pub fn process_trainer(&self) -> WorkerTrainer<ProcessPool> {
        let place = tempfile::Builder::new().prefix("process-").tempdir_in(self.place.path()).unwrap().keep();
        process_trainer(self.store.clone(), self.store_dir(), place)
    }
}

/// The daemon's own trainer, one worker for the whole job, over the folder store at `store_dir`.
pub fn process_trainer(
    store: Arc<dyn ObjectStore>,
    store_dir: PathBuf,
    state_dir: PathBuf,
) -> WorkerTrainer<ProcessPool> {
    let settings = ObjectStoreSettings { folder: store_dir, ..ObjectStoreSettings::default() };
    let known = serde_json::json!({ "object_store": settings.with_secrets().unwrap() });
    let pool = ProcessPool::new(training_program().unwrap(), &known, state_dir);
    let (poll, start_deadline) = (std::time::Duration::from_millis(30), std::time::Duration::from_secs(60));
    let policy = WaitPolicy { split_search: false, parallel_trials: 1, poll, start_deadline };
    WorkerTrainer::new(store, pool, policy)
}

/// A short run without a search.
pub fn quick_parameters() -> TrainingParameters {
    TrainingParameters {
        hidden: 16,
        blocks: 1,
        batch_size: 256,
        max_epochs: 2,
        validation_tail: ValidationTail::Days(7.0),
        reference_days: 28.0,
        min_rows: 200,
        ..TrainingParameters::default()
    }
}

/// Five candidates in two rounds, bounded by trials alone.
pub fn quick_search() -> TuningParameters {
    TuningParameters {
        trials: 5,
        wall_time_secs: None,
        max_rows: 1000,
        space: SearchSpace {
            hidden: vec![8, 16],
            blocks: vec![1],
            batch_size: vec![128, 256],
            ..SearchSpace::default()
        },
        ..TuningParameters::default()
    }
}

/// A run that would take hours.
pub fn endless(job: &TrainingJob) -> TrainingJob {
    let parameters = TrainingParameters {
        hidden: 256,
        blocks: 3,
        batch_size: 8,
        max_epochs: 1000,
        patience: 1000,
        ..job.parameters.clone()
    };
    TrainingJob { parameters, ..job.clone() }
}

/// Stores the world's dataset, and answers a job about it.
pub async fn job_in(store: &dyn ObjectStore) -> TrainingJob {
    let start: DateTime<Utc> = "2013-03-01T05:00:00Z".parse().unwrap();
    let as_of = start + Duration::days(DAYS);
    let window = DatasetWindow { from: start, until: as_of, as_of, policy: String::new() };
    let dataset = stored_dataset(store, flights(start), reference().airports, &window).await;
    let inputs = freeze(store, &dataset, &weather(start), &reference()).await.unwrap();
    TrainingJob {
        run: RunId(7),
        cycle: CycleId(7),
        as_of,
        dataset,
        inputs,
        timing: Timing { horizon_minutes: 120, weather_delay_minutes: 60 },
        live: None,
        parameters: quick_parameters(),
        tuning: None,
        holdout: HoldoutSettings { seasonal_percent: 10, recent_days: 3 },
        policy: TrainingPolicy::default(),
        trace: None,
    }
}

/// Delays depend on the carrier and on the wind of the hour.
fn flights(start: DateTime<Utc>) -> Vec<FlightRecord> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let step = Duration::days(DAYS) / FLIGHTS as i32;
    let flight = |n: usize| {
        let scheduled_departure = start + step * n as i32;
        let (carrier, bias) = CARRIERS[random.random_range(0..CARRIERS.len())];
        let delayed = random.random::<f32>() < 1.0 / (1.0 + (1.2 - bias - gale(scheduled_departure)).exp());
        let late = if delayed { 45 } else { -4 };
        let minutes = 120 + random.random_range(0..200);
        let arrival = scheduled_departure + Duration::minutes(minutes);
        FlightRecord {
            carrier: carrier.to_owned(),
            flight_number: 1 + n as u32,
            origin: ORIGINS[random.random_range(0..ORIGINS.len())].to_owned(),
            dest: DESTS[random.random_range(0..DESTS.len())].to_owned(),
            scheduled_departure,
            scheduled_arrival: Some(arrival),
            distance_miles: Some(minutes as f32 * 6.0),
            departed_at: Some(scheduled_departure + Duration::minutes(late)),
            arrived_at: Some(arrival + Duration::minutes(late)),
            arrival_delay_minutes: Some(i32::try_from(late).unwrap()),
            cancelled: false,
            diverted: false,
        }
    };
    (0..FLIGHTS).map(flight).collect()
}

/// Two days of wind, three days of calm.
fn gale(at: DateTime<Utc>) -> f32 {
    if at.timestamp() / 86_400 % 5 < 2 { 1.5 } else { 0.0 }
}

fn weather(start: DateTime<Utc>) -> Vec<WeatherObservation> {
    let hours = (0..DAYS * 24).map(|hour| start + Duration::hours(hour));
    hours
        .flat_map(|at| {
            ORIGINS.map(|airport| WeatherObservation {
                temperature_c: (at.timestamp() % 86_400) as f32 / 8_640.0,
                wind_speed_kmh: 10.0 + 20.0 * gale(at),
                // Gusts are never observed: NaN must survive the way.
                ..WeatherObservation::missing(airport, at)
            })
        })
        .collect()
}

fn reference() -> ReferenceData {
    let airport = |(n, code): (usize, &&str)| {
        let time_zone = if *code == "LAX" { "America/Los_Angeles" } else { "America/New_York" };
        let airport = Airport {
            latitude_deg: 33.0 + n as f64 * 1.7,
            longitude_deg: -74.0 - n as f64 * 3.1,
            elevation_ft: 10.0,
            time_zone: time_zone.to_owned(),
        };
        ((*code).to_owned(), airport)
    };
    let airports: BTreeMap<String, Airport> = ORIGINS.iter().chain(&DESTS).enumerate().map(airport).collect();
    ReferenceData { airports, holidays: HolidayCalendar::us_federal() }
}

/// Puts something else in an object's place, and answers what was there.
pub async fn damage(store: &dyn ObjectStore, key: &str) -> Bytes {
    let body = store.get(key).await.unwrap();
    let mut damaged = body.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    damaged.truncate(damaged.len() - 9);
    store.put(key, Bytes::from(damaged)).await.unwrap();
    body
}

/// The keys under a prefix.
pub async fn listed(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
}
