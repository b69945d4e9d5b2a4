//! Taking in objects, and datasets that can be told apart and made again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_data::contract::Contract;
use delayd_data::dataset::{self, BuildContext, DatasetWindow};
use delayd_data::formats::{ParseLimits, parquet};
use delayd_data::ingest::{IngestOptions, Ingested, KnownObject, ObjectNews, ingest_new};
use delayd_data::sources::{SourceVersion, copy_key};

use crate::data_stage::support::{MemoryStore, airports, flight, utc};

fn day(day: u32, flights: u32) -> Vec<u8> {
    let rows: Vec<_> =
        (1..=flights).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect();
    parquet::write_flights(&rows).unwrap()
}

async fn ingest(store: &Arc<MemoryStore>, known: &BTreeMap<String, KnownObject>) -> Ingested {
    let port: Arc<dyn ObjectStore> = store.clone();
    let options = IngestOptions { retry_pause: Duration::from_millis(1), ..IngestOptions::default() };
    let contract = Contract::built_in().unwrap();
    ingest_new(&port, known, &options, &contract, &airports(), utc("2013-08-01T00:00:00Z")).await.unwrap()
}

#[tokio::test]
async fn only_what_is_new_late_or_changed_is_read() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-04T00:00:00Z");
    store.write("other/x", "x", "2013-07-02T00:00:00Z");
    let first = ingest(&store, &BTreeMap::new()).await;
    assert_eq!((first.accepted.len(), first.report.listed, first.seen.len()), (6, 2, 2));
    let gets = store.gets.load(Ordering::SeqCst);
    let second = ingest(&store, &first.seen).await;
    assert_eq!((second.accepted.len(), second.report.seen_before), (0, 2));
    assert_eq!(store.gets.load(Ordering::SeqCst), gets, "nothing was fetched again");
    store.write("flights/1.parquet", day(1, 4), "2013-07-05T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    store.write("flights/3.parquet", day(3, 3), "2013-07-06T00:00:00Z");
    let third = ingest(&store, &first.seen).await;
    let news: BTreeMap<_, _> = third.report.objects.iter().map(|o| (o.meta.key.as_str(), o.news.unwrap())).collect();
    assert_eq!(news["flights/1.parquet"], ObjectNews::Changed);
    assert_eq!(news["flights/2.parquet"], ObjectNews::Late);
    assert_eq!(news["flights/3.parquet"], ObjectNews::Unchanged);
    assert_eq!(third.accepted.len(), 7);
}

#[tokio::test]
async fn one_bad_object_does_not_stop_the_others_and_is_not_tried_until_it_changes() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/bad.csv.gz", vec![0x1f, 0x8b, 8, 0, 1, 2], "2013-07-02T00:00:00Z");
    store.write("flights/empty.csv", "", "2013-07-02T00:00:00Z");
    store.write("flights/good.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 3);
    let errors: Vec<_> = pass.report.objects.iter().filter_map(|object| object.error.as_deref()).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("flights/bad.csv.gz") && errors[1].contains("the object is empty"), "{errors:?}");
    assert_eq!(pass.seen.len(), 3);
    assert_eq!(pass.report.objects[2].rows_accepted, 3);
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_tried_again_and_one_that_stays_down_is_left_for_later() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 3), "2013-07-02T00:00:00Z");
    store.failures.store(3, Ordering::SeqCst);
    assert_eq!(ingest(&store, &BTreeMap::new()).await.accepted.len(), 3);
    store.failures.store(100, Ordering::SeqCst);
    let down = ingest(&store, &BTreeMap::new()).await;
    assert!(down.report.objects[0].retryable && down.seen.is_empty());
}

#[tokio::test]
async fn an_object_with_too_many_bad_rows_is_refused_as_a_whole() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    for row in rows.iter_mut().take(100) {
        row.dest = "XXX".into();
    }
    store.write("flights/1.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 3), "2013-07-03T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 3);
    let error = pass.report.objects[0].error.as_deref().unwrap();
    assert!(error.contains("100 of 300 rows are quarantined") && error.contains("unknown_airport"), "{error}");
}

#[tokio::test]
async fn a_dataset_is_stored_read_verified_and_made_again_and_every_difference_is_told() {
    let store = MemoryStore::default();
    store.write("flights/1.parquet", day(1, 30), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 20), "2013-07-03T00:00:00Z");
    let contract = Contract::built_in().unwrap();
    let limits = ParseLimits::default();
    let airports = airports();
    let context = BuildContext { contract: &contract, airports: &airports, mapping: None, limits: &limits };
    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-03T00:00:00Z"),
        as_of: utc("2013-07-03T00:00:00Z"),
        policy: "fresh 7 days".into(),
    };
    let sources =
        [SourceVersion::of("flights/1.parquet", &day(1, 30)), SourceVersion::of("flights/2.parquet", &day(2, 20))];
    let built = dataset::build_dataset(&store, &sources, &window, context).await.unwrap();
    assert_eq!((built.manifest.rows, built.manifest.sources[1].rows_accepted), (50, 20));
    let version = dataset::store_dataset(&store, &built.manifest, &built.records).await.unwrap();
    assert_eq!(version, dataset::store_dataset(&store, &built.manifest, &built.records).await.unwrap());
    let (manifest, records) = dataset::load_dataset(&store, &version).await.unwrap();
    assert_eq!((manifest, &records), (built.manifest.clone(), &built.records));
    assert!(dataset::verify_dataset(&store, &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(&store, &version, context).await.unwrap(), records);

    store.write("flights/2.parquet", day(2, 21), "2013-07-04T00:00:00Z");
    let verification = dataset::verify_dataset(&store, &version).await.unwrap();
    assert!(verification.rows.is_empty() && verification.sources.len() == 1, "{verification:?}");
    let error = dataset::rebuild_dataset(&store, &version, context).await.unwrap_err().to_string();
    assert!(
        error.contains("flights/2.parquet of sha256:")
            && error.contains("cannot be read any more")
            && error.contains("30 rows; the manifest says 50"),
        "{error}"
    );

    let rows_key = format!("datasets/{}/flights.parquet", version.hex());
    store.write(&rows_key, parquet::write_flights(&records[1..]).unwrap(), "2013-07-04T00:00:00Z");
    assert_eq!(dataset::verify_dataset(&store, &version).await.unwrap().rows.len(), 2);
    let manifest_key = format!("datasets/{}/manifest.json", version.hex());
    store.write(&manifest_key, "{}", "2013-07-04T00:00:00Z");
    assert!(dataset::load_manifest(&store, &version).await.unwrap_err().to_string().contains("backup"));
}

#[tokio::test]
async fn a_dataset_is_made_and_made_again_after_its_logs_were_deleted_or_overwritten() {
    let store = Arc::new(MemoryStore::default());
    store.write("flights/1.parquet", day(1, 30), "2013-07-02T00:00:00Z");
    store.write("flights/2.parquet", day(2, 20), "2013-07-03T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    assert_eq!(pass.accepted.len(), 50);
    store.delete("flights/1.parquet").await.unwrap();
    store.write("flights/2.parquet", "dear sir or madam", "2013-07-04T00:00:00Z");
    let contract = Contract::built_in().unwrap();
    let (airports, limits) = (airports(), ParseLimits::default());
    let context = BuildContext { contract: &contract, airports: &airports, mapping: None, limits: &limits };
    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-03T00:00:00Z"),
        as_of: utc("2013-07-03T00:00:00Z"),
        policy: "all".into(),
    };
    let sources: Vec<SourceVersion> = pass
        .seen
        .values()
        .map(|known| SourceVersion { key: known.meta.key.clone(), sha256: known.sha256.clone() })
        .collect();
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    assert_eq!((built.records.len(), built.report.left_out.len()), (50, 0));
    let version = dataset::store_dataset(store.as_ref(), &built.manifest, &built.records).await.unwrap();
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(store.as_ref(), &version, context).await.unwrap().len(), 50);

    // Of a log without a copy the others are left, and the report says which one is missing, and why.
    store.delete(&copy_key(&Digest::of(&day(1, 30)))).await.unwrap();
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    assert_eq!((built.records.len(), built.report.failures.len()), (20, 0));
    let [lost] = built.report.left_out.as_slice() else { panic!("{:?}", built.report.left_out) };
    assert!(lost.key == "flights/1.parquet" && lost.reason.contains("no such object"), "{lost:?}");
    // A damaged copy does not count for what it is not.
    let copy = copy_key(&Digest::of(&day(2, 20)));
    store.write(&copy, "damaged", "2013-07-04T00:00:00Z");
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    let failure = built.report.failures.join("; ");
    assert!(failure.contains("none of the 2 flight logs can be read any more"), "{failure}");
}

#[tokio::test]
async fn rows_are_counted_by_what_became_of_them_and_the_refused_ones_are_kept() {
    let store = Arc::new(MemoryStore::default());
    let mut rows: Vec<_> = (1..=10).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.push(rows[0].clone());
    rows[9].dest = "XXX".into();
    store.write("flights/1.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &BTreeMap::new()).await;
    let object = &pass.report.objects[0];
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (11, 9, 1, 1));

    let mut rows: Vec<_> = (1..=300).map(|number| flight(number, "LAX", "2013-07-01T12:00:00Z", 5, 3)).collect();
    rows.iter_mut().take(100).for_each(|row| row.dest = "XXX".into());
    store.write("flights/2.parquet", parquet::write_flights(&rows).unwrap(), "2013-07-02T00:00:00Z");
    let pass = ingest(&store, &pass.seen).await;
    let object = &pass.report.objects[0];
    assert_eq!((object.rows, object.rows_accepted, object.rows_quarantined, object.rows_duplicate), (300, 0, 100, 0));
    assert_eq!(pass.quarantined.len(), 100, "an administrator sees which rows are the fault");
    assert!(store.list("sources/").await.unwrap().len() == 1, "nothing is kept of what was refused");
}
