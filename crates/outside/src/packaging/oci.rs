//! The OCI image layout (image-spec 1.1): its documents and the folder that
//! holds them. Written by packaging, read by the registries. It knows nothing of
//! models.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::PackagingError;
use delayd_core::ids::Digest;

/// Media type of an image index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image's configuration.
pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a compressed layer.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The annotation in which an index keeps an image's tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What the file `oci-layout` says.
pub const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Points at a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For a manifest in an index: the machine it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names and facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without annotations.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// The tag, in an index.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }
}

/// The machine an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

/// `index.json`: the images of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX_TYPE`].
    #[serde(default = "index_type")]
    pub media_type: String,
    /// One descriptor per tag.
    pub manifests: Vec<Descriptor>,
}

fn index_type() -> String {
    INDEX_TYPE.to_owned()
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, media_type: index_type(), manifests: Vec::new() }
    }
}

impl Index {
    /// The image with this tag.
    #[must_use]
    pub fn find(&self, tag: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|manifest| manifest.tag() == Some(tag))
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST_TYPE`].
    #[serde(default = "manifest_type")]
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Names and facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn manifest_type() -> String {
    MANIFEST_TYPE.to_owned()
}

/// An OCI image layout folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout at `root`, which need not exist yet.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    /// The folder of all blobs.
    #[must_use]
    pub fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// The file of the index.
    #[must_use]
    pub fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// The index; an empty one when there is none yet.
    pub fn index(&self) -> Result<Index, PackagingError> {
        let path = self.index_path();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(PackagingError::json(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(PackagingError::io("reading", &path)(error)),
        }
    }

    /// The descriptor of the image `tag`, or of the only image that there is.
    pub fn image(&self, tag: &str) -> Result<Descriptor, PackagingError> {
        let index = self.index()?;
        match (index.find(tag), index.manifests.as_slice()) {
            (Some(image), _) | (None, [image]) => Ok(image.clone()),
            (None, images) => Err(PackagingError::NoSuchImage {
                path: self.root.clone(),
                tag: tag.to_owned(),
                held: images.iter().filter_map(Descriptor::tag).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// A small blob that is a JSON document, verified.
    pub fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, PackagingError> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = fs::read(&path).map_err(PackagingError::io("reading", &path))?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(PackagingError::Damaged { path, found, expected: descriptor.digest.clone() });
        }
        serde_json::from_slice(&bytes).map_err(PackagingError::json(&path))
    }

    /// Whether the blob is there and is what its digest says.
    pub fn has(&self, digest: &Digest) -> Result<bool, PackagingError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let (found, _) = copy_hashing(file, io::sink()).map_err(PackagingError::io("reading", &path))?;
                if found == *digest {
                    return Ok(true);
                }
                Err(PackagingError::Damaged { path, found, expected: digest.clone() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(PackagingError::io("reading", &path)(error)),
        }
    }
}

/// Copies all of `from` and answers the digest and the length of what was copied.
pub fn copy_hashing(mut from: impl Read, to: impl Write) -> io::Result<(Digest, u64)> {
    let mut to = HashingWriter::new(to);
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(to.finish().1)
}

/// Passes bytes on and hashes them on the way.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hasher: sha2::Sha256,
    length: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: sha2::Sha256::new(), length: 0 }
    }

    /// The inner writer, and the digest and length of what went through.
    pub(crate) fn finish(self) -> (W, (Digest, u64)) {
        (self.inner, (Digest::from_sha256(self.hasher), self.length))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
