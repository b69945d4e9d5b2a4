//! The contract of the port, path style and through TLS; listings; the probe.

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_core::secret::Secret;
use delayd_outside::cloud::s3::{S3Settings, S3Store};

use delayd_testkit::contracts::flaky_proxy::TlsFront;
use delayd_testkit::contracts::object_store::keeps_the_whole_contract;
use delayd_testkit::s3_server::{BUCKET, S3Server};

#[tokio::test]
async fn the_s3_store_keeps_the_contract() {
    let server = S3Server::start().await;
    keeps_the_whole_contract(&server.store()).await;
}

#[tokio::test]
async fn the_s3_store_keeps_the_contract_under_a_prefix_and_through_tls_with_an_authority_of_its_own() {
    let server = S3Server::start().await;
    let tls = TlsFront::before(server.address).await;
    let mut settings = S3Server::settings_at(&format!("https://localhost:{}", tls.address.port()));
    settings.prefix = "delayd/main".to_owned();
    settings.http.ca_path = tls.ca_path.clone();
    keeps_the_whole_contract(&S3Store::new(settings)).await;
}

#[tokio::test]
async fn stores_under_different_prefixes_do_not_see_each_other() {
    let server = S3Server::start().await;
    let under = |prefix: &str| S3Store::new(S3Settings { prefix: prefix.to_owned(), ..server.settings() });
    let (one, two) = (under("one"), under("one-more/"));
    one.put("a", Bytes::from_static(b"1")).await.unwrap();
    two.put("a", Bytes::from_static(b"2")).await.unwrap();
    assert_eq!((one.list("").await.unwrap().len(), two.list("").await.unwrap().len()), (1, 1));
    two.delete("a").await.unwrap();
    assert_eq!(one.get("a").await.unwrap(), "1");
    assert_eq!(std::fs::read(server.bucket().join("one/a")).unwrap(), b"1");
}

#[tokio::test]
async fn a_listing_goes_over_pages_and_shows_no_key_that_is_none() {
    let server = S3Server::start().await;
    let folder = server.bucket().join("flights");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2300 {
        std::fs::write(folder.join(format!("{number:04}.csv")), "x").unwrap();
    }
    std::fs::write(folder.join("not\\a key"), "x").unwrap();
    let listed = server.store().list("flights/").await.unwrap();
    let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
    let expected: Vec<String> = (0..2300).map(|number| format!("flights/{number:04}.csv")).collect();
    assert_eq!(keys, expected);
    assert_eq!(server.seen(), ["ListObjects"; 3]);
}

#[tokio::test]
async fn the_probe_tells_bucket_region_and_endpoint_and_changes_nothing() {
    let server = S3Server::start().await;
    let told = server.store().probe().await.unwrap();
    assert!(told.contains(BUCKET) && told.contains("us-east-1") && told.contains(&server.url()), "{told}");
    assert_eq!(server.seen(), ["ListObjects", "HeadBucket"]);
    assert!(server.store().list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_probe_tells_a_refused_key_a_missing_bucket_and_a_store_that_is_away_apart() {
    let server = S3Server::start().await;
    let probe = async |settings: S3Settings| S3Store::new(settings).probe().await.unwrap_err();
    let error = probe(S3Settings { secret_access_key: Secret::new("wrong"), ..server.settings() }).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let error = probe(S3Settings { bucket: "elsewhere".to_owned(), ..server.settings() }).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("elsewhere") && error.to_string().contains("NoSuchBucket"), "{error}");
    let error = probe(S3Server::settings_at("http://127.0.0.1:1")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_wrong_secret_key_is_refused_everywhere_and_not_tried_again() {
    let server = S3Server::start().await;
    let store = S3Store::new(S3Settings { secret_access_key: Secret::new("wrong"), ..server.settings() });
    let errors = [
        store.list("").await.unwrap_err(),
        store.get("a").await.unwrap_err(),
        store.put("a", Bytes::from_static(b"x")).await.unwrap_err(),
        store.delete("a").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!error.to_string().contains("tried"), "{error}");
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_missing_bucket_is_no_missing_object() {
    let server = S3Server::start().await;
    let store = S3Store::new(S3Settings { bucket: "elsewhere".to_owned(), ..server.settings() });
    let error = store.get("a").await.unwrap_err();
    assert!(error.to_string().contains("create it"), "{error}");
    assert!(store.list("").await.is_err());
}
