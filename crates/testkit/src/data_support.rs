//! What the tests share: airports, flights, a store in memory that can fail.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectMeta, ObjectStore};
use delayd_data::contract::Contract;
use delayd_data::dataset::{DatasetWindow, build_dataset, store_dataset};
use delayd_data::ingest::{IngestOptions, KnownObject, TakenObject, new_objects, take_in};
use delayd_data::parts::{Part, SourceJudge, store_part};
use delayd_data::validation::{Validated, ValidationReport};
use delayd_data::{FlightRecord, ObjectReader};
use delayd_features::Airport;
use futures::StreamExt;

pub fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn airports() -> BTreeMap<String, Airport> {
    let rows = [
        ("JFK", 40.6398, -73.7789, "America/New_York"),
        ("EWR", 40.6925, -74.1687, "America/New_York"),
        ("LGA", 40.7772, -73.8726, "America/New_York"),
        ("IAH", 29.9844, -95.3414, "America/Chicago"),
        ("LAX", 33.9425, -118.408, "America/Los_Angeles"),
    ];
    let airport = |(code, latitude_deg, longitude_deg, zone): (&str, f64, f64, &str)| {
        let time_zone = zone.to_owned();
        (code.to_owned(), Airport { latitude_deg, longitude_deg, elevation_ft: 10.0, time_zone })
    };
    rows.into_iter().map(airport).collect()
}

/// A flight that left `departure_delay` and arrived `arrival_delay` minutes late.
pub fn flight(number: u32, dest: &str, scheduled: &str, departure_delay: i64, arrival_delay: i32) -> FlightRecord {
    let scheduled_departure = utc(scheduled);
    let hours = if dest == "LAX" { 6 } else { 4 };
    let scheduled_arrival = scheduled_departure + TimeDelta::hours(hours);
    FlightRecord {
        carrier: if number.is_multiple_of(2) { "B6" } else { "UA" }.into(),
        flight_number: number,
        origin: "JFK".into(),
        dest: dest.into(),
        scheduled_departure,
        scheduled_arrival: Some(scheduled_arrival),
        distance_miles: Some(if dest == "LAX" { 2475.0 } else { 1417.0 }),
        departed_at: Some(scheduled_departure + TimeDelta::minutes(departure_delay)),
        arrived_at: Some(scheduled_arrival + TimeDelta::minutes(i64::from(arrival_delay))),
        arrival_delay_minutes: Some(arrival_delay),
        cancelled: false,
        diverted: false,
    }
}

/// Objects in memory; the first `failures` calls of `get` answer "unavailable".
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, (Bytes, DateTime<Utc>)>>,
    pub failures: AtomicUsize,
    pub gets: AtomicUsize,
}

impl MemoryStore {
    pub fn write(&self, key: &str, body: impl Into<Bytes>, at: &str) {
        self.objects.lock().unwrap().insert(key.to_owned(), (body.into(), utc(at)));
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        let objects = self.objects.lock().unwrap();
        let under = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(under
            .map(|(key, (body, at))| ObjectMeta { key: key.clone(), size_bytes: body.len() as u64, last_modified: *at })
            .collect())
    }

    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails {
            return Err(PortError::new(ErrorKind::Unavailable, format!("reading {key}"), "planned failure"));
        }
        let found = self.objects.lock().unwrap().get(key).map(|(body, _)| body.clone());
        found.ok_or_else(|| PortError::new(ErrorKind::NotFound, format!("reading {key}"), "no such object"))
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.write(key, body, "2013-01-01T00:00:00Z");
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
    async fn probe(&self) -> Result<String, PortError> {
        Ok("in memory".to_owned())
    }
}

/// The judge of flight logs by the built-in contract and the tests' airports.
pub fn judge() -> SourceJudge {
    judge_by(Contract::built_in().unwrap(), airports(), ObjectReader::default())
}

pub fn judge_by(contract: Contract, airports: BTreeMap<String, Airport>, reader: ObjectReader) -> SourceJudge {
    SourceJudge::new(contract, airports, None, reader).unwrap()
}

/// What a pass over the flight logs brought.
#[derive(Debug)]
pub struct Pass {
    pub objects: Vec<TakenObject>,
}

impl Pass {
    /// Takes in what is new under `flights/`.
    pub async fn over(
        store: &Arc<dyn ObjectStore>,
        known: &BTreeMap<String, KnownObject>,
        judge: SourceJudge,
        now: &str,
    ) -> Self {
        let options = IngestOptions { retry_pause: std::time::Duration::from_millis(1), ..IngestOptions::default() };
        let fresh = new_objects(store, known, &options, &judge.reader().limits).await.unwrap();
        let taken = take_in(store, fresh, known, &options, Arc::new(judge), utc(now));
        Self { objects: taken.collect().await }
    }

    pub fn accepted(&self) -> usize {
        self.objects.iter().map(|object| object.accepted.len()).sum()
    }

    /// What to remember of them, on top of what was known.
    pub fn seen(&self, known: &BTreeMap<String, KnownObject>) -> BTreeMap<String, KnownObject> {
        let mut seen = known.clone();
        seen.extend(self.objects.iter().filter_map(|object| {
            let known = object.seen.clone()?;
            Some((object.report.meta.key.clone(), known))
        }));
        seen
    }

    /// The parts of what was taken in, oldest first.
    pub fn parts(&self) -> Vec<(String, Part)> {
        let part = |object: &TakenObject| Some((object.report.meta.key.clone(), object.part.clone()?));
        self.objects.iter().filter_map(part).collect()
    }
}

/// Stores flights as a dataset of one part, whatever the contract says of them.
pub async fn stored_dataset(
    store: &dyn ObjectStore,
    mut flights: Vec<FlightRecord>,
    airports: BTreeMap<String, Airport>,
    window: &DatasetWindow,
) -> Digest {
    flights.sort_by(FlightRecord::in_time_order);
    let contract = Contract::built_in().unwrap();
    let judge = judge_by(contract.clone(), airports, ObjectReader::default());
    let validated = Validated {
        lines: (2..).take(flights.len()).collect(),
        accepted: flights,
        quarantined: Vec::new(),
        report: ValidationReport::default(),
        presence: BTreeMap::new(),
        airports: BTreeSet::new(),
        judge_again_at: None,
    };
    let source = Digest::of(format!("{:?}", validated.accepted).as_bytes());
    let (part, body) = judge.part(&source, &validated).unwrap();
    store_part(store, &part, body).await.unwrap();
    let parts = vec![("flights/1.parquet".to_owned(), part)];
    let built = build_dataset(store, parts, Vec::new(), window, &contract).await.unwrap();
    store_dataset(store, &built.manifest).await.unwrap()
}
