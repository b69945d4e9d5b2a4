//! Large objects: uploads in parts, reads in ranges, and what is left of a failure.

use std::sync::Arc;

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_outside::cloud::s3::{S3Settings, S3Store};

use crate::s3_object_store::noise;
use delayd_testkit::s3_server::{BUCKET, S3Server, Trouble};

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
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("maximum_object_bytes"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_read_anew() {
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
async fn an_object_that_never_stands_still_is_told() {
    let server = S3Server::start().await;
    let store = Arc::new(server.store());
    store.put("swapped", noise(12 * MIB, 9)).await.unwrap();
    for seed in 10..60 {
        let writer = store.clone();
        let swap = Box::pin(async move { writer.put("swapped", noise(6 * MIB, seed)).await.unwrap() });
        server.plan.lock().unwrap().after_gets.push(swap);
    }
    let error = store.get("swapped").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_written_are_told() {
    let server = S3Server::start().await;
    let store = server.store();
    let mut body = noise(12 * MIB, 11).to_vec();
    store.put("damaged", body.clone().into()).await.unwrap();
    body[9 * MIB] ^= 1;
    std::fs::write(server.bucket().join("damaged"), body).unwrap();
    let error = store.get("damaged").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("SHA-256") && error.to_string().contains(BUCKET), "{error}");
}
