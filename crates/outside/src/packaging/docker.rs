//! The two ends of a build by a Docker Engine: the context that it is given, and what it exports (`docker save`) as an OCI
//! layout.
//!
//! The context has the two layers of [`super::package`] as archives, so that everything it verifies is verified here too,
//! and a Dockerfile written from its configuration: there is one description of the image.
//!
//! Engines differ: up to version 24 the archive holds `<id>/layer.tar` and
//! `<id>.json`, where a layer that occurs twice is a link; from 25 on it is an OCI
//! layout itself. All of them hold a `manifest.json` that names the configuration
//! and the layers, and that is what is read here. The configuration is kept byte
//! for byte, because its digest is the image's id; layers are compressed as
//! [`super::package`] does, so that an unchanged one is not pushed again, and each
//! is compared with the digest in the configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tar::{Builder, EntryType, Header};

use super::image::{self, ImageConfig, RunConfig, compressor, finish_compressor};
use super::oci::{CONFIG_TYPE, Descriptor, HashingWriter, LAYER_TYPE, Layout, Manifest, Platform, copy_hashing};
use super::{PackageRequest, PackagedImage, PackagingError, package};
use delayd_core::ids::Digest;

/// More members than an export of two layers has (three files each, and a few documents).
const MAX_MEMBERS: usize = 10_000;
/// A document longer than this is none.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Links that lead to links.
const MAX_LINKS: usize = 8;
/// RFC 1952, section 2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// RFC 8878, section 3.1.1.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// One entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// What is read of an engine's configuration. The rest is not ours to know.
#[derive(Debug, Deserialize)]
struct EngineConfig {
    architecture: String,
    os: String,
    rootfs: EngineRootFs,
}

#[derive(Debug, Deserialize)]
struct EngineRootFs {
    diff_ids: Vec<Digest>,
}

/// Where a member of the archive lies.
enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

/// An archive, opened.
struct Archive<'a> {
    path: &'a Path,
    file: File,
    members: HashMap<String, Member>,
}

/// Writes the image in `archive` as the layout that `request` asks for.
///
/// # Errors
/// The archive is damaged or holds another image than one of two layers, or the
/// file system refuses; the layout is untouched then.
pub fn read_archive(archive: &Path, request: &PackageRequest) -> Result<PackagedImage, PackagingError> {
    let mut archive = Archive::open(archive)?;
    image::replacing(&request.layout_dir, |layout| {
        let blobs = layout.blobs_dir();
        fs::create_dir_all(&blobs).map_err(PackagingError::io("creating", &blobs))?;
        let saved = archive.saved()?;
        let bytes = archive.document(&saved.config)?;
        let config: EngineConfig = serde_json::from_slice(&bytes).map_err(PackagingError::json(archive.path))?;
        let diff_ids = config.rootfs.diff_ids;
        let ([service, model], [service_id, model_id]) = (saved.layers.as_slice(), diff_ids.as_slice()) else {
            return Err(archive.fault(format!(
                "two layers, the service's and the model's, were built; it has {}",
                saved.layers.len()
            )));
        };
        let layers = [archive.layer(layout, service, service_id)?, archive.layer(layout, model, model_id)?];
        let digest = Digest::of(&bytes);
        image::write_file(&layout.blob_path(&digest), &bytes)?;
        let descriptor = Descriptor::new(CONFIG_TYPE, digest, bytes.len() as u64);
        let platform = Platform { architecture: config.architecture, os: config.os };
        image::finish(request, layout, descriptor, layers, platform)
    })
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self, PackagingError> {
        let failed = |error| PackagingError::io("reading", path)(error);
        let file = File::open(path).map_err(PackagingError::io("opening", path))?;
        let mut members = HashMap::new();
        let mut reader = tar::Archive::new(&file);
        for entry in reader.entries_with_seek().map_err(failed)?.take(MAX_MEMBERS) {
            let entry = entry.map_err(failed)?;
            let name = entry.path().map_err(failed)?.to_string_lossy().into_owned();
            let member = match (entry.header().entry_type(), entry.link_name().map_err(failed)?) {
                (kind, _) if kind.is_file() => Member::File { offset: entry.raw_file_position(), size: entry.size() },
                (kind, Some(target)) if kind.is_symlink() => Member::Link(beside(&name, &target.to_string_lossy())),
                (kind, Some(target)) if kind.is_hard_link() => Member::Link(target.to_string_lossy().into_owned()),
                _ => continue,
            };
            members.insert(name, member);
        }
        Ok(Self { path, file, members })
    }

    fn fault(&self, fault: String) -> PackagingError {
        PackagingError::Archive { path: self.path.to_owned(), fault }
    }

    fn saved(&mut self) -> Result<Saved, PackagingError> {
        let bytes = self.document("manifest.json")?;
        let saved: Vec<Saved> = serde_json::from_slice(&bytes).map_err(PackagingError::json(self.path))?;
        let count = saved.len();
        match <[Saved; 1]>::try_from(saved) {
            Ok([saved]) => Ok(saved),
            Err(_) => Err(self.fault(format!("one image was exported; it has {count}"))),
        }
    }

    fn member(&mut self, name: &str) -> Result<io::Take<File>, PackagingError> {
        let mut wanted = name;
        for _ in 0..MAX_LINKS {
            match self.members.get(wanted) {
                Some(Member::Link(target)) => wanted = target,
                Some(Member::File { offset, size }) => {
                    let failed = |error| PackagingError::io("reading", self.path)(error);
                    let mut file = self.file.try_clone().map_err(failed)?;
                    file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                    return Ok(file.take(*size));
                }
                None => break,
            }
        }
        Err(self.fault(format!("it has no `{name}`")))
    }

    fn document(&mut self, name: &str) -> Result<Vec<u8>, PackagingError> {
        let mut bytes = Vec::new();
        let content = self.member(name)?;
        content.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes).map_err(PackagingError::io("reading", self.path))?;
        Ok(bytes)
    }

    /// Puts a layer into the layout, compressed, and compares it with `diff_id`.
    fn layer(&mut self, layout: &Layout, name: &str, diff_id: &Digest) -> Result<Descriptor, PackagingError> {
        let mut magic = Vec::new();
        self.member(name)?.take(4).read_to_end(&mut magic).map_err(PackagingError::io("reading", self.path))?;
        if magic.starts_with(&ZSTD) {
            return Err(self.fault(format!("`{name}` is compressed by zstd; gzip or nothing was expected")));
        }
        let staged = layout.blobs_dir().join("layer.partial");
        let file = File::create(&staged).map_err(PackagingError::io("creating", &staged))?;
        let content = self.member(name)?;
        let (digest, size, found) = if magic.starts_with(&GZIP) {
            self.as_it_is(content, file, &staged)?
        } else {
            compressed(content, file, &staged)?
        };
        if found != *diff_id {
            let path = self.path.join(name);
            return Err(PackagingError::Damaged { path, found, expected: diff_id.clone() });
        }
        fs::rename(&staged, layout.blob_path(&digest)).map_err(PackagingError::io("renaming", &staged))?;
        Ok(Descriptor::new(LAYER_TYPE, digest, size))
    }

    /// A layer that the engine keeps compressed; answers digest, length, and the
    /// digest of what is in it.
    fn as_it_is(
        &self,
        content: io::Take<File>,
        mut to: File,
        staged: &Path,
    ) -> Result<(Digest, u64, Digest), PackagingError> {
        let (digest, size) = copy_hashing(content, &mut to).map_err(PackagingError::io("writing", staged))?;
        to.sync_all().map_err(PackagingError::io("writing", staged))?;
        let packed = File::open(staged).map_err(PackagingError::io("opening", staged))?;
        let unpacked = copy_hashing(flate2::read::MultiGzDecoder::new(packed), io::sink());
        let (found, _) = unpacked.map_err(PackagingError::io("unpacking", self.path))?;
        Ok((digest, size, found))
    }
}

fn compressed(mut content: io::Take<File>, file: File, staged: &Path) -> Result<(Digest, u64, Digest), PackagingError> {
    let mut plain = HashingWriter::new(compressor(file));
    io::copy(&mut content, &mut plain).and_then(|_| plain.flush()).map_err(PackagingError::io("writing", staged))?;
    let (gzip, (found, _)) = plain.finish();
    let (digest, size) = finish_compressor(gzip, staged)?;
    Ok((digest, size, found))
}

/// A link's target, as the archive names it: `a/layer.tar` and `../b/layer.tar`
/// make `b/layer.tar`.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

const SERVICE_ARCHIVE: &str = "service.tar.gz";
const MODEL_ARCHIVE: &str = "model.tar.gz";
const DOCKERFILE: &str = "Dockerfile";

/// A context that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerContext {
    /// The archive to send.
    pub archive: PathBuf,
    /// The image's labels, which are sent beside it: a Dockerfile would read `$` in them.
    pub labels: BTreeMap<String, String>,
}

/// Writes the context of an image into `folder`, which is replaced.
pub(crate) fn write_context(request: &PackageRequest, folder: &Path) -> Result<DockerContext, PackagingError> {
    let request = PackageRequest { layout_dir: folder.to_owned(), ..request.clone() };
    let image = package(&request)?;
    let layout = Layout::at(folder);
    let manifest: Manifest = layout.document(&layout.image(&request.model.to_string())?)?;
    let config: ImageConfig = layout.document(&manifest.config)?;
    let archive = folder.join("context.tar");
    let file = File::create(&archive).map_err(PackagingError::io("creating", &archive))?;
    let mut builder = Builder::new(BufWriter::new(file));
    let dockerfile = dockerfile(&config.config, &archive)?;
    append(&mut builder, DOCKERFILE, dockerfile.len() as u64, dockerfile.as_bytes(), &archive)?;
    for (name, digest) in [(SERVICE_ARCHIVE, &image.service_layer), (MODEL_ARCHIVE, &image.model_layer)] {
        let (blob, size) = open(&layout, digest)?;
        append(&mut builder, name, size, blob, &archive)?;
    }
    let failed = |error| PackagingError::io("writing", &archive)(error);
    builder.into_inner().and_then(|mut file| file.flush()).map_err(failed)?;
    Ok(DockerContext { archive, labels: config.config.labels })
}

fn open(layout: &Layout, digest: &Digest) -> Result<(File, u64), PackagingError> {
    image::open(&layout.blob_path(digest))
}

fn append(
    builder: &mut Builder<BufWriter<File>>,
    name: &str,
    size: u64,
    content: impl std::io::Read,
    archive: &Path,
) -> Result<(), PackagingError> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    builder.append_data(&mut header, name, content).map_err(PackagingError::io("writing", archive))
}

/// `ADD` unpacks a local archive (Dockerfile reference, "ADD"), with the modes and
/// times that it holds.
fn dockerfile(config: &RunConfig, path: &Path) -> Result<String, PackagingError> {
    let exec = |words: &[String]| serde_json::to_string(words).map_err(PackagingError::json(path));
    let mut text = format!("FROM scratch\nADD {SERVICE_ARCHIVE} /\nADD {MODEL_ARCHIVE} /\n");
    // Writing to a String cannot fail.
    for variable in &config.env {
        let _ = writeln!(text, "ENV {variable}");
    }
    for port in config.exposed_ports.keys() {
        let _ = writeln!(text, "EXPOSE {port}");
    }
    let (entrypoint, command) = (exec(&config.entrypoint)?, exec(&config.cmd)?);
    let _ = writeln!(text, "USER {}\nWORKDIR {}\nSTOPSIGNAL {}", config.user, config.working_dir, config.stop_signal);
    let _ = writeln!(text, "ENTRYPOINT {entrypoint}\nCMD {command}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn a_link_is_followed_from_where_it_lies() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("blobs/sha256/a", "./b"), "blobs/sha256/b");
    }
}
