//! The image that packaging builds: reproducible, layered, and readable by other tools.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use delayd_testkit::contracts;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use contracts::layouts::request;
use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::{PackagedImage, PackagingError, package};

/// Path, mode and content of every entry of a layer.
fn entries(image: &PackagedImage, layer: &Digest) -> BTreeMap<String, (u32, Vec<u8>)> {
    let blob = File::open(Layout::at(&image.layout_dir).blob_path(layer)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(blob));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path, (entry.header().mode().unwrap(), content))
    });
    entries.collect()
}

fn config(image: &PackagedImage) -> serde_json::Value {
    let layout = Layout::at(&image.layout_dir);
    let manifest: Manifest = layout.document(&layout.image("model_v1").unwrap()).unwrap();
    layout.document(&manifest.config).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_image_in_any_folder_and_at_any_time() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = package(&request(here.path(), 1, b"weights")).unwrap();
    let request_there = request(there.path(), 1, b"weights");
    // Neither times, nor modes, nor what else lies in the folder go into the image.
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::options().write(true).open(&request_there.service_binary).unwrap().set_modified(old).unwrap();
    std::fs::write(request_there.bundle_dir.join(".junk"), "junk").unwrap();
    let second = package(&request_there).unwrap();
    assert_eq!(first.manifest, second.manifest);
    assert_eq!((first.tag.as_str(), first.size_bytes), ("delay-ml:model_v1", second.size_bytes));
}

#[test]
fn packaging_again_replaces_the_layout_by_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let first = package(&request).unwrap();
    std::fs::remove_file(request.layout_dir.join("index.json")).unwrap();
    assert_eq!(package(&request).unwrap(), first);
    assert!(request.layout_dir.join("index.json").exists());
}

#[test]
fn between_versions_only_the_model_layer_changes() {
    let folder = tempfile::tempdir().unwrap();
    let first = package(&request(folder.path(), 1, b"old weights")).unwrap();
    let second = package(&request(folder.path(), 2, b"new weights")).unwrap();
    assert_eq!(first.service_layer, second.service_layer);
    assert_ne!(first.model_layer, second.model_layer);
    assert_ne!(first.manifest, second.manifest);
}

#[test]
fn the_layers_hold_what_the_service_needs_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    let service = entries(&image, &image.service_layer);
    let paths: Vec<(&str, u32)> = service.iter().map(|(path, (mode, _))| (path.as_str(), *mode)).collect();
    let expected =
        [("delayd-serve", 0o755), ("etc/", 0o755), ("etc/group", 0o644), ("etc/passwd", 0o644), ("tmp/", 0o1777)];
    assert_eq!(paths, expected);
    assert_eq!(service["delayd-serve"].1, std::fs::read(&request.service_binary).unwrap());
    assert!(String::from_utf8_lossy(&service["etc/passwd"].1).contains("nonroot:x:65532:65532:"));
    let model = entries(&image, &image.model_layer);
    let paths: Vec<&str> = model.keys().map(String::as_str).collect();
    assert_eq!(paths, ["bundle/", "bundle/features.json", "bundle/manifest.json", "bundle/weights.safetensors"]);
    assert_eq!(model["bundle/weights.safetensors"].1, b"weights");
}

#[test]
fn the_configuration_starts_the_service_with_its_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let mut config = config(&image);
    // The digests follow from the test's bytes; the layer tests cover them.
    config["rootfs"]["diff_ids"] = serde_json::json!(["<service>", "<model>"]);
    insta::assert_json_snapshot!(config);
}

#[test]
fn the_diff_ids_are_the_digests_of_the_uncompressed_layers() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let found: Vec<String> = [&image.service_layer, &image.model_layer]
        .map(|layer| {
            let blob = File::open(Layout::at(&image.layout_dir).blob_path(layer)).unwrap();
            let mut archive = Vec::new();
            flate2::read::GzDecoder::new(blob).read_to_end(&mut archive).unwrap();
            Digest::of(&archive).to_string()
        })
        .to_vec();
    assert_eq!(config(&image)["rootfs"]["diff_ids"], serde_json::json!(found));
}

#[test]
fn a_damaged_bundle_is_not_packaged_and_the_old_layout_stays() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 1, b"weights");
    let image = package(&request).unwrap();
    std::fs::write(request.bundle_dir.join("weights.safetensors"), "bit rot").unwrap();
    let error = package(&request).unwrap_err();
    assert!(matches!(&error, PackagingError::Damaged { path, .. } if path.ends_with("weights.safetensors")), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(Layout::at(&image.layout_dir).has(&image.manifest).unwrap());
    assert!(!folder.path().join(".layout_v1.partial").exists());
}

#[test]
fn another_bundle_than_the_registered_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), 1, b"weights");
    request.bundle = Digest::of(b"another");
    assert!(matches!(package(&request).unwrap_err(), PackagingError::Damaged { .. }));
}

#[test]
fn a_dynamic_executable_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(folder.path(), 1, b"weights");
    request.service_binary = std::env::current_exe().unwrap();
    let error = package(&request).unwrap_err();
    assert!(error.to_string().contains("is dynamically linked"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    request.service_must_be_static = false;
    package(&request).unwrap();
}

fn skopeo(arguments: &[&str]) -> Option<serde_json::Value> {
    let Ok(output) = Command::new("skopeo").args(arguments).output() else {
        eprintln!("SKIPPED: skopeo is not installed, so its view of the image is not checked");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn oci_reference(layout: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.display())
}

#[test]
fn skopeo_reads_the_image_and_copies_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = package(&request(folder.path(), 1, b"weights")).unwrap();
    let reference = oci_reference(&image.layout_dir, "model_v1");
    let Some(seen) = skopeo(&["inspect", &reference]) else { return };
    assert_eq!(seen["Digest"], image.manifest.as_str());
    assert_eq!(seen["Labels"]["dev.delayd.model.version"], "model_v1");
    assert_eq!(seen["Layers"], serde_json::json!([image.service_layer, image.model_layer]));
    assert_eq!((&seen["Architecture"], &seen["Os"]), (&"amd64".into(), &"linux".into()));
    // A copy reads, verifies and unpacks every blob.
    let copy = oci_reference(&folder.path().join("copy"), "model_v1");
    skopeo(&["--insecure-policy", "copy", &reference, &copy]);
    assert!(Layout::at(&folder.path().join("copy")).has(&image.manifest).unwrap());
}
