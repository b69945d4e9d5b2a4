//! Images whose layers have the size that a test wants, and comparing two layouts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use delayd_core::ids::Digest;
use delayd_outside::packaging::oci::{
    CONFIG_TYPE, Descriptor, Index, LAYER_TYPE, LAYOUT_FILE, Layout, MANIFEST_TYPE, Manifest, REF_NAME,
};
use rand::{RngCore as _, SeedableRng as _};

/// A layout with one layer of `bytes` bytes that do not compress.
pub fn of_size(folder: &Path, tag: &str, bytes: usize) -> (Digest, PathBuf) {
    let root = folder.join(tag);
    let layout = Layout::at(&root);
    std::fs::create_dir_all(layout.blobs_dir()).unwrap();
    let mut content = vec![0_u8; bytes];
    rand::rngs::SmallRng::seed_from_u64(bytes as u64).fill_bytes(&mut content);
    let blob = |media_type: &str, content: &[u8]| {
        let digest = Digest::of(content);
        std::fs::write(layout.blob_path(&digest), content).unwrap();
        Descriptor::new(media_type, digest, content.len() as u64)
    };
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&content)]},
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config: blob(CONFIG_TYPE, config.to_string().as_bytes()),
        layers: vec![blob(LAYER_TYPE, &content)],
        annotations: BTreeMap::new(),
    };
    let mut image = blob(MANIFEST_TYPE, &serde_json::to_vec(&manifest).unwrap());
    let digest = image.digest.clone();
    image.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    let index = Index { manifests: vec![image], ..Index::default() };
    std::fs::write(layout.index_path(), serde_json::to_vec(&index).unwrap()).unwrap();
    std::fs::write(root.join("oci-layout"), LAYOUT_FILE).unwrap();
    (digest, root)
}

/// The blobs of a layout by name.
pub fn blobs(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = Layout::at(root).blobs_dir();
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}
