//! Builds the image: the service's layer, the model's layer, the configuration
//! and the manifest. Two runs over the same inputs give the same digests, on any
//! machine and in any folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use super::oci::{
    CONFIG_TYPE, Descriptor, HashingWriter, Index, LAYER_TYPE, LAYOUT_FILE, Layout, MANIFEST_TYPE, Manifest, Platform,
    REF_NAME,
};
use super::{PackageRequest, PackagedImage, PackagingError, inspect_service};
use delayd_core::ids::Digest;
use delayd_core::own_folder;

/// The user that the service runs as, by distroless's convention for `nonroot`.
const NONROOT: u32 = 65_532;
/// Zero on the Unix clock: an image tells what it holds, not when it was built.
const EPOCH: &str = "1970-01-01T00:00:00Z";
const BUNDLE_MANIFEST: &str = "manifest.json";

/// Builds the image layout that `request` describes. Blocking, and heavy on the
/// processor for a second or so: run it off the actor thread.
///
/// # Errors
/// When the bundle is damaged or not the one asked for, the executable cannot
/// run in the image, or the file system refuses; the layout folder is untouched then.
pub fn package(request: &PackageRequest) -> Result<PackagedImage, PackagingError> {
    check_repository(&request.repository)?;
    replacing(&request.layout_dir, |layout| build(request, layout))
}

/// Has `write` write a layout that takes the place of the one at `layout_dir` only
/// when it is finished.
pub(super) fn replacing<T>(
    layout_dir: &Path,
    write: impl FnOnce(&Layout) -> Result<T, PackagingError>,
) -> Result<T, PackagingError> {
    let staging = beside(layout_dir, "partial");
    remove_folder(&staging)?;
    own_folder::create_new(&staging).map_err(PackagingError::io("creating", &staging))?;
    let written = write(&Layout::at(&staging)).and_then(|answer| {
        remove_folder(layout_dir)?;
        fs::rename(&staging, layout_dir).map_err(PackagingError::io("renaming to", layout_dir))?;
        Ok(answer)
    });
    if written.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_dir_all(&staging);
    }
    written
}

/// Refuses what is not a repository name in the OCI distribution spec's grammar.
///
/// # Errors
/// When the name has other parts than lower-case letters, digits and `._-` between them.
pub fn check_repository(repository: &str) -> Result<(), PackagingError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = repository.split('/').all(|part| {
        part.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
    });
    if valid {
        return Ok(());
    }
    Err(PackagingError::InvalidName {
        given: repository.to_owned(),
        expected: "repository name like `delay-ml` (lower-case letters, digits, and `._-/` between them)",
    })
}

fn build(request: &PackageRequest, layout: &Layout) -> Result<PackagedImage, PackagingError> {
    let blobs = layout.blobs_dir();
    fs::create_dir_all(&blobs).map_err(PackagingError::io("creating", &blobs))?;
    let service = inspect_service(&request.service_binary)?;
    if request.service_must_be_static && !service.is_static {
        return Err(PackagingError::ServiceBinary {
            path: request.service_binary.clone(),
            fault: "is dynamically linked and cannot start in an image without a loader".to_owned(),
        });
    }
    let layers = [service_layer(request, layout)?, model_layer(request, layout)?];
    let config = image_config(request, &service.platform, &layers);
    let config = write_document(layout, CONFIG_TYPE, &config)?;
    finish(request, layout, config, layers.map(|layer| layer.descriptor), service.platform)
}

/// Writes the manifest and the index of an image whose blobs are there.
pub(super) fn finish(
    request: &PackageRequest,
    layout: &Layout,
    config: Descriptor,
    layers: [Descriptor; 2],
    platform: Platform,
) -> Result<PackagedImage, PackagingError> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config,
        layers: layers.to_vec(),
        annotations: annotations(request),
    };
    let mut image = write_document(layout, MANIFEST_TYPE, &manifest)?;
    let digest = image.digest.clone();
    image.platform = Some(platform);
    image.annotations.insert(REF_NAME.to_owned(), request.model.to_string());
    let index = Index { manifests: vec![image], ..Index::default() };
    write_file(&layout.index_path(), &json(&layout.index_path(), &index)?)?;
    write_file(&layout.root().join("oci-layout"), LAYOUT_FILE)?;
    let [service_layer, model_layer] = layers;
    Ok(PackagedImage {
        layout_dir: request.layout_dir.clone(),
        tag: format!("{}:{}", request.repository, request.model),
        manifest: digest,
        size_bytes: service_layer.size + model_layer.size,
        service_layer: service_layer.digest,
        model_layer: model_layer.digest,
    })
}

/// Nothing in here may depend on the model: registries and nodes keep this layer.
fn service_layer(request: &PackageRequest, layout: &Layout) -> Result<Layer, PackagingError> {
    let passwd = format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/:/sbin/nologin\n");
    let group = format!("root:x:0:\nnonroot:x:{NONROOT}:\n");
    let (binary, size) = open(&request.service_binary)?;
    let mut writer = LayerWriter::start(layout, "service")?;
    writer.file("delayd-serve", 0o755, size, binary)?;
    writer.folder("etc", 0o755)?;
    writer.file("etc/group", 0o644, group.len() as u64, group.as_bytes())?;
    writer.file("etc/passwd", 0o644, passwd.len() as u64, passwd.as_bytes())?;
    writer.folder("tmp", 0o1777)?;
    writer.finish()
}

/// The files that the bundle's manifest lists, each verified, and nothing else
/// that may lie in the folder.
fn model_layer(request: &PackageRequest, layout: &Layout) -> Result<Layer, PackagingError> {
    let path = request.bundle_dir.join(BUNDLE_MANIFEST);
    let bytes = fs::read(&path).map_err(PackagingError::io("reading", &path))?;
    expect_digest(&path, Digest::of(&bytes), &request.bundle)?;
    let listed: delayd_model::Manifest = serde_json::from_slice(&bytes).map_err(PackagingError::json(&path))?;
    let mut files = BTreeMap::from([(BUNDLE_MANIFEST.to_owned(), bytes)]);
    for (name, entry) in listed.files {
        let path = request.bundle_dir.join(&name);
        if name.contains(['/', '\\']) || name == ".." {
            return Err(PackagingError::InvalidName { given: name, expected: "file name in a bundle" });
        }
        let bytes = fs::read(&path).map_err(PackagingError::io("reading", &path))?;
        let expected = format!("sha256:{}", entry.sha256).parse::<Digest>();
        let expected = expected.map_err(|error| PackagingError::InvalidName {
            given: error.given,
            expected: "digest of a bundle file (64 hex digits)",
        })?;
        expect_digest(&path, Digest::of(&bytes), &expected)?;
        files.insert(name, bytes);
    }
    let mut writer = LayerWriter::start(layout, "model")?;
    writer.folder("bundle", 0o755)?;
    for (name, bytes) in &files {
        writer.file(&format!("bundle/{name}"), 0o644, bytes.len() as u64, bytes.as_slice())?;
    }
    writer.finish()
}

fn expect_digest(path: &Path, found: Digest, expected: &Digest) -> Result<(), PackagingError> {
    if found == *expected {
        return Ok(());
    }
    Err(PackagingError::Damaged { path: path.to_owned(), found, expected: expected.clone() })
}

fn annotations(request: &PackageRequest) -> BTreeMap<String, String> {
    let facts = [
        ("org.opencontainers.image.title", format!("{} {}", request.repository, request.model)),
        ("org.opencontainers.image.description", "delayd-serve with one flight-delay model".to_owned()),
        ("org.opencontainers.image.version", request.model.to_string()),
        ("org.opencontainers.image.revision", request.service_revision.clone()),
        ("dev.delayd.model.version", request.model.to_string()),
        ("dev.delayd.bundle.digest", request.bundle.to_string()),
        ("dev.delayd.dataset", request.dataset.clone()),
    ];
    let source = request.service_source.iter().map(|source| ("org.opencontainers.image.source", source.clone()));
    facts.into_iter().chain(source).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The image configuration (image-spec, `config.md`). Field order is fixed, so
/// that the document is the same in every build.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ImageConfig {
    created: String,
    architecture: String,
    os: String,
    pub(super) config: RunConfig,
    rootfs: RootFs,
    history: Vec<History>,
}

/// How a container of the image is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RunConfig {
    pub(super) user: String,
    pub(super) exposed_ports: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) env: Vec<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) working_dir: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) stop_signal: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct History {
    created: String,
    created_by: String,
    comment: String,
}

fn image_config(request: &PackageRequest, platform: &Platform, layers: &[Layer; 2]) -> ImageConfig {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let model = request.model.to_string();
    let history = |comment: String| History { created: EPOCH.to_owned(), created_by: "delayd".to_owned(), comment };
    ImageConfig {
        created: EPOCH.to_owned(),
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        config: RunConfig {
            user: NONROOT.to_string(),
            exposed_ports: ["8080/tcp", "9090/tcp"].map(|port| (port.to_owned(), BTreeMap::new())).into(),
            env: vec!["PATH=/".to_owned(), format!("DELAYD_MODEL_VERSION={model}")],
            entrypoint: owned(&["/delayd-serve"]),
            cmd: owned(&[
                "--bundle",
                "/bundle",
                "--listen",
                "0.0.0.0:8080",
                "--admin-listen",
                "0.0.0.0:9090",
                "--model-version",
                &model,
            ]),
            working_dir: "/".to_owned(),
            labels: annotations(request),
            stop_signal: "SIGTERM".to_owned(),
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        },
        history: vec![
            history(format!("inference service, revision {}", request.service_revision)),
            history(format!("{model}, bundle {}", request.bundle)),
        ],
    }
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, PackagingError> {
    serde_json::to_vec(value).map_err(PackagingError::json(path))
}

fn write_document<T: Serialize>(layout: &Layout, media_type: &str, value: &T) -> Result<Descriptor, PackagingError> {
    let bytes = json(layout.root(), value)?;
    let digest = Digest::of(&bytes);
    write_file(&layout.blob_path(&digest), &bytes)?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PackagingError> {
    fs::write(path, bytes).and_then(|()| fs::File::open(path)?.sync_all()).map_err(PackagingError::io("writing", path))
}

/// The path beside a layout for what belongs to it for a while.
pub(crate) fn beside(layout_dir: &Path, ending: &str) -> PathBuf {
    let name = layout_dir.file_name().unwrap_or_default().to_string_lossy();
    layout_dir.with_file_name(format!(".{name}.{ending}"))
}

pub(crate) fn remove_folder(path: &Path) -> Result<(), PackagingError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PackagingError::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// gzip's code for an unknown operating system (RFC 1952, section 2.3.1).
const UNKNOWN_SYSTEM: u8 = 255;

/// Compresses into a file; the same bytes come out for the same bytes.
pub(super) type Compressor = GzEncoder<HashingWriter<BufWriter<File>>>;

pub(super) fn compressor(file: File) -> Compressor {
    let compressed = HashingWriter::new(BufWriter::new(file));
    GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM).write(compressed, Compression::new(6))
}

/// Ends a compressor whose file is `path`; answers digest and length.
pub(super) fn finish_compressor(gzip: Compressor, path: &Path) -> Result<(Digest, u64), PackagingError> {
    let failed = |error| PackagingError::io("writing", path)(error);
    let (mut file, found) = gzip.finish().map_err(failed)?.finish();
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
    Ok(found)
}

/// A finished layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    /// Digest of the uncompressed archive, which the image's configuration lists.
    pub(super) diff_id: Digest,
}

/// Writes one layer into a layout.
pub(super) struct LayerWriter<'a> {
    layout: &'a Layout,
    builder: Builder<HashingWriter<Compressor>>,
    staged: std::path::PathBuf,
}

impl<'a> LayerWriter<'a> {
    /// Starts a layer; `name` tells it apart from others that are being written.
    pub(super) fn start(layout: &'a Layout, name: &str) -> Result<Self, PackagingError> {
        let staged = layout.blobs_dir().join(format!("{name}.partial"));
        let file = File::create(&staged).map_err(PackagingError::io("creating", &staged))?;
        Ok(Self { layout, builder: Builder::new(HashingWriter::new(compressor(file))), staged })
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32) -> Result<(), PackagingError> {
        self.append(&format!("{path}/"), EntryType::Directory, mode, 0, std::io::empty())
    }

    /// Adds a file of `size` bytes that `content` yields.
    pub(super) fn file(&mut self, path: &str, mode: u32, size: u64, content: impl Read) -> Result<(), PackagingError> {
        self.append(path, EntryType::Regular, mode, size, content)
    }

    fn append(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> Result<(), PackagingError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        self.builder.append_data(&mut header, path, content).map_err(PackagingError::io("writing", &self.staged))
    }

    /// Ends the layer and names its blob by its digest.
    pub(super) fn finish(self) -> Result<Layer, PackagingError> {
        let failed = |error| PackagingError::io("writing", &self.staged)(error);
        let (gzip, (diff_id, _)) = self.builder.into_inner().map_err(failed)?.finish();
        let (digest, size) = finish_compressor(gzip, &self.staged)?;
        fs::rename(&self.staged, self.layout.blob_path(&digest)).map_err(failed)?;
        Ok(Layer { descriptor: Descriptor::new(LAYER_TYPE, digest, size), diff_id })
    }
}

/// The file at `path` with its length.
pub(super) fn open(path: &Path) -> Result<(File, u64), PackagingError> {
    let file = File::open(path).map_err(PackagingError::io("opening", path))?;
    let size = file.metadata().map_err(PackagingError::io("opening", path))?.len();
    Ok((file, size))
}
