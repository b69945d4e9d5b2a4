//! What a Docker Engine is given to build: the two layers as archives, and a
//! Dockerfile that says the rest of the image's configuration.
//!
//! The layers are those of [`package`], so that everything it verifies is verified
//! here too, and the Dockerfile is written from its configuration: there is one
//! description of the image.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::image::{ImageConfig, RunConfig};
use super::oci::{Layout, Manifest};
use super::{PackageRequest, PackagingError, layer, package};
use delayd_core::ids::Digest;

const SERVICE_ARCHIVE: &str = "service.tar.gz";
const MODEL_ARCHIVE: &str = "model.tar.gz";
const DOCKERFILE: &str = "Dockerfile";

/// A context that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerContext {
    /// The archive to send.
    pub archive: PathBuf,
    /// The image's labels, which are sent beside it: a Dockerfile would read `$` in them.
    pub labels: BTreeMap<String, String>,
}

/// Writes the context of an image into `folder`, which is replaced.
///
/// # Errors
/// As for [`package`].
pub fn write(request: &PackageRequest, folder: &Path) -> Result<DockerContext, PackagingError> {
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

/// Removes what [`write`] wrote.
///
/// # Errors
/// When the file system refuses.
pub fn remove(folder: &Path) -> Result<(), PackagingError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PackagingError::io("removing", folder)(error))
        }
        _ => Ok(()),
    }
}

fn open(layout: &Layout, digest: &Digest) -> Result<(File, u64), PackagingError> {
    layer::open(&layout.blob_path(digest))
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
