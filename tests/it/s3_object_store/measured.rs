//! How fast 64 MiB move, next to what the SDK does by itself. Run it alone:
//! `cargo nextest run --release --test s3_object_store --run-ignored only --no-capture`.

use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;
use delayd_outside::cloud::s3::{S3Settings, S3Store};

use crate::s3_object_store::noise;
use delayd_testkit::contracts::flaky_proxy::{FlakyProxy, Mood};
use delayd_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

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
