//! The embedded image registry: one OCI layout folder per repository. Tools such
//! as skopeo read it as it is. It never deletes blobs; they are shared by
//! versions, and removing what no tag reaches is left to the operator.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::packaging::oci::{Descriptor, LAYOUT_FILE, Layout, Manifest, REF_NAME, copy_hashing};
use crate::packaging::{PackagingError, check_repository};
use delayd_core::atomic_file::{StagedFile, remove_abandoned, write_atomically};
use delayd_core::error::PortError;
use delayd_core::ids::Digest;
use delayd_core::own_folder;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};

/// Images as OCI layout folders under one root.
#[derive(Debug, Clone)]
pub struct OciLayoutRegistry {
    root: PathBuf,
}

impl OciLayoutRegistry {
    /// Opens the registry at `root` and creates the folder if there is none.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(root: &Path) -> Result<Self, PortError> {
        let opened = own_folder::create(root).and_then(|()| root.canonicalize());
        let root =
            opened.map_err(|error| PortError::io(format!("opening image registry {}", root.display()), error))?;
        Ok(Self { root })
    }

    fn repository(&self, action: &str, repository: &str) -> Result<Layout, PortError> {
        check_repository(repository).map_err(|error| port_error(action, error))?;
        Ok(Layout::at(&self.root.join(repository)))
    }

    fn push_blocking(&self, from: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        let action = format!("pushing {repository}:{tag}");
        check_tag(&action, tag)?;
        let to = self.repository(&action, repository)?;
        let _lock = lock(&to).map_err(|error| PortError::io(action.clone(), error))?;
        let from = Layout::at(from);
        let pushed = copy_image(&from, &to, tag).map_err(|error| port_error(&action, error))?;
        Ok(PushedImage {
            reference: format!("oci:{}@{}", to.root().display(), pushed.image.digest),
            tag: format!("{repository}:{tag}"),
            digest: pushed.image.digest,
            size_bytes: pushed.size_bytes,
            layers_pushed: pushed.layers_pushed,
            layers_reused: pushed.layers_reused,
        })
    }

    fn resolve_blocking(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        let action = format!("resolving {repository}:{tag}");
        check_tag(&action, tag)?;
        let layout = self.repository(&action, repository)?;
        let index = layout.index().map_err(|error| port_error(&action, error))?;
        let Some(image) = index.find(tag) else { return Ok(None) };
        // A tag whose manifest is damaged must not pass for a pushed image.
        layout.document::<Manifest>(image).map_err(|error| port_error(&action, error))?;
        Ok(Some(image.digest.clone()))
    }

    fn remove_tag_blocking(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let action = format!("removing tag {repository}:{tag}");
        check_tag(&action, tag)?;
        let layout = self.repository(&action, repository)?;
        if !layout.root().exists() {
            return Ok(());
        }
        let _lock = lock(&layout).map_err(|error| PortError::io(action.clone(), error))?;
        set_tag(&layout, tag, None).map_err(|error| port_error(&action, error))
    }
}

#[async_trait]
impl ImageRegistry for OciLayoutRegistry {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        let (registry, layout) = (self.clone(), layout.to_owned());
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        super::blocking("pushing an image", move || registry.push_blocking(&layout, &repository, &tag)).await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        let (registry, repository, tag) = (self.clone(), repository.to_owned(), tag.to_owned());
        super::blocking("resolving a tag", move || registry.resolve_blocking(&repository, &tag)).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let (registry, repository, tag) = (self.clone(), repository.to_owned(), tag.to_owned());
        super::blocking("removing a tag", move || registry.remove_tag_blocking(&repository, &tag)).await
    }
    async fn probe(&self) -> Result<String, PortError> {
        let root = self.root.clone();
        super::blocking("looking at the image registry", move || {
            fs::read_dir(&root).map_err(|error| PortError::io("looking at the image registry", error))?;
            Ok(format!("OCI layouts in {}", root.display()))
        })
        .await
    }
}

struct CopiedImage {
    image: Descriptor,
    size_bytes: u64,
    layers_pushed: usize,
    layers_reused: usize,
}

/// Blobs first, the tag last: a tag never points at an image that is not all there.
fn copy_image(from: &Layout, to: &Layout, tag: &str) -> Result<CopiedImage, PackagingError> {
    let blobs = to.blobs_dir();
    fs::create_dir_all(&blobs).map_err(PackagingError::io("creating", &blobs))?;
    remove_abandoned(&blobs).map_err(PackagingError::io("sweeping", &blobs))?;
    let marker = to.root().join("oci-layout");
    write_atomically(&marker, LAYOUT_FILE).map_err(PackagingError::io("writing", &marker))?;

    let image = from.image(tag)?;
    let manifest: Manifest = from.document(&image)?;
    let mut copied = CopiedImage { image, size_bytes: 0, layers_pushed: 0, layers_reused: 0 };
    for layer in &manifest.layers {
        copied.size_bytes += layer.size;
        if copy_blob(from, to, &layer.digest)? {
            copied.layers_pushed += 1;
        } else {
            copied.layers_reused += 1;
        }
    }
    copy_blob(from, to, &manifest.config.digest)?;
    copy_blob(from, to, &copied.image.digest)?;
    set_tag(to, tag, Some(&copied.image))?;
    Ok(copied)
}

/// Whether the blob had to be copied. One that lies there damaged is copied again.
fn copy_blob(from: &Layout, to: &Layout, digest: &Digest) -> Result<bool, PackagingError> {
    match to.has(digest) {
        Ok(true) => return Ok(false),
        Ok(false) => {}
        Err(damaged @ PackagingError::Damaged { .. }) => {
            tracing::warn!(error = %damaged, "a blob in the image registry is damaged and is pushed again");
        }
        Err(error) => return Err(error),
    }
    let (source, target) = (from.blob_path(digest), to.blob_path(digest));
    let file = File::open(&source).map_err(PackagingError::io("opening", &source))?;
    let mut staged = StagedFile::create_in(&to.blobs_dir()).map_err(PackagingError::io("creating", &target))?;
    let (found, _) = copy_hashing(file, &mut staged).map_err(PackagingError::io("copying to", &target))?;
    if found != *digest {
        return Err(PackagingError::Damaged { path: source, found, expected: digest.clone() });
    }
    staged.publish(&target).map_err(PackagingError::io("writing", &target))?;
    Ok(true)
}

/// Points `tag` at `image`, or takes it away.
fn set_tag(layout: &Layout, tag: &str, image: Option<&Descriptor>) -> Result<(), PackagingError> {
    let mut index = layout.index()?;
    let before = index.clone();
    match (index.manifests.iter_mut().find(|manifest| manifest.tag() == Some(tag)), image) {
        (existing, Some(image)) => {
            let mut tagged = image.clone();
            tagged.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            match existing {
                Some(existing) => *existing = tagged,
                None => index.manifests.push(tagged),
            }
        }
        (_, None) => index.manifests.retain(|manifest| manifest.tag() != Some(tag)),
    }
    let path = layout.index_path();
    if index == before && path.exists() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&index).map_err(PackagingError::json(&path))?;
    write_atomically(&path, &bytes).map_err(PackagingError::io("writing", &path))
}

/// Holds the repository until dropped, against other processes too.
fn lock(layout: &Layout) -> std::io::Result<File> {
    fs::create_dir_all(layout.root())?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(layout.root().join(".lock"))?;
    file.lock()?;
    Ok(file)
}

fn port_error(action: &str, error: PackagingError) -> PortError {
    PortError::new(error.kind(), action, delayd_core::error::chain(&error))
}
