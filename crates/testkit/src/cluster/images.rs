//! Service images from tiny bundles, and the few calls that push one.

use std::path::{Path, PathBuf};

use delayd_core::ids::{Digest, ModelVersion};
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::{PackageRequest, PackagedImage, package};

use crate::contracts::layouts;

const REPOSITORY: &str = "delayd-test/delay-ml";

/// An image and the bundle in it.
pub struct Built {
    pub packaged: PackagedImage,
    pub bundle: Digest,
    pub bundle_dir: PathBuf,
}

/// The static service, if there is one.
pub fn service_binary() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("DELAYD_SERVE_BIN")?);
    path.is_file().then_some(path)
}

/// An image that works; another number gives other weights.
pub fn good(number: u64, folder: &Path) -> Built {
    let dir = folder.join(format!("bundle_{number}"));
    delayd_model::testing::tiny_bundle(number).write_to(&dir).unwrap();
    let bundle = Digest::of(&std::fs::read(dir.join("manifest.json")).unwrap());
    build(number, dir, bundle, folder)
}

/// An image whose digests are all right and whose bundle makes no sense.
pub fn damaged(number: u64, folder: &Path) -> Built {
    let dir = folder.join(format!("bundle_{number}"));
    let bundle = layouts::write_bundle(&dir, b"no weights at all");
    build(number, dir, bundle, folder)
}

fn build(number: u64, bundle_dir: PathBuf, bundle: Digest, folder: &Path) -> Built {
    let request = PackageRequest {
        model: ModelVersion(number),
        bundle_dir: bundle_dir.clone(),
        bundle: bundle.clone(),
        dataset: "test".to_owned(),
        service_binary: service_binary().unwrap(),
        service_revision: "test".to_owned(),
        service_source: None,
        service_must_be_static: true,
        repository: REPOSITORY.to_owned(),
        layout_dir: folder.join(format!("layout_{number}")),
    };
    Built { packaged: package(&request).unwrap(), bundle, bundle_dir }
}

/// Pushes an image to a registry without TLS and login; answers what nodes pull.
pub async fn push(registry: &str, image: &PackagedImage) -> String {
    let client = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
    let base = format!("http://{registry}/v2/{REPOSITORY}");
    let layout = Layout::at(&image.layout_dir);
    let manifest_bytes = std::fs::read(layout.blob_path(&image.manifest)).unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest_bytes).unwrap();
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        let there = client.head(format!("{base}/blobs/{}", blob.digest)).send().await.unwrap();
        if there.status().is_success() {
            continue;
        }
        let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let location = if location.starts_with('/') { format!("http://{registry}{location}") } else { location };
        let separator = if location.contains('?') { '&' } else { '?' };
        let bytes = std::fs::read(layout.blob_path(&blob.digest)).unwrap();
        let put = client.put(format!("{location}{separator}digest={}", blob.digest)).body(bytes).send().await.unwrap();
        assert!(put.status().is_success(), "pushing a blob: {}", put.status());
    }
    let put = client.put(format!("{base}/manifests/{}", image.manifest));
    let put = put.header("content-type", manifest.media_type).body(manifest_bytes).send().await.unwrap();
    assert!(put.status().is_success(), "pushing the manifest: {}", put.status());
    format!("{registry}/{REPOSITORY}@{}", image.manifest)
}
