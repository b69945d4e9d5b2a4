//! Every object store, against the contract of its port.

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use delayd_core::ports::{ImageRegistry, ObjectStore};
use delayd_outside::local::{FolderStore, OciLayoutRegistry};
use delayd_outside::wrap::{Failing, PlannedFailures, RetryPolicy, Retrying};
use delayd_testkit::contracts;
use delayd_testkit::contracts::layouts;
use delayd_testkit::tools::assert_error;

#[tokio::test]
async fn the_folder_store_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(&folder.path().join("new/store")).unwrap();
    contracts::object_store::keeps_the_whole_contract(&store).await;
}

#[tokio::test]
async fn a_wrapped_store_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = Failing::new(FolderStore::open(folder.path()).unwrap(), PlannedFailures::none());
    contracts::object_store::keeps_the_whole_contract(&Retrying::new(store, RetryPolicy::default())).await;
}

#[tokio::test]
async fn objects_survive_reopening_and_abandoned_parts_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    FolderStore::open(folder.path()).unwrap().put("a/b", Bytes::from_static(b"kept")).await.unwrap();
    let abandoned = folder.path().join(".staging/.staged-0-4194999");
    std::fs::write(&abandoned, "half").unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    assert_eq!(store.get("a/b").await.unwrap(), "kept");
    assert!(!abandoned.exists());
}

#[tokio::test]
async fn the_staging_area_is_out_of_reach() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let error = store.put(".staging/a", Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_symbolic_link_does_not_lead_out_of_the_store() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let store = FolderStore::open(inside.path()).unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("linked")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("file")).unwrap();
    for key in ["linked/secret", "file"] {
        assert_eq!(store.get(key).await.unwrap_err().kind(), ErrorKind::Invalid, "{key}");
        assert_eq!(store.put(key, Bytes::new()).await.unwrap_err().kind(), ErrorKind::Invalid, "{key}");
        assert_eq!(store.delete(key).await.unwrap_err().kind(), ErrorKind::Invalid, "{key}");
    }
    assert!(store.list("").await.unwrap().is_empty());
    assert_eq!(store.list("linked/").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_key_below_an_object_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    store.put("a", Bytes::from_static(b"object")).await.unwrap();
    let error = store.put("a/b", Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(store.get("a").await.unwrap(), "object");
}

/// A file system of 256 KiB, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "none"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_leaves_the_old_object_and_nothing_half_written() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: a_full_disk_…: this user may not mount a tmpfs");
        return;
    };
    let store = FolderStore::open(disk.path()).unwrap();
    store.put("old", Bytes::from_static(b"old")).await.unwrap();
    let large = Bytes::from(vec![1_u8; 1 << 20]);
    for key in ["old", "new"] {
        let error = store.put(key, large.clone()).await.unwrap_err();
        assert_error(&error, ErrorKind::Exhausted, &[key]);
    }
    assert_eq!(store.get("old").await.unwrap(), "old");
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(disk.path().join(".staging")).unwrap().count(), 0);
    store.put("new", Bytes::from_static(b"fits again")).await.unwrap();
}

// ----------------------------------------------------------------
// Every image registry, against the contract of its port.

#[tokio::test]
async fn the_layout_registry_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let registry = OciLayoutRegistry::open(folder.path()).unwrap();
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
}

#[tokio::test]
async fn a_wrapped_registry_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Retrying::new(OciLayoutRegistry::open(folder.path()).unwrap(), RetryPolicy::default());
    contracts::image_registry::keeps_the_whole_contract(&registry).await;
}

#[tokio::test]
async fn a_blob_that_was_damaged_in_the_registry_is_pushed_again() {
    let folder = tempfile::tempdir().unwrap();
    let registry = OciLayoutRegistry::open(&folder.path().join("registry")).unwrap();
    let (image, layout) = layouts::image(folder.path(), 1);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let blob = folder.path().join("registry/delay-ml/blobs/sha256").join(image.service_layer.hex());
    std::fs::write(&blob, "bit rot").unwrap();
    let pushed = registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    assert_eq!((pushed.layers_pushed, pushed.layers_reused), (1, 1));
    assert!(std::fs::metadata(&blob).unwrap().len() > 100);
}

#[tokio::test]
async fn a_damaged_manifest_does_not_pass_for_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let registry = OciLayoutRegistry::open(&folder.path().join("registry")).unwrap();
    let (image, layout) = layouts::image(folder.path(), 1);
    registry.push(&layout, "delay-ml", "model_v1").await.unwrap();
    let blob = folder.path().join("registry/delay-ml/blobs/sha256").join(image.manifest.hex());
    std::fs::write(blob, "{}").unwrap();
    let error = registry.resolve("delay-ml", "model_v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn concurrent_pushes_keep_all_tags() {
    let folder = tempfile::tempdir().unwrap();
    let registry = OciLayoutRegistry::open(&folder.path().join("registry")).unwrap();
    let layouts: Vec<_> = (1..=6).map(|version| layouts::image(folder.path(), version)).collect();
    let tags: Vec<String> = (1..=6).map(|version| format!("model_v{version}")).collect();
    let pushes = layouts.iter().zip(&tags).map(|((_, layout), tag)| registry.push(layout, "delay-ml", tag));
    for outcome in futures::future::join_all(pushes).await {
        outcome.unwrap();
    }
    for ((image, _), tag) in layouts.iter().zip(&tags) {
        assert_eq!(registry.resolve("delay-ml", tag).await.unwrap().as_ref(), Some(&image.manifest));
    }
}

// ----------------------------------------------------------------
// Wrappers around ports: trying again, and failing by plan.

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
async fn attempts_are_bounded_and_the_last_error_is_reported() {
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
