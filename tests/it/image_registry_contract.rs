//! Every image registry, against the contract of its port.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use contracts::layouts;
use delayd_core::error::ErrorKind;
use delayd_core::ports::ImageRegistry;
use delayd_outside::local::OciLayoutRegistry;
use delayd_outside::wrap::{RetryPolicy, Retrying};

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
