//! Two daemons that write the same key.

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;

use crate::s3_object_store::noise;
use delayd_testkit::s3_server::{S3Server, Trouble};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn of_two_writers_of_a_large_new_object_one_wins_and_the_other_leaves_nothing() {
    let server = S3Server::start().await;
    let (one, two) = (server.store(), server.store());
    let (mine, theirs) = (noise(12 * MIB, 1), noise(12 * MIB, 2));
    let (first, second) =
        tokio::join!(one.put_if_absent("large", mine.clone()), two.put_if_absent("large", theirs.clone()));
    let winner = match (&first, &second) {
        (Ok(()), Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            mine
        }
        (Err(error), Ok(())) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            theirs
        }
        both => panic!("{both:?}"),
    };
    assert_eq!(one.get("large").await.unwrap(), winner);
    assert!(!server.has_leftovers());
}

#[tokio::test]
async fn a_large_object_that_is_there_is_not_sent() {
    let server = S3Server::start().await;
    let store = server.store();
    store.put("large", Bytes::from_static(b"there")).await.unwrap();
    server.seen();
    let error = store.put_if_absent("large", noise(12 * MIB, 3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(server.seen(), ["HeadObject"]);
}

#[tokio::test]
async fn a_writer_whose_answer_was_lost_knows_its_own_object() {
    for (operation, length) in [("PutObject", 1000), ("CompleteMultipartUpload", 12 * MIB)] {
        let server = S3Server::start().await;
        let store = server.store();
        server.trouble(operation, Trouble::DoneButLost, 1);
        store.put_if_absent("once", noise(length, 4)).await.unwrap();
        assert_eq!(store.get("once").await.unwrap(), noise(length, 4));
        // The same bytes by another writer are another write.
        let error = store.put_if_absent("once", noise(length, 4)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{operation}");
        assert!(!server.has_leftovers());
    }
}

#[tokio::test]
async fn a_put_whose_last_answer_was_lost_succeeds() {
    let server = S3Server::start().await;
    let store = server.store();
    server.trouble("CompleteMultipartUpload", Trouble::DoneButLost, 1);
    store.put("large", noise(12 * MIB, 5)).await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), noise(12 * MIB, 5));
}

#[tokio::test]
async fn on_a_store_that_overlooks_conditions_a_later_writer_still_finds_the_object() {
    let server = S3Server::start().await;
    server.plan.lock().unwrap().overlooks_conditions = true;
    let (one, two) = (server.store(), server.store());
    for (key, length) in [("small", 10), ("large", 12 * MIB)] {
        one.put_if_absent(key, noise(length, 6)).await.unwrap();
        let error = two.put_if_absent(key, noise(length, 7)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(one.get(key).await.unwrap(), noise(length, 6));
    }
}
