//! Flight logs and datasets in a bucket.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use delayd_core::ports::ObjectStore;
use delayd_data::contract::Contract;
use delayd_data::dataset::{self, BuildContext, DatasetWindow};
use delayd_data::formats::{ParseLimits, parquet};
use delayd_data::ingest::{IngestOptions, ingest_new};
use delayd_data::sources::SourceVersion;

use delayd_testkit::data_support::{airports, flight, utc};
use delayd_testkit::s3_server::S3Server;

const LOG: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,7,1,917,915,2,1130,1119,11,UA,1545,N14228,EWR,IAH,227,1400,9,15,2013-07-01T13:00:00Z
2013,7,1,1017,1015,2,1230,1219,11,UA,1546,N14228,EWR,IAH,227,1400,10,15,2013-07-01T14:00:00Z
";

fn day(day: u32, flights: u32) -> Vec<u8> {
    let rows: Vec<_> =
        (1..=flights).map(|number| flight(number, "LAX", &format!("2013-07-{day:02}T12:00:00Z"), 5, 3)).collect();
    parquet::write_flights(&rows).unwrap()
}

#[tokio::test]
async fn flight_logs_of_every_form_are_taken_in_from_a_bucket_and_become_a_dataset_in_it() {
    let server = S3Server::start().await;
    let store: Arc<dyn ObjectStore> = Arc::new(server.store());
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(LOG.replace("2013,7,1,", "2013,7,2,").replace("2013-07-01", "2013-07-02").as_bytes()).unwrap();
    store.put("flights/1.csv", LOG.into()).await.unwrap();
    store.put("flights/2.csv.gz", gz.finish().unwrap().into()).await.unwrap();
    store.put("flights/3.parquet", day(3, 30).into()).await.unwrap();
    store.put("other/4.csv", LOG.into()).await.unwrap();

    let (contract, airports, limits) = (Contract::built_in().unwrap(), airports(), ParseLimits::default());
    let now = utc("2013-08-01T00:00:00Z");
    let options = IngestOptions::default();
    let pass = ingest_new(&store, &BTreeMap::new(), &options, &contract, &airports, now).await.unwrap();
    assert_eq!((pass.accepted.len(), pass.report.listed), (34, 3), "{:#?}", pass.report.objects);
    let again = ingest_new(&store, &pass.seen, &options, &contract, &airports, now).await.unwrap();
    assert_eq!((again.accepted.len(), again.report.seen_before), (0, 3));

    let context = BuildContext { contract: &contract, airports: &airports, mapping: None, limits: &limits };
    let window = DatasetWindow {
        from: utc("2013-07-01T00:00:00Z"),
        until: utc("2013-07-04T00:00:00Z"),
        as_of: utc("2013-07-05T00:00:00Z"),
        policy: "fresh 7 days".into(),
    };
    let sources: Vec<SourceVersion> = pass
        .seen
        .values()
        .map(|known| SourceVersion { key: known.meta.key.clone(), sha256: known.sha256.clone() })
        .collect();
    let built = dataset::build_dataset(store.as_ref(), &sources, &window, context).await.unwrap();
    assert_eq!(built.manifest.rows, 34);
    let version = dataset::store_dataset(store.as_ref(), &built.manifest, &built.records).await.unwrap();
    let (manifest, records) = dataset::load_dataset(store.as_ref(), &version).await.unwrap();
    assert_eq!((manifest, &records), (built.manifest, &built.records));
    assert!(dataset::verify_dataset(store.as_ref(), &version).await.unwrap().is_intact());
    assert_eq!(dataset::rebuild_dataset(store.as_ref(), &version, context).await.unwrap(), records);
}
