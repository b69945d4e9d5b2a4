//! Tells other programs which image was pushed: files for pipelines, and the
//! document behind `GET /api/v1/image` and `delayd image`.
//!
//! The current image is the one that was pushed last, whose tag still exists and whose
//! model was not rolled back. It says nothing about what is live: the status endpoint does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::ExportSettings;
use delayd_core::atomic_file::write_atomically;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_core::own_folder;
use delayd_ledger::{BuildRecord, ImageRecord, Ledger, LedgerError};

/// A pushed image, as other programs need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageExport {
    /// The image without tag: registry and repository.
    pub image: String,
    /// The tag, the model's version.
    pub tag: String,
    /// Digest of the image manifest.
    pub digest: Digest,
    /// The model in it.
    pub model_version: ModelVersion,
    /// What a container runtime pulls, by digest.
    pub reference: String,
    /// Bytes of all layers.
    pub size_bytes: u64,
    /// When it was pushed.
    pub pushed_at: DateTime<Utc>,
    /// The service's build, where it was built from its source.
    pub build: Option<BuildRecord>,
}

impl ImageExport {
    /// The image that was pushed last and still has its tag, or a model's; `None` where there is none.
    pub async fn read(ledger: &Ledger, model: Option<ModelVersion>) -> Result<Option<Self>, LedgerError> {
        let Some(record) = ledger.standing_image(model).await? else { return Ok(None) };
        let build = match ledger.model(record.model).await? {
            Some(model) => ledger.build_of(model.cycle).await?,
            None => None,
        };
        Ok(Some(Self::of(record, build)))
    }

    fn of(record: ImageRecord, build: Option<BuildRecord>) -> Self {
        let image = record.image;
        let name = image.reference.split_once('@').map_or(image.reference.as_str(), |(name, _)| name).to_owned();
        // `repository:tag`; a registry's port is no tag, because the repository has none.
        let tag = image.tag.rsplit_once(':').map_or(image.tag.as_str(), |(_, tag)| tag).to_owned();
        Self {
            image: name,
            tag,
            digest: image.digest,
            model_version: record.model,
            reference: image.reference,
            size_bytes: image.size_bytes,
            pushed_at: record.pushed_at,
            build,
        }
    }

    /// Lines for GitHub Actions' output file.
    pub fn github_output(&self) -> String {
        self.lines(["image", "tag", "digest", "model_version", "reference"])
    }

    /// Lines for a shell or `docker compose`.
    pub fn dotenv(&self) -> String {
        self.lines([
            "DELAYD_IMAGE",
            "DELAYD_IMAGE_TAG",
            "DELAYD_IMAGE_DIGEST",
            "DELAYD_MODEL_VERSION",
            "DELAYD_IMAGE_REFERENCE",
        ])
    }

    fn lines(&self, names: [&str; 5]) -> String {
        let model = self.model_version.to_string();
        let values = [&self.image, &self.tag, self.digest.as_str(), &model, &self.reference];
        // None of them can hold a line end: they are names by the registry's grammar. A folder may.
        names.iter().zip(values).map(|(name, value)| format!("{name}={}\n", value.replace(['\n', '\r'], " "))).collect()
    }
}

/// Where the JSON file lies.
pub fn json_path(settings: &ExportSettings, state_dir: &Path) -> PathBuf {
    if settings.json_path.as_os_str().is_empty() { state_dir.join("image.json") } else { settings.json_path.clone() }
}

/// Writes every file. With `None` there is no image any more, and the replaced
/// files go; what was appended stays. The error names the file that cannot be written.
pub(super) fn write(settings: &ExportSettings, state_dir: &Path, image: Option<&ImageExport>) -> Result<(), String> {
    let json = json_path(settings, state_dir);
    let document = image.map(serde_json::to_vec_pretty).transpose().map_err(|error| error.to_string())?;
    let named = |path: &Path, result: io::Result<()>| result.map_err(|error| format!("{}: {error}", path.display()));
    named(&json, replace(&json, document.as_deref()))?;
    let dotenv = &settings.dotenv_path;
    if !dotenv.as_os_str().is_empty() {
        let text = image.map(ImageExport::dotenv);
        named(dotenv, replace(dotenv, text.as_ref().map(String::as_bytes)))?;
    }
    let github = &settings.github_output_path;
    match image {
        Some(image) if !github.as_os_str().is_empty() => named(github, append(github, &image.github_output())),
        _ => Ok(()),
    }
}

fn replace(path: &Path, content: Option<&[u8]>) -> io::Result<()> {
    match content {
        Some(content) => write_atomically(path, content),
        None => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// A repeated step appends its lines only once.
fn append(path: &Path, lines: &str) -> io::Result<()> {
    own_folder::check(path)?;
    let mut options = File::options();
    match fs::read(path) {
        Ok(before) if before.ends_with(lines.as_bytes()) => return Ok(()),
        Ok(_) => {}
        // Only a new file: a link that comes between is not followed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => _ = options.create_new(true),
        Err(error) => return Err(error),
    }
    let mut file = options.append(true).open(path)?;
    file.write_all(lines.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ports::PushedImage;

    fn export(model: u64) -> ImageExport {
        let digest = Digest::of(&model.to_be_bytes());
        let record = ImageRecord {
            image: PushedImage {
                reference: format!("registry.example.com:5000/delay-ml@{digest}"),
                tag: format!("delay-ml:model_v{model}"),
                digest,
                size_bytes: 9,
                layers_pushed: 1,
                layers_reused: 1,
            },
            model: ModelVersion(model),
            pushed_at: DateTime::UNIX_EPOCH,
        };
        ImageExport::of(record, None)
    }

    #[test]
    fn image_and_tag_together_are_what_is_pulled() {
        let export = export(3);
        assert_eq!((export.image.as_str(), export.tag.as_str()), ("registry.example.com:5000/delay-ml", "model_v3"));
        let digest = &export.digest;
        let expected = format!(
            "image=registry.example.com:5000/delay-ml\ntag=model_v3\ndigest={digest}\nmodel_version=model_v3\n\
             reference=registry.example.com:5000/delay-ml@{digest}\n"
        );
        assert_eq!(export.github_output(), expected);
        assert!(export.dotenv().contains("DELAYD_IMAGE_TAG=model_v3\n"));
    }

    #[test]
    fn files_hold_the_newest_image_and_go_when_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let settings = ExportSettings {
            json_path: PathBuf::new(),
            github_output_path: folder.path().join("github"),
            dotenv_path: folder.path().join("image.env"),
        };
        fs::write(&settings.github_output_path, "other=1\n").unwrap();
        for model in [1, 1, 2] {
            write(&settings, folder.path(), Some(&export(model))).unwrap();
        }
        let json: ImageExport = serde_json::from_slice(&fs::read(folder.path().join("image.json")).unwrap()).unwrap();
        assert_eq!(json, export(2));
        let github = fs::read_to_string(&settings.github_output_path).unwrap();
        assert_eq!(github, format!("other=1\n{}{}", export(1).github_output(), export(2).github_output()));
        assert_eq!(fs::read_to_string(&settings.dotenv_path).unwrap(), export(2).dotenv());
        write(&settings, folder.path(), None).unwrap();
        assert!(!folder.path().join("image.json").exists() && !settings.dotenv_path.exists());
        write(&settings, folder.path(), None).unwrap();
    }

    #[test]
    fn lines_are_not_appended_through_a_link_that_leads_nowhere_yet() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("github"), folder.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        append(&path, "image=x\n").unwrap_err();
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            ExportSettings { dotenv_path: folder.path().join("none/image.env"), ..ExportSettings::default() };
        let error = write(&settings, folder.path(), Some(&export(1))).unwrap_err();
        assert!(error.contains("none/image.env"), "{error}");
    }
}
