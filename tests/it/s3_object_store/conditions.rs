//! Writes that are repeated, and writers at the same moment.

use delayd_core::ports::ObjectStore;

use crate::s3_object_store::noise;
use delayd_testkit::s3_server::{S3Server, Trouble};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn of_two_writers_of_a_large_object_one_is_read_whole_and_nothing_is_left() {
    let server = S3Server::start().await;
    let (one, two) = (server.store(), server.store());
    let (mine, theirs) = (noise(12 * MIB, 1), noise(12 * MIB, 2));
    let (first, second) = tokio::join!(one.put("large", mine.clone()), two.put("large", theirs.clone()));
    first.unwrap();
    second.unwrap();
    let found = one.get("large").await.unwrap();
    assert!(found == mine || found == theirs, "a mixture of both");
    assert!(!server.has_leftovers());
}

#[tokio::test]
async fn a_put_whose_last_answer_was_lost_succeeds() {
    for (operation, length) in [("PutObject", 1000), ("CompleteMultipartUpload", 12 * MIB)] {
        let server = S3Server::start().await;
        let store = server.store();
        server.trouble(operation, Trouble::DoneButLost, 1);
        store.put("once", noise(length, 5)).await.unwrap();
        assert_eq!(store.get("once").await.unwrap(), noise(length, 5));
        assert!(!server.has_leftovers(), "{operation}");
    }
}
