//! Layers that come out the same, byte for byte, whenever their files are the
//! same: entries in the order given, owner root, time zero, and a gzip header
//! that names neither file nor time nor system.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::PackagingError;
use super::oci::{Descriptor, HashingWriter, LAYER_TYPE, Layout};
use delayd_core::ids::Digest;

/// gzip's code for an unknown operating system (RFC 1952, section 2.3.1).
const UNKNOWN_SYSTEM: u8 = 255;

/// Compresses into a file; the same bytes come out for the same bytes.
pub(super) type Compressor = GzEncoder<HashingWriter<BufWriter<File>>>;

/// A compressor into `file`.
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
    /// The compressed blob.
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

    /// Adds a folder.
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
