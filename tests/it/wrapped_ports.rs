//! Wrappers around ports: trying again, and failing by plan.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_outside::local::FolderStore;
use delayd_outside::wrap::{Failing, PlannedFailures, RetryPolicy, Retrying};

const FAST: RetryPolicy =
    RetryPolicy { attempts: 3, base_delay: Duration::from_millis(1), max_delay: Duration::from_millis(5) };

type Wrapped = Retrying<Failing<FolderStore>>;

fn wrapped(policy: RetryPolicy) -> (tempfile::TempDir, Wrapped, PlannedFailures) {
    let folder = tempfile::tempdir().unwrap();
    let failures = PlannedFailures::none();
    let store = Failing::new(FolderStore::open(folder.path()).unwrap(), failures.clone());
    (folder, Retrying::new(store, policy), failures)
}

#[tokio::test]
async fn a_call_that_fails_for_a_moment_succeeds_in_the_end() {
    let (_folder, store, failures) = wrapped(FAST);
    failures.fail_call("put", 1, ErrorKind::Unavailable);
    failures.fail_call("put", 2, ErrorKind::Timeout);
    store.put("a", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(failures.calls("put"), 3);
    assert_eq!(store.get("a").await.unwrap(), "x");
}

#[tokio::test]
async fn attempts_are_bounded_and_the_last_error_is_told() {
    let (_folder, store, failures) = wrapped(FAST);
    failures.fail_always("get", ErrorKind::Unavailable);
    let error = store.get("a").await.unwrap_err();
    assert_eq!((error.kind(), failures.calls("get")), (ErrorKind::Unavailable, 3));
    failures.heal();
    assert_eq!(store.get("a").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_will_not_get_better_is_not_tried_again() {
    for kind in [ErrorKind::NotFound, ErrorKind::Invalid, ErrorKind::Corrupt, ErrorKind::Denied, ErrorKind::Cancelled] {
        let (_folder, store, failures) = wrapped(FAST);
        failures.fail_always("list", kind);
        assert_eq!(store.list("").await.unwrap_err().kind(), kind);
        assert_eq!(failures.calls("list"), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_repeated() {
    let (_folder, store, failures) = wrapped(FAST);
    failures.fail_call_after_effect("put", 1, ErrorKind::Timeout);
    store.put("a", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(failures.calls("put"), 2);
    assert_eq!(store.get("a").await.unwrap(), "ours");
}

#[tokio::test]
async fn delays_are_bounded() {
    let slow = RetryPolicy { attempts: 6, base_delay: Duration::from_secs(60), max_delay: Duration::from_millis(20) };
    let (_folder, store, failures) = wrapped(slow);
    failures.fail_always("delete", ErrorKind::Unavailable);
    let start = Instant::now();
    store.delete("a").await.unwrap_err();
    assert_eq!(failures.calls("delete"), 6);
    assert!(start.elapsed() < Duration::from_secs(2), "five delays of at most 20 ms");
}
