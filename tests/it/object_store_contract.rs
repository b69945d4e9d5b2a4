//! Every object store, against the contract of its port.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ObjectStore;
use delayd_outside::local::FolderStore;
use delayd_outside::wrap::{Failing, PlannedFailures, RetryPolicy, Retrying};

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
async fn a_full_disk_is_told_and_leaves_the_old_object_and_nothing_half_written() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: a_full_disk_…: this user may not mount a tmpfs");
        return;
    };
    let store = FolderStore::open(disk.path()).unwrap();
    store.put("old", Bytes::from_static(b"old")).await.unwrap();
    let large = Bytes::from(vec![1_u8; 1 << 20]);
    for key in ["old", "new"] {
        let error = store.put(key, large.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.to_string().contains(key), "{error}");
    }
    assert_eq!(store.get("old").await.unwrap(), "old");
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(disk.path().join(".staging")).unwrap().count(), 0);
    store.put("new", Bytes::from_static(b"fits again")).await.unwrap();
}
