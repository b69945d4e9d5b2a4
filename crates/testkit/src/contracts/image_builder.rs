//! The contract of `ImageBuilder`. What it builds is small and made up; whether it
//! runs is another test's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;
use delayd_outside::packaging::ImageBuilder;
use delayd_outside::packaging::oci::{Layout, Manifest};
use delayd_outside::packaging::{PackageRequest, PackagedImage, package};

use super::layouts::request;

pub async fn keeps_the_whole_contract(builder: &dyn ImageBuilder) {
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = request(folder.path(), 1, b"weights");
    wanted.service_revision = "0123456789abcdef".to_owned();
    wanted.service_source = Some("https://git.example.com/delayd.git".to_owned());

    // It is the image that packaging describes, whoever builds it.
    let image = builder.build(&wanted).await.unwrap();
    assert_eq!((image.tag.as_str(), &image.layout_dir), ("delay-ml:model_v1", &wanted.layout_dir));
    let described = described(&wanted, folder.path());
    assert_eq!(files(&image), files(&described));
    assert_eq!(run_config(&image), run_config(&described));
    assert_eq!(manifest(&image).annotations, manifest(&described).annotations);
    let source = &manifest(&image).annotations["org.opencontainers.image.source"];
    assert_eq!(source, "https://git.example.com/delayd.git");

    // Every blob is what its digest says, and nothing else lies about.
    let layout = Layout::at(&image.layout_dir);
    let found = manifest(&image);
    let blobs = [&image.manifest, &found.config.digest, &image.service_layer, &image.model_layer];
    for blob in blobs {
        assert!(layout.has(blob).unwrap(), "{blob}");
    }
    assert_eq!(std::fs::read_dir(layout.blobs_dir()).unwrap().count(), 4);
    let diff_ids = &config(&image)["rootfs"]["diff_ids"];
    assert_eq!(diff_ids, &serde_json::json!([diff_id(&image, 0), diff_id(&image, 1)]));

    // Of the next version only the model's layer is new.
    let next = builder.build(&request(folder.path(), 2, b"other weights")).await.unwrap();
    assert_eq!(next.service_layer, image.service_layer);
    assert_ne!(next.model_layer, image.model_layer);

    // Again is the same as once.
    let again = builder.build(&wanted).await.unwrap();
    assert_eq!((&again.service_layer, &again.model_layer), (&image.service_layer, &image.model_layer));

    // What cannot be an image is refused, and the layout that was there stays.
    std::fs::write(wanted.bundle_dir.join("weights.safetensors"), "bit rot").unwrap();
    let error = builder.build(&wanted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(layout.has(&again.manifest).unwrap());
    let leftovers: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(leftovers, Vec::<String>::new());
    builder.discard("delay-ml", "model_v1").await.unwrap();
    builder.discard("delay-ml", "model_v1").await.unwrap();
}

fn described(wanted: &PackageRequest, folder: &Path) -> PackagedImage {
    package(&PackageRequest { layout_dir: folder.join("described"), ..wanted.clone() }).unwrap()
}

fn manifest(image: &PackagedImage) -> Manifest {
    let layout = Layout::at(&image.layout_dir);
    let (_, tag) = image.tag.split_once(':').unwrap();
    layout.document(&layout.image(tag).unwrap()).unwrap()
}

fn config(image: &PackagedImage) -> serde_json::Value {
    Layout::at(&image.layout_dir).document(&manifest(image).config).unwrap()
}

/// What a container of the image starts with; engines write more than that.
fn run_config(image: &PackagedImage) -> serde_json::Value {
    let config = config(image);
    let keys =
        ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels", "StopSignal"].map(str::to_owned);
    let run: serde_json::Map<_, _> =
        keys.into_iter().map(|key| (key.clone(), config["config"][&key].clone())).collect();
    serde_json::json!({ "os": config["os"], "architecture": config["architecture"], "config": run })
}

fn unpacked(image: &PackagedImage, layer: usize) -> Vec<u8> {
    let digest = &manifest(image).layers[layer].digest;
    let blob = File::open(Layout::at(&image.layout_dir).blob_path(digest)).unwrap();
    let mut archive = Vec::new();
    flate2::read::GzDecoder::new(blob).read_to_end(&mut archive).unwrap();
    archive
}

fn diff_id(image: &PackagedImage, layer: usize) -> Digest {
    Digest::of(&unpacked(image, layer))
}

/// A file's mode, owner, time and content.
type Found = (u32, u64, u64, u64, Vec<u8>);

/// Every file and folder of both layers.
fn files(image: &PackagedImage) -> BTreeMap<(usize, String), Found> {
    let mut files = BTreeMap::new();
    for layer in 0..2 {
        let bytes = unpacked(image, layer);
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            let (mode, time) = (header.mode().unwrap() & 0o7777, header.mtime().unwrap());
            let path = entry.path().unwrap().display().to_string();
            let found = (mode, header.uid().unwrap(), header.gid().unwrap(), time, content);
            files.insert((layer, path.trim_end_matches('/').to_owned()), found);
        }
    }
    files
}
