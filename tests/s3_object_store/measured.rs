//! How fast 64 MiB move, next to what the SDK does by itself. Run it alone:
//! `cargo nextest run --release --test s3_object_store --run-ignored only --no-capture`.

use std::time::{Duration, Instant};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use delayd::adapters::cloud::s3::{S3Settings, S3Store};
use delayd::ports::ObjectStore;

use crate::noise;
use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "it measures"]
async fn sixty_four_mebibytes_move_as_fast_as_by_the_plain_sdk() {
    let server = S3Server::start().await;
    let sdk = plain(&server);
    let defaults = S3Settings::default();
    let store = S3Store::new(S3Settings {
        part_bytes: defaults.part_bytes,
        multipart_threshold_bytes: defaults.multipart_threshold_bytes,
        ..server.settings()
    });
    let body: Bytes = noise(64 << 20, 1);
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..=ROUNDS {
        let start = Instant::now();
        let request = sdk.put_object().bucket(BUCKET).key("plain").body(ByteStream::from(body.clone()));
        request.send().await.unwrap();
        let plain_put = start.elapsed();
        let start = Instant::now();
        store.put("ours", body.clone()).await.unwrap();
        let our_put = start.elapsed();
        let start = Instant::now();
        let answer = sdk.get_object().bucket(BUCKET).key("plain").send().await.unwrap();
        let plain_bytes = answer.body.collect().await.unwrap().into_bytes();
        let plain_get = start.elapsed();
        let start = Instant::now();
        let our_bytes = store.get("ours").await.unwrap();
        let our_get = start.elapsed();
        assert!(plain_bytes == body && our_bytes == body);
        // The first round warms up.
        if round > 0 {
            for (times, time) in times.iter_mut().zip([plain_put, our_put, plain_get, our_get]) {
                times.push(time);
            }
        }
    }
    let [plain_put, our_put, plain_get, our_get] = times.map(median);
    let ratio = |ours: Duration, plain: Duration| ours.as_secs_f64() / plain.as_secs_f64();
    println!("64 MiB, median of {ROUNDS}");
    println!("put: plain {plain_put:?}, ours {our_put:?}, ratio {:.2}", ratio(our_put, plain_put));
    println!("get: plain {plain_get:?}, ours {our_get:?}, ratio {:.2}", ratio(our_get, plain_get));
}
