//! Bundles and executables to package, small and made up, where only their bytes matter.

use std::path::{Path, PathBuf};

use delayd_core::ids::{Digest, ModelVersion};
use delayd_outside::packaging::{PackageRequest, PackagedImage, package};

/// A bundle folder as packaging sees it: a manifest and the files that it lists.
pub fn write_bundle(dir: &Path, weights: &[u8]) -> Digest {
    std::fs::create_dir_all(dir).unwrap();
    let files = [("weights.safetensors", weights), ("features.json", b"{}".as_slice())];
    let entries: serde_json::Map<String, serde_json::Value> = files
        .iter()
        .map(|(name, bytes)| {
            std::fs::write(dir.join(name), bytes).unwrap();
            let entry = serde_json::json!({"sha256": Digest::of(bytes).hex(), "size_bytes": bytes.len()});
            ((*name).to_owned(), entry)
        })
        .collect();
    let manifest = serde_json::json!({"format": 1, "feature_hash": "0", "files": entries}).to_string();
    std::fs::write(dir.join("manifest.json"), &manifest).unwrap();
    Digest::of(manifest.as_bytes())
}

/// The header of a static amd64 executable, and some bytes behind it.
pub fn write_static_binary(path: &Path) {
    let mut bytes = vec![0_u8; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[16] = 2;
    bytes[18] = 62;
    bytes[54] = 56;
    bytes.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
    std::fs::write(path, bytes).unwrap();
}

/// A request for model `version` whose weights are `weights`; inputs and output lie in `folder`.
pub fn request(folder: &Path, version: u64, weights: &[u8]) -> PackageRequest {
    let bundle_dir = folder.join(format!("bundle_v{version}"));
    let service_binary = folder.join("serve-static");
    write_static_binary(&service_binary);
    PackageRequest {
        model: ModelVersion(version),
        bundle: write_bundle(&bundle_dir, weights),
        bundle_dir,
        dataset: "sha256:dataset".to_owned(),
        service_binary,
        service_revision: "0123abc".to_owned(),
        service_source: None,
        service_must_be_static: true,
        repository: "delay-ml".to_owned(),
        layout_dir: folder.join(format!("layout_v{version}")),
    }
}

/// A packaged image and where its layout is.
pub fn image(folder: &Path, version: u64) -> (PackagedImage, PathBuf) {
    let image = package(&request(folder, version, format!("weights of {version}").as_bytes())).unwrap();
    let layout = image.layout_dir.clone();
    (image, layout)
}
