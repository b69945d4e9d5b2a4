//! Images on this machine: a builder that writes the OCI layout itself, without any daemon and with the same digest every
//! time, and a registry of one layout folder per repository, which tools such as skopeo read as it is. It never deletes
//! blobs; they are shared by versions, and removing what no tag reaches is left to the operator.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::packaging::oci::{Descriptor, LAYOUT_FILE, Layout, Manifest, REF_NAME, copy_hashing};
use crate::packaging::{ImageBuilder, PackageRequest, PackagedImage, PackagingError, check_repository, package};
use delayd_core::atomic_file::{StagedFile, remove_abandoned, write_atomically};
use delayd_core::error::PortError;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};
use delayd_core::{blocking, own_folder};

/// Images as OCI layout folders under one root.
#[derive(Debug, Clone)]
pub struct OciLayoutRegistry {
    root: PathBuf,
}

impl OciLayoutRegistry {
    /// Opens the registry at `root` and creates the folder if there is none.
    pub fn open(root: &Path) -> Result<Self, PortError> {
        let opened = own_folder::create(root).and_then(|()| root.canonicalize());
        let root =
            opened.map_err(|error| PortError::io(format!("opening image registry {}", root.display()), error))?;
        Ok(Self { root })
    }

    fn repository(&self, repository: &str) -> Result<Layout, PackagingError> {
        check_repository(repository)?;
        Ok(Layout::at(&self.root.join(repository)))
    }
}

#[async_trait]
impl ImageRegistry for OciLayoutRegistry {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        let action = format!("pushing {repository}:{tag}");
        check_tag(&action, tag)?;
        let (registry, from) = (self.clone(), Layout::at(layout));
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        blocking(action, move || {
            let to = registry.repository(&repository)?;
            let _lock = lock(&to)?;
            copy_image(&from, &to, &repository, &tag)
        })
        .await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        let action = format!("resolving {repository}:{tag}");
        check_tag(&action, tag)?;
        let (registry, repository, tag) = (self.clone(), repository.to_owned(), tag.to_owned());
        blocking(action, move || {
            let layout = registry.repository(&repository)?;
            let index = layout.index()?;
            let Some(image) = index.find(&tag) else { return Ok(None) };
            // A tag whose manifest is damaged must not pass for a pushed image.
            layout.document::<Manifest>(image)?;
            Ok::<_, PackagingError>(Some(image.digest.clone()))
        })
        .await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let action = format!("removing tag {repository}:{tag}");
        check_tag(&action, tag)?;
        let (registry, repository, tag) = (self.clone(), repository.to_owned(), tag.to_owned());
        blocking(action, move || {
            let layout = registry.repository(&repository)?;
            if !layout.root().exists() {
                return Ok(());
            }
            let _lock = lock(&layout)?;
            set_tag(&layout, &tag, None)
        })
        .await
    }

    async fn probe(&self) -> Result<String, PortError> {
        let root = self.root.clone();
        blocking("checking the image registry", move || {
            fs::read_dir(&root)?;
            Ok::<_, std::io::Error>(format!("OCI layouts in {}", root.display()))
        })
        .await
    }
}

/// Blobs first, the tag last: a tag never points at an image that is not all there.
fn copy_image(from: &Layout, to: &Layout, repository: &str, tag: &str) -> Result<PushedImage, PackagingError> {
    let blobs = to.blobs_dir();
    fs::create_dir_all(&blobs).map_err(PackagingError::io("creating", &blobs))?;
    remove_abandoned(&blobs).map_err(PackagingError::io("sweeping", &blobs))?;
    let marker = to.root().join("oci-layout");
    write_atomically(&marker, LAYOUT_FILE).map_err(PackagingError::io("writing", &marker))?;

    let image = from.image(tag)?;
    let manifest: Manifest = from.document(&image)?;
    let (mut layers_pushed, mut layers_reused) = (0, 0);
    for layer in &manifest.layers {
        *if copy_blob(from, to, &layer.digest)? { &mut layers_pushed } else { &mut layers_reused } += 1;
    }
    copy_blob(from, to, &manifest.config.digest)?;
    copy_blob(from, to, &image.digest)?;
    set_tag(to, tag, Some(&image))?;
    Ok(PushedImage {
        reference: format!("oci:{}@{}", to.root().display(), image.digest),
        tag: format!("{repository}:{tag}"),
        digest: image.digest,
        size_bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
        layers_pushed,
        layers_reused,
    })
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
fn lock(layout: &Layout) -> Result<File, PackagingError> {
    let path = layout.root().join(".lock");
    let open = || {
        fs::create_dir_all(layout.root())?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(PackagingError::io("locking", &path))
}

/// Builds images by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct OciBuilder;

#[async_trait]
impl ImageBuilder for OciBuilder {
    async fn build(&self, request: &PackageRequest) -> Result<PackagedImage, PortError> {
        let request = request.clone();
        blocking(format!("building the image of {}", request.model), move || package(&request)).await
    }

    async fn discard(&self, _: &str, _: &str) -> Result<(), PortError> {
        Ok(())
    }

    async fn probe(&self) -> Result<String, PortError> {
        Ok("built in".to_owned())
    }
}
