//! Large objects: uploads in parts, reads in ranges, and what is left of a failure.

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_outside::cloud::s3::{S3Settings, S3Store};
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Trouble};
use delayd_testkit::tools::assert_error;

use crate::s3_contract::noise;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_large_object_is_written_in_parts_and_read_in_ranges() {
    let server = S3Server::start().await;
    let store = server.store();
    let body = noise(17 * MIB + 5, 1);
    store.put("bundles/large", body.clone()).await.unwrap();
    let mut seen = server.seen();
    seen[1..5].sort();
    let parts = ["UploadPart 1", "UploadPart 2", "UploadPart 3", "UploadPart 4"];
    assert_eq!(seen, [&["CreateMultipartUpload"], &parts[..], &["CompleteMultipartUpload"]].concat());
    assert_eq!(std::fs::read(server.bucket().join("bundles/large")).unwrap(), body);
    assert_eq!(store.get("bundles/large").await.unwrap(), body);
    let mut seen = server.seen();
    seen.sort();
    let ranges = ["0-5242879", "10485760-15728639", "15728640-17825796", "5242880-10485759"];
    assert_eq!(seen, ranges.map(|range| format!("GetObject {range}")));
    assert_eq!(store.list("bundles/").await.unwrap()[0].size_bytes, body.len() as u64);
    assert!(!server.has_leftovers());
}

#[tokio::test]
async fn a_small_object_is_one_request_each_way() {
    let server = S3Server::start().await;
    let store = server.store();
    for length in [1, 1000, 5 * MIB] {
        let body = noise(length, 2);
        store.put("small", body.clone()).await.unwrap();
        assert_eq!(store.get("small").await.unwrap(), body);
        assert_eq!(server.seen(), ["PutObject", "GetObject 0-5242879"], "{length} bytes");
    }
}

#[tokio::test]
async fn a_part_that_fails_for_a_while_is_sent_again_alone() {
    let server = S3Server::start().await;
    server.trouble("UploadPart", Trouble::DoneButLost, 3);
    let body = noise(12 * MIB, 3);
    server.store().put("large", body.clone()).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|seen| seen.starts_with("UploadPart")).count(), 3 + 3, "{seen:?}");
    assert_eq!(server.store().get("large").await.unwrap(), body);
}

#[tokio::test]
async fn an_upload_that_fails_is_ended_and_the_old_object_stays() {
    let server = S3Server::start().await;
    let store = server.store();
    store.put("large", Bytes::from_static(b"old")).await.unwrap();
    for operation in ["UploadPart", "CompleteMultipartUpload"] {
        server.trouble(operation, Trouble::Denied, 1);
        let error = store.put("large", noise(12 * MIB, 4)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(server.seen().contains(&"AbortMultipartUpload".to_owned()), "{operation}");
        assert!(!server.has_leftovers(), "{operation}");
        assert_eq!(store.get("large").await.unwrap(), "old");
        server.seen();
    }
}

#[tokio::test]
async fn an_upload_nobody_waits_for_any_more_is_ended() {
    let server = S3Server::start().await;
    let store = server.store();
    server.trouble("UploadPart", Trouble::Hangs, 3);
    tokio::select! {
        outcome = store.put("large", noise(12 * MIB, 5)) => panic!("{outcome:?}"),
        () = server.has_seen("UploadPart") => {}
    }
    server.has_seen("AbortMultipartUpload").await;
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_object_that_is_too_large_for_us_is_refused_before_it_is_fetched() {
    let server = S3Server::start().await;
    let store = S3Store::new(S3Settings { maximum_object_bytes: 6 << 20, ..server.settings() });
    std::fs::write(server.bucket().join("large"), noise(7 * MIB, 6)).unwrap();
    let error = store.get("large").await.unwrap_err();
    assert_error(&error, ErrorKind::Exhausted, &["maximum_object_bytes"]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_read_again() {
    for overlooks_conditions in [false, true] {
        let server = S3Server::start().await;
        server.plan.lock().unwrap().overlooks_conditions = overlooks_conditions;
        let store = Arc::new(server.store());
        let (old, new) = (noise(12 * MIB, 7), noise(13 * MIB, 8));
        store.put("swapped", old).await.unwrap();
        let (writer, body) = (store.clone(), new.clone());
        let swap = Box::pin(async move { writer.put("swapped", body).await.unwrap() });
        server.plan.lock().unwrap().after_gets.push(swap);
        assert_eq!(store.get("swapped").await.unwrap(), new, "overlooks conditions: {overlooks_conditions}");
    }
}

#[tokio::test]
async fn an_object_that_keeps_changing_is_reported() {
    let server = S3Server::start().await;
    let store = Arc::new(server.store());
    store.put("swapped", noise(12 * MIB, 9)).await.unwrap();
    for seed in 10..60 {
        let writer = store.clone();
        let swap = Box::pin(async move { writer.put("swapped", noise(6 * MIB, seed)).await.unwrap() });
        server.plan.lock().unwrap().after_gets.push(swap);
    }
    let error = store.get("swapped").await.unwrap_err();
    assert_error(&error, ErrorKind::Conflict, &["changed while it was read"]);
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_written_are_reported() {
    let server = S3Server::start().await;
    let store = server.store();
    let mut body = noise(12 * MIB, 11).to_vec();
    store.put("damaged", body.clone().into()).await.unwrap();
    body[9 * MIB] ^= 1;
    std::fs::write(server.bucket().join("damaged"), body).unwrap();
    let error = store.get("damaged").await.unwrap_err();
    assert_error(&error, ErrorKind::Corrupt, &["SHA-256", BUCKET]);
}

// ----------------------------------------------------------------
// How fast 64 MiB move, next to what the SDK does by itself. Run it alone:
// `cargo nextest run --release --test it --run-ignored only --no-capture`.

const ROUNDS: usize = 7;

/// The plain SDK over plain HTTP, one request each way.
fn plain(server: &S3Server) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.url())
        .force_path_style(true)
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The time of one thing done.
async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let start = Instant::now();
    let done = work.await;
    (start.elapsed(), done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "it measures"]
async fn sixty_four_mebibytes_next_to_the_plain_sdk() {
    let server = S3Server::start().await;
    let sdk = plain(&server);
    let defaults = S3Settings::default();
    let (part_bytes, threshold) = (defaults.part_bytes, defaults.multipart_threshold_bytes);
    let store = |multipart_threshold_bytes| {
        S3Store::new(S3Settings { part_bytes, multipart_threshold_bytes, ..server.settings() })
    };
    let (in_parts, at_once) = (store(threshold), store(128 << 20));
    let body: Bytes = noise(64 << 20, 1);
    let plain_put = async || {
        let request = sdk.put_object().bucket(BUCKET).key("plain").body(ByteStream::from(body.clone()));
        request.send().await.unwrap();
    };
    let plain_get = async || {
        let answer = sdk.get_object().bucket(BUCKET).key("plain").send().await.unwrap();
        assert!(answer.body.collect().await.unwrap().into_bytes() == body);
    };
    let put = async |store: &S3Store, key: &str| store.put(key, body.clone()).await.unwrap();
    let get = async |store: &S3Store, key: &str| assert!(store.get(key).await.unwrap() == body);
    let mut times: [Vec<Duration>; 6] = Default::default();
    for round in 0..=ROUNDS {
        // In another order each time, because a write feels the one before it.
        for turn in 0..3 {
            let (way, time) = match (round + turn) % 3 {
                0 => (0, timed(plain_put()).await.0),
                1 => (1, timed(put(&in_parts, "parts")).await.0),
                _ => (2, timed(put(&at_once, "once")).await.0),
            };
            times[way].push(time);
        }
        times[3].push(timed(plain_get()).await.0);
        times[4].push(timed(get(&in_parts, "parts")).await.0);
        times[5].push(timed(get(&at_once, "once")).await.0);
    }
    let digest = timed(async { Digest::of(&body) }).await.0;
    // The first round warms up.
    let times = times.map(|times| median(times[1..].to_vec()));
    eprintln!("64 MiB, median of {ROUNDS} rounds, time and its ratio to the plain SDK's single request");
    let ways = ["put, plain SDK", "put in parts", "put at once", "get, plain SDK", "get in parts", "get at once"];
    for (way, (what, time)) in ways.iter().zip(times).enumerate() {
        let ratio = time.as_secs_f64() / times[way / 3 * 3].as_secs_f64();
        eprintln!("{what:<16} {:>6} ms  {ratio:.2}", time.as_millis());
    }
    eprintln!("SHA-256 alone    {:>6} ms", digest.as_millis());
}

#[tokio::test]
#[ignore = "it measures"]
async fn an_outage_as_one_call_sees_it() {
    const CALLS: usize = 20;
    let server = S3Server::start().await;
    server.store().put("small", noise(1000, 1)).await.unwrap();
    let defaults = S3Settings::default();
    for outage_ms in [250, 1000, 5000] {
        let (mut outlasted, mut waits) = (0, Vec::new());
        for _ in 0..CALLS {
            let proxy = FlakyProxy::before(server.address).await;
            let store = S3Store::new(S3Settings {
                attempts: defaults.attempts,
                retry_pause_ms: defaults.retry_pause_ms,
                longest_retry_pause_ms: defaults.longest_retry_pause_ms,
                ..S3Server::settings_at(&proxy.url())
            });
            proxy.set(Mood::Down);
            let back = async {
                tokio::time::sleep(Duration::from_millis(outage_ms)).await;
                proxy.set(Mood::Pass);
            };
            let ((wait, outcome), ()) = tokio::join!(timed(store.get("small")), back);
            waits.push(wait);
            match outcome {
                Ok(_) => outlasted += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            // The next call after the outage works at once.
            assert_eq!(store.get("small").await.unwrap(), noise(1000, 1));
        }
        eprintln!("outage of {outage_ms} ms: {outlasted} of {CALLS} calls outlast it, median {:?}", median(waits));
    }
}
