//! Flight logs over months: refused, unreadable, overwritten, deleted. What the data
//! stage records of them, whom it tells, and that a dataset is made all the same.

use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use delayd::config::Settings;
use delayd::env::Env;
use delayd::stages::dataset::BuildDataset;
use delayd::stages::ingest::DataStage;
use delayd::stages::ingest::IngestFlights;
use delayd::supervision::Request;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{CycleId, Digest};
use delayd_core::ports::{ObjectMeta, ObjectStore};
use delayd_data::FlightRecord;
use delayd_data::formats::parquet;
use delayd_ledger::{CycleReason, ObjectStatus, Page};
use delayd_testkit::contracts;
use delayd_testkit::data_support::{flight, utc};

const AIRPORTS: &str = "faa,name,lat,lon,alt,tz,dst,tzone\n\
    JFK,Kennedy,40.6398,-73.7789,13,-5,A,America/New_York\n\
    EWR,Newark,40.6925,-74.1687,18,-5,A,America/New_York\n\
    IAH,Houston,29.9844,-95.3414,97,-6,A,America/Chicago\n\
    LAX,Los Angeles,33.9425,-118.408,126,-8,A,America/Los_Angeles\n";

/// A store that lets nobody read some keys.
#[derive(Debug)]
struct Denying {
    inner: Arc<dyn ObjectStore>,
    denied: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl ObjectStore for Denying {
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, PortError> {
        self.inner.list(prefix).await
    }
    async fn get(&self, key: &str) -> Result<Bytes, PortError> {
        if self.denied.lock().unwrap().contains(key) {
            return Err(PortError::new(ErrorKind::Denied, format!("reading {key}"), "403 AccessDenied"));
        }
        self.inner.get(key).await
    }
    async fn put(&self, key: &str, body: Bytes) -> Result<(), PortError> {
        self.inner.put(key, body).await
    }
    async fn delete(&self, key: &str) -> Result<(), PortError> {
        self.inner.delete(key).await
    }
    async fn probe(&self) -> Result<String, PortError> {
        self.inner.probe().await
    }
}

struct Home {
    env: Env,
    store: Arc<Denying>,
    stage: DataStage,
    cycle: CycleId,
    _folder: tempfile::TempDir,
}

impl Home {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = contracts::surroundings::env(folder.path());
        let store = Arc::new(Denying { inner: env.object_store.clone(), denied: Mutex::default() });
        let env = Env { object_store: store.clone(), ..env };
        store.put("reference/airports.csv", AIRPORTS.into()).await.unwrap();
        let stage = DataStage::new(env.clone(), Arc::new(Settings::default())).unwrap();
        let cycle = env.ledger.begin_cycle(CycleReason::Bootstrap, utc("2013-08-01T00:00:00Z")).await.unwrap().id;
        Self { env, store, stage, cycle, _folder: folder }
    }

    async fn put(&self, key: &str, body: impl Into<Bytes>) {
        self.store.put(key, body.into()).await.unwrap();
    }

    /// A look at the logs at this minute of the first of August.
    async fn look(&self, minute: u32) -> Vec<String> {
        IngestFlights { at: moment(minute) }.run(&self.stage).await.unwrap().refused
    }

    async fn build(&self) -> Result<(Digest, usize), String> {
        let built = BuildDataset { cycle: self.cycle, as_of: moment(59) }.run(&self.stage).await;
        built.map(|built| (built.version, built.rows)).map_err(|failure| failure.to_string())
    }

    async fn alerts(&self) -> Vec<String> {
        let found = self.env.ledger.alerts(Page::newest(99)).await.unwrap();
        found.into_iter().rev().map(|alert| alert.alert.title).collect()
    }

    async fn validation(&self, version: Digest) -> serde_json::Value {
        serde_json::to_value(self.env.ledger.dataset(version).await.unwrap().unwrap().validation).unwrap()
    }
}

fn moment(minute: u32) -> DateTime<Utc> {
    utc(&format!("2013-08-01T00:{minute:02}:00Z"))
}

fn flights(day: u32, count: u32) -> Vec<FlightRecord> {
    (1..=count).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect()
}

fn log(day: u32, count: u32) -> Vec<u8> {
    parquet::write_flights(&flights(day, count), None).unwrap()
}

#[tokio::test]
async fn a_log_that_is_overwritten_with_garbage_and_one_that_is_deleted_go_on_to_count() {
    let home = Home::new().await;
    home.put("flights/1.parquet", log(1, 30)).await;
    home.put("flights/2.parquet", log(2, 20)).await;
    assert!(home.look(1).await.is_empty());
    home.put("flights/1.parquet", "dear sir or madam\n").await;
    home.store.delete("flights/2.parquet").await.unwrap();
    let refused = home.look(2).await;
    assert!(refused.len() == 1 && refused[0].contains("flights/1.parquet"), "{refused:?}");
    let (version, rows) = home.build().await.unwrap();
    assert_eq!(rows, 50, "the older good version counts, and the deleted log");
    assert_eq!(home.validation(version).await["left_out"], serde_json::json!([]));
    assert_eq!(home.alerts().await, ["a flight log was rejected: flights/1.parquet"]);

    // Written again with the same garbage it is neither news nor taken for a good one.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    home.put("flights/1.parquet", "dear sir or madam\n").await;
    assert!(home.look(3).await.is_empty());
    let versions = home.env.ledger.objects_by_key("flights/1.parquet").await.unwrap();
    let told: Vec<_> = versions.iter().map(|object| (object.status, object.resolved_at.is_some())).collect();
    assert_eq!(told, [(ObjectStatus::Rejected, false), (ObjectStatus::Ingested, false)]);
    assert_eq!(home.build().await.unwrap().1, 50);

    // Repaired, it is the newer version that counts, and nothing is left to do.
    home.put("flights/1.parquet", log(1, 31)).await;
    home.look(4).await;
    assert_eq!(home.build().await.unwrap().1, 51);
    let rejected = home.env.ledger.objects(Some(ObjectStatus::Rejected), Page::newest(9)).await.unwrap();
    assert_eq!((rejected.len(), rejected[0].resolved_at), (1, Some(moment(4))));
}

#[tokio::test]
async fn a_log_that_may_not_be_read_is_recorded_and_reported_once_until_it_can_be() {
    let home = Home::new().await;
    home.put("flights/1.parquet", log(1, 30)).await;
    home.put("flights/2.parquet", log(2, 20)).await;
    home.store.denied.lock().unwrap().insert("flights/2.parquet".into());
    for minute in [1, 2] {
        let refused = home.look(minute).await;
        assert!(refused.len() == 1 && refused[0].contains("403 AccessDenied"), "{refused:?}");
    }
    let failed = home.env.ledger.objects(Some(ObjectStatus::Failed), Page::newest(9)).await.unwrap();
    let [object] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((object.key.as_str(), object.ingested_at, object.resolved_at), ("flights/2.parquet", moment(2), None));
    assert!(object.error.as_deref().unwrap().contains("403 AccessDenied"), "{object:?}");
    assert_eq!(home.alerts().await, ["a flight log could not be read: flights/2.parquet"]);
    assert_eq!(home.build().await.unwrap().1, 30);

    home.store.denied.lock().unwrap().clear();
    assert!(home.look(3).await.is_empty());
    let failed = home.env.ledger.objects(Some(ObjectStatus::Failed), Page::newest(9)).await.unwrap();
    assert_eq!(failed[0].resolved_at, Some(moment(3)));
    assert_eq!((home.build().await.unwrap().1, home.alerts().await.len()), (50, 1));
}

#[tokio::test]
async fn logs_of_a_ledger_without_copies_are_copied_while_they_can_be_and_left_out_when_they_are_gone() {
    let home = Home::new().await;
    home.put("flights/1.parquet", log(1, 30)).await;
    home.put("flights/2.parquet", log(2, 20)).await;
    home.look(1).await;
    // As an earlier version of the program left it: no copies, no parts.
    for prefix in ["sources/", "parts/"] {
        for object in home.store.list(prefix).await.unwrap() {
            home.store.delete(&object.key).await.unwrap();
        }
    }
    home.store.delete("flights/2.parquet").await.unwrap();
    for _ in 0..2 {
        let (version, rows) = home.build().await.unwrap();
        assert_eq!(rows, 30);
        let left_out = &home.validation(version).await["left_out"];
        assert_eq!((left_out.as_array().unwrap().len(), &left_out[0]["key"]), (1, &"flights/2.parquet".into()));
        assert_eq!(
            home.alerts().await,
            ["a flight log that was taken in cannot be read any more: flights/2.parquet"],
            "told once, however often a dataset is made"
        );
    }
    home.store.delete("flights/1.parquet").await.unwrap();
    assert_eq!(home.build().await.unwrap().1, 30, "the first build kept a copy");
}

#[tokio::test]
async fn the_report_of_a_dataset_that_is_refused_is_kept() {
    let home = Home::new().await;
    for day in [1, 2] {
        // Too few rows to judge a log by shares; together they are enough.
        let mut rows = flights(day, 150);
        rows.iter_mut().take(50).for_each(|row| row.scheduled_arrival = None);
        home.put(&format!("flights/{day}.parquet"), parquet::write_flights(&rows, None).unwrap()).await;
    }
    assert!(home.look(1).await.is_empty());
    let failure = home.build().await.unwrap_err();
    assert!(failure.contains("column scheduled_arrival: 33.3 % of the values are missing"), "{failure}");
    let refused = home.env.ledger.refused_dataset(home.cycle).await.unwrap().unwrap();
    assert_eq!(
        (refused.rows, refused.validation.read::<delayd_data::validation::ValidationReport>().unwrap().failures.len()),
        (300, 1)
    );
    assert_eq!(home.env.ledger.refused_datasets(Page::newest(9)).await.unwrap(), [refused]);
}

#[tokio::test]
async fn unused_columns_and_logs_that_contradict_each_other_are_in_the_records() {
    const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour,mood\n";
    let row = |arrival: u32, delay: u32| {
        format!(
            "{HEADER}2013,7,1,917,915,2,{arrival},1119,{delay},UA,1545,N14228,EWR,IAH,227,1400,9,15,2013-07-01T13:00:00Z,good\n"
        )
    };
    let home = Home::new().await;
    home.put("flights/1.csv", row(1130, 11)).await;
    home.look(1).await;
    home.put("flights/2.csv", row(1140, 21)).await;
    home.look(2).await;
    let object = &home.env.ledger.objects_by_key("flights/1.csv").await.unwrap()[0];
    assert!(object.unused_columns.contains(&"mood".to_owned()), "{object:?}");
    let (version, rows) = home.build().await.unwrap();
    assert_eq!(rows, 1);
    let report = home.validation(version).await;
    assert!(report["unused_columns"].as_array().unwrap().contains(&"mood".into()), "{report}");
    let key = report["quarantine_key"].as_str().unwrap();
    let rows = String::from_utf8(home.store.get(key).await.unwrap().to_vec()).unwrap();
    assert!(rows.contains("flights/1.csv") && rows.contains("conflicting_duplicate: flights/2.csv"), "{rows}");
}

#[test]
fn a_contract_that_would_let_a_feature_know_the_future_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../../config/contract.toml");
    let told = |text: String| {
        let path = folder.path().join("contract.toml");
        std::fs::write(&path, text).unwrap();
        let mut settings = Settings::default();
        settings.ingestion.contract_path = path;
        started(folder.path(), settings)
    };
    let head = "[columns.distance_miles]\ntype = \"number\"\nknown_when = ";
    assert!(text.contains(&format!("{head}\"schedule\"")));
    assert_eq!(told(text.to_owned()), None);
    let late = told(text.replace(&format!("{head}\"schedule\""), &format!("{head}\"arrival\""))).unwrap();
    assert!(late.contains("`distance_miles` is known at arrival") && late.contains("known_when"), "{late}");
    let wrong = text
        .replace("[columns.carrier]\ntype = \"text\"", "[columns.carrier]\ntype = \"number\"\nrange = [1, 2]")
        .replace("[columns.flight_number]", "[columns.flight_number]\nallowed = [\"1\"]")
        .replace(
            "[columns.departed_at]",
            "[columns.departed_at]\noutlier = { rule = \"iqr\", bound = 4.0, action = \"flag\" }",
        );
    let faults = told(wrong).unwrap();
    for fault in [
        "columns.carrier.type is Number",
        "columns.carrier.range",
        "columns.flight_number.allowed",
        "columns.departed_at.outlier",
    ] {
        assert!(faults.contains(fault), "{fault}: {faults}");
    }
}

/// Why the stage does not start with these settings.
fn started(folder: &Path, settings: Settings) -> Option<String> {
    let home = tempfile::tempdir_in(folder).unwrap();
    let env = contracts::surroundings::env(home.path());
    DataStage::new(env, Arc::new(settings)).err().map(|error| error.to_string())
}

/// The note of an object whose reading was begun so often when an earlier process ended.
fn note(home: &Home, key: &str, body: &[u8], begun: u32) -> std::path::PathBuf {
    let folder = home.env.ledger.path().unwrap().parent().unwrap().join("being-read");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.json", Digest::of(key.as_bytes()).hex()));
    let note = serde_json::json!({ "key": key, "digest": Digest::of(body), "begun": begun });
    std::fs::write(&path, note.to_string()).unwrap();
    path
}

#[tokio::test]
async fn a_log_that_ended_the_daemon_is_tried_once_more_alone_and_then_refused_until_it_changes() {
    let home = Home::new().await;
    let unlucky = note(&home, "flights/1.parquet", &log(1, 30), 1);
    let poison = note(&home, "flights/2.parquet", &log(2, 20), 2);
    for day in [1, 2, 3] {
        home.put(&format!("flights/{day}.parquet"), log(day, 40 - 10 * day)).await;
    }
    let refused = home.look(1).await;
    let [text] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(text.starts_with("flights/2.parquet: reading it ended the daemon 2 times"), "{text}");
    assert!(!unlucky.exists() && poison.exists(), "the end of a process in just that moment is no fault of the log");
    assert_eq!(home.build().await.unwrap().1, 40);
    assert_eq!(home.alerts().await, ["a flight log was rejected: flights/2.parquet"]);
    let rejected = home.env.ledger.objects(Some(ObjectStatus::Rejected), Page::newest(9)).await.unwrap();
    assert_eq!((rejected.len(), rejected[0].key.as_str()), (1, "flights/2.parquet"));
    assert!(home.look(2).await.is_empty(), "it is not read again by itself");

    home.put("flights/2.parquet", log(2, 21)).await;
    assert!(home.look(3).await.is_empty());
    assert!(!poison.exists());
    assert_eq!((home.build().await.unwrap().1, home.alerts().await.len()), (61, 1));
}
