//! Packaging: builds the inference service where that is configured, puts the model into an image, and pushes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::image_export::{self, ImageExport};
use crate::config::Settings;
use crate::env::Env;
use crate::supervision::Request;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, Digest, ModelVersion};
use delayd_core::ports::{PushedImage, Severity};
use delayd_ledger::{BuildRecord, ImageRecord};
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::source::{Builds, SourceBuilder};
use delayd_outside::packaging::{ImageBuilder, PackageRequest, oci};

/// What packaging needs.
#[derive(Clone)]
pub struct PackagingStage {
    pub env: Env,
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The local static service binary; empty where every service is built from its source.
    pub service_binary: PathBuf,
    /// What puts service and bundle together.
    pub image_builder: Arc<dyn ImageBuilder>,
    /// The builds under way, so that stopping the daemon can end them.
    pub builds: Builds,
}

impl PackagingStage {
    fn layout_of(&self, model: ModelVersion) -> PathBuf {
        self.settings.daemon.state_dir.join("packages").join(model.to_string())
    }

    /// A build's progress goes to the log and, for `delayd cycles`, to the ledger.
    fn progress(&self, cycle: CycleId) -> impl Fn(&str) + Send + 'static {
        let ledger = self.env.ledger.clone();
        move |text| {
            tracing::info!(cycle.id = %cycle, "{text}");
            let noted = ledger.blocking().step_progress(cycle, text);
            if let Err(error) = noted {
                tracing::warn!(error = chain(&error), "progress could not be recorded");
            }
        }
    }

    /// Tells other programs which image is current. A file that cannot be written
    /// raises an alert and holds nothing up: the image is pushed.
    async fn export(&self, about: ModelVersion) -> Result<(), StepFailure> {
        let image = ImageExport::read(&self.env.ledger, None).await?;
        let settings = self.settings.packaging.export.clone();
        let state_dir = self.settings.daemon.state_dir.clone();
        let written = run_blocking(move || image_export::write(&settings, &state_dir, image.as_ref())).await?;
        let Err(fault) = written else { return Ok(()) };
        tracing::error!(model.version = %about, error = fault, "the pushed image could not be exported");
        let body = format!(
            "{fault}. The cycle continues. `delayd image` shows the image; packaging.export names the files, which \
             are written again at the next push."
        );
        let title = format!("the image of {about} could not be exported");
        Ok(self.env.alert(Severity::Warning, format!("export/{about}"), title, body).await?)
    }
}

/// Builds the inference service from its source. The same commit with the same command is
/// built once, so repeating this after a crash finds the result.
#[derive(Debug, Clone)]
pub struct BuildService {
    pub cycle: CycleId,
}

/// The service's executable, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBuilt {
    pub binary: PathBuf,
    pub digest: Digest,
    /// Repository and commit, for the image's annotations.
    pub repository: String,
    pub commit: String,
}

impl Request for BuildService {
    type Stage = PackagingStage;
    type Answer = ServiceBuilt;
    /// Longer than a build's own limit, `packaging.source.timeout_secs`, can be.
    const DEADLINE: Duration = Duration::from_secs(7 * 3600);

    async fn run(self, stage: &PackagingStage) -> Result<ServiceBuilt, StepFailure> {
        let (packaging, started_at, cycle) = (&stage.settings.packaging, stage.env.now(), self.cycle);
        let source = &packaging.source;
        let control = stage.builds.begin();
        // When nobody waits for the answer any more, the build ends.
        let _ends_with_us = control.cancel_on_drop();
        let builder = SourceBuilder::new(source, packaging.require_static_service, &stage.settings.daemon.state_dir);
        let progress = stage.progress(cycle);
        let built = match run_blocking(move || builder.build(cycle, &control, &progress)).await? {
            Err(error) if error.kind() == ErrorKind::Cancelled && stage.builds.are_stopping() => {
                // The daemon is stopping, and its next start repeats this step: there is no answer to give.
                return std::future::pending().await;
            }
            built => built?,
        };
        let record = BuildRecord {
            cycle,
            repository: source.repository.clone(),
            revision: source.revision.clone(),
            commit: built.commit.clone(),
            subdirectory: source.subdirectory.clone(),
            command: source.build_command.clone(),
            command_digest: built.command_digest,
            toolchain: built.toolchain,
            binary_digest: built.digest.clone(),
            size_bytes: built.size_bytes,
            reused: built.reused,
            started_at,
            finished_at: stage.env.now(),
        };
        stage.env.ledger.save_build(record).await?;
        Ok(ServiceBuilt {
            binary: built.binary,
            digest: built.digest,
            repository: source.repository.clone(),
            commit: built.commit,
        })
    }
}

/// Builds the service image of a model. The same bundle and binary give an equivalent
/// image, so repeating this after a crash is harmless.
#[derive(Debug, Clone)]
pub struct PackageModel {
    pub model: ModelVersion,
    pub bundle: Digest,
    /// What it was trained on, for the image's annotations.
    pub dataset: Digest,
    /// The service that was built for it; without one, the local binary.
    pub service: Option<ServiceBuilt>,
}

/// The image is in a local OCI layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelPackaged {
    /// The layout folder.
    pub layout: PathBuf,
    /// Digest of the image manifest.
    pub digest: Digest,
    /// Bytes of all layers.
    pub size_bytes: u64,
}

impl Request for PackageModel {
    type Stage = PackagingStage;
    type Answer = ModelPackaged;

    async fn run(self, stage: &PackagingStage) -> Result<ModelPackaged, StepFailure> {
        let (service_binary, service_revision, service_source) = match self.service {
            Some(service) => {
                verify_unchanged(&service).await?;
                (service.binary, service.commit, Some(service.repository))
            }
            None => (stage.service_binary.clone(), env!("CARGO_PKG_VERSION").to_owned(), None),
        };
        let request = PackageRequest {
            model: self.model,
            bundle_dir: stage.bundles.path_of(&self.bundle),
            bundle: self.bundle,
            dataset: self.dataset.to_string(),
            service_binary,
            service_revision,
            service_source,
            service_must_be_static: stage.settings.packaging.require_static_service,
            repository: stage.settings.packaging.repository.clone(),
            layout_dir: stage.layout_of(self.model),
        };
        let image = stage.image_builder.build(&request).await?;
        Ok(ModelPackaged { layout: image.layout_dir, digest: image.manifest, size_bytes: image.size_bytes })
    }
}

/// Fails unless the executable is still what was built.
async fn verify_unchanged(service: &ServiceBuilt) -> Result<(), StepFailure> {
    let (path, expected) = (service.binary.clone(), service.digest.clone());
    run_blocking(move || {
        let found = std::fs::File::open(&path).and_then(|file| oci::copy_hashing(file, std::io::sink()));
        let (kind, what) = match found {
            Ok((found, _)) if found == expected => return Ok(()),
            Ok((found, _)) => (ErrorKind::Corrupt, format!("its digest is {found}, expected {expected}")),
            Err(error) => (ErrorKind::of_io(&error), error.to_string()),
        };
        let advice = "it was built in an earlier step and is needed until the image is packaged";
        Err(StepFailure::new(kind, format!("{}: {what}; {advice}", path.display())))
    })
    .await?
}

/// Undo of [`PackageModel`]: removes the local layout.
#[derive(Debug, Clone)]
pub struct DiscardImage {
    pub model: ModelVersion,
}

impl Request for DiscardImage {
    type Stage = PackagingStage;
    type Answer = ();

    async fn run(self, stage: &PackagingStage) -> Result<(), StepFailure> {
        let repository = &stage.settings.packaging.repository;
        stage.image_builder.discard(repository, &self.model.to_string()).await?;
        let layout = stage.layout_of(self.model);
        run_blocking(move || match std::fs::remove_dir_all(&layout) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StepFailure::new(ErrorKind::of_io(&error), format!("removing {}: {error}", layout.display())))
            }
            _ => Ok(()),
        })
        .await?
    }
}

/// Pushes a packaged image and tells other programs about it.
#[derive(Debug, Clone)]
pub struct PushImage {
    pub model: ModelVersion,
    pub packaged: ModelPackaged,
}

/// The registry has the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImagePushed {
    /// As the registry names it.
    pub image: PushedImage,
}

impl Request for PushImage {
    type Stage = PackagingStage;
    type Answer = ImagePushed;

    async fn run(self, stage: &PackagingStage) -> Result<ImagePushed, StepFailure> {
        let Self { model, packaged } = self;
        let (repository, tag) = (&stage.settings.packaging.repository, model.to_string());
        let image = stage.env.image_registry.push(&packaged.layout, repository, &tag).await?;
        if image.digest != packaged.digest {
            let text = format!("the registry stored {} as {tag}, but {} was packaged", image.digest, packaged.digest);
            return Err(StepFailure::new(ErrorKind::Corrupt, text));
        }
        let record = ImageRecord { image: image.clone(), model, pushed_at: stage.env.now() };
        stage.env.ledger.save_image(record).await?;
        stage.export(model).await?;
        Ok(ImagePushed { image })
    }
}

/// Undo of [`PushImage`]: removes the tag.
#[derive(Debug, Clone)]
pub struct WithdrawImage {
    pub model: ModelVersion,
}

impl Request for WithdrawImage {
    type Stage = PackagingStage;
    type Answer = ();

    async fn run(self, stage: &PackagingStage) -> Result<(), StepFailure> {
        let tag = self.model.to_string();
        stage.env.image_registry.remove_tag(&stage.settings.packaging.repository, &tag).await?;
        stage.env.ledger.withdraw_images(self.model, stage.env.now()).await?;
        stage.export(self.model).await
    }
}
