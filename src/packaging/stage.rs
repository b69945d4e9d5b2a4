//! What building, packaging, pushing and withdrawing do.

use super::messages::{
    BuildService, DiscardImage, ImagePushed, ModelPackaged, PackageModel, PushImage, ServiceBuilt, WithdrawImage,
};
use crate::supervision::{Request, StageActor};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::export::{self, ImageExport};
use crate::config::Settings;
use crate::env::Env;
use crate::saga::steps::BUILD;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::{CycleId, Digest, ModelVersion};
use delayd_core::ports::Severity;
use delayd_ledger::{BuildRecord, ImageRecord, NewAlert};
use delayd_outside::bundles::BundleStore;
use delayd_outside::packaging::ImageBuilder;
use delayd_outside::packaging::source::{BuildControl, Builds, FinishedBuild, SourceBuilder};
use delayd_outside::packaging::{PackageRequest, oci};

/// Longer than a build's own limit, `packaging.source.timeout_secs`, can be.
const BUILD_DEADLINE: Duration = Duration::from_secs(7 * 3600);

/// The stage's actor.
pub type PackagingActor = StageActor<PackagingStage>;

/// The packaging's work, apart from its actor.
#[derive(Clone)]
pub struct PackagingStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The static service binary at hand; empty where every service is built from its source.
    pub service_binary: PathBuf,
    /// What puts service and bundle together.
    pub image_builder: Arc<dyn ImageBuilder>,
    /// The builds under way, for whoever stops the daemon.
    pub builds: Builds,
}

impl PackagingStage {
    fn layout_of(&self, model: ModelVersion) -> PathBuf {
        self.settings.daemon.state_dir.join("packages").join(model.to_string())
    }

    /// Builds the service from its source. The same commit by the same command is
    /// built once, so that doing it again after a crash finds it.
    pub(super) async fn build(&self, message: BuildService) -> Result<ServiceBuilt, StepFailure> {
        let (source, cycle, started_at) = (&self.settings.packaging.source, message.cycle, self.env.now());
        let control = self.builds.begin();
        // When nobody waits for the answer any more, the build ends.
        let _ends_with_us = control.cancel_on_drop();
        let built = match self.built(cycle, control).await? {
            Err(error) if error.kind() == ErrorKind::Cancelled && self.builds.are_stopping() => {
                // The daemon stops, and its next start does this step again: there is no answer to give.
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
            finished_at: self.env.now(),
        };
        self.env.ledger.save_build(record).await?;
        Ok(ServiceBuilt {
            binary: built.binary,
            digest: built.digest,
            repository: source.repository.clone(),
            commit: built.commit,
        })
    }

    async fn built(
        &self,
        cycle: CycleId,
        control: BuildControl,
    ) -> Result<Result<FinishedBuild, PortError>, StepFailure> {
        let packaging = &self.settings.packaging;
        let state_dir = &self.settings.daemon.state_dir;
        let builder = SourceBuilder::new(&packaging.source, packaging.require_static_service, state_dir);
        let progress = self.progress(cycle);
        run_blocking(move || builder.build(cycle, &control, &progress)).await
    }

    /// News of a build go to the log and, for `delayd cycles`, to the ledger.
    fn progress(&self, cycle: CycleId) -> impl Fn(&str) + Send + 'static {
        let ledger = self.env.ledger.clone();
        move |text| {
            tracing::info!(cycle.id = %cycle, "{text}");
            let text = text.to_owned();
            let noted = ledger.transact_blocking("noting a step's progress", move |tx| {
                delayd_ledger::tx::step_progress(tx, cycle, BUILD.position, &text)
            });
            if let Err(error) = noted {
                tracing::warn!(error = delayd_core::error::chain(&error), "progress could not be recorded");
            }
        }
    }

    /// Builds the image. The same bundle and binary give an image that does the
    /// same, so doing it again after a crash is harmless.
    pub(super) async fn package(&self, message: PackageModel) -> Result<ModelPackaged, StepFailure> {
        let (service_binary, service_revision, service_source) = match message.service {
            Some(service) => {
                verify(&service).await?;
                (service.binary, service.commit, Some(service.repository))
            }
            None => (self.service_binary.clone(), env!("CARGO_PKG_VERSION").to_owned(), None),
        };
        let request = PackageRequest {
            model: message.model,
            bundle_dir: self.bundles.path_of(&message.bundle),
            bundle: message.bundle,
            dataset: message.dataset.to_string(),
            service_binary,
            service_revision,
            service_source,
            service_must_be_static: self.settings.packaging.require_static_service,
            repository: self.settings.packaging.repository.clone(),
            layout_dir: self.layout_of(message.model),
        };
        let image = self.image_builder.build(&request).await?;
        Ok(ModelPackaged { layout: image.layout_dir, digest: image.manifest, size_bytes: image.size_bytes })
    }

    pub(super) async fn push(&self, message: PushImage) -> Result<ImagePushed, StepFailure> {
        let tag = message.model.to_string();
        let image =
            self.env.image_registry.push(&message.packaged.layout, &self.settings.packaging.repository, &tag).await?;
        if image.digest != message.packaged.digest {
            let text =
                format!("the registry took {} for {tag}, but {} was packaged", image.digest, message.packaged.digest);
            return Err(StepFailure::new(ErrorKind::Corrupt, text));
        }
        let record = ImageRecord { image: image.clone(), model: message.model, pushed_at: self.env.now() };
        self.env.ledger.save_image(record).await?;
        self.export(message.model).await?;
        Ok(ImagePushed { image })
    }

    /// Tells other programs which image stands now. A file that cannot be written
    /// is told in an alert and holds nothing up: the image is pushed.
    async fn export(&self, about: ModelVersion) -> Result<(), StepFailure> {
        let image = ImageExport::read(&self.env.ledger, None).await?;
        let settings = self.settings.packaging.export.clone();
        let state_dir = self.settings.daemon.state_dir.clone();
        let written = run_blocking(move || export::write(&settings, &state_dir, image.as_ref())).await?;
        let Err(fault) = written else { return Ok(()) };
        tracing::error!(model.version = %about, error = fault, "the pushed image could not be exported");
        let alert = NewAlert {
            at: self.env.now(),
            severity: Severity::Warning,
            dedup_key: format!("export/{about}"),
            title: format!("the image of {about} could not be exported"),
            body: format!(
                "{fault}. The cycle goes on. `delayd image` tells the image; packaging.export names the files, \
                 which are written again at the next push."
            ),
        };
        self.env.ledger.enqueue_alert(alert).await?;
        Ok(())
    }

    pub(super) async fn withdraw(&self, message: WithdrawImage) -> Result<(), StepFailure> {
        let tag = message.model.to_string();
        self.env.image_registry.remove_tag(&self.settings.packaging.repository, &tag).await?;
        self.env.ledger.withdraw_images(message.model, self.env.now()).await?;
        self.export(message.model).await
    }

    pub(super) async fn discard(&self, message: DiscardImage) -> Result<(), StepFailure> {
        let repository = &self.settings.packaging.repository;
        self.image_builder.discard(repository, &message.model.to_string()).await?;
        let layout = self.layout_of(message.model);
        run_blocking(move || match std::fs::remove_dir_all(&layout) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StepFailure::new(ErrorKind::of_io(&error), format!("removing {}: {error}", layout.display())))
            }
            _ => Ok(()),
        })
        .await?
    }
}

/// Whether the executable is still what was built.
async fn verify(service: &ServiceBuilt) -> Result<(), StepFailure> {
    let (path, expected) = (service.binary.clone(), service.digest.clone());
    run_blocking(move || {
        let found = std::fs::File::open(&path).and_then(|file| oci::copy_hashing(file, std::io::sink()));
        let failed = |kind, what: String| {
            let advice = "it was built in an earlier step and is needed until the image is packaged";
            Err(StepFailure::new(kind, format!("{}: {what}; {advice}", path.display())))
        };
        match found {
            Ok((found, _)) if found == expected => Ok(()),
            Ok((found, _)) => failed(ErrorKind::Corrupt, differs(&found, &expected)),
            Err(error) => failed(ErrorKind::of_io(&error), error.to_string()),
        }
    })
    .await?
}

fn differs(found: &Digest, expected: &Digest) -> String {
    format!("its digest is {found}, expected {expected}")
}

impl Request for BuildService {
    type Stage = PackagingStage;
    type Answer = ServiceBuilt;
    const DEADLINE: Duration = BUILD_DEADLINE;

    async fn run(self, stage: &PackagingStage) -> Result<ServiceBuilt, StepFailure> {
        stage.build(self).await
    }
}

impl Request for PackageModel {
    type Stage = PackagingStage;
    type Answer = ModelPackaged;

    async fn run(self, stage: &PackagingStage) -> Result<ModelPackaged, StepFailure> {
        stage.package(self).await
    }
}

impl Request for PushImage {
    type Stage = PackagingStage;
    type Answer = ImagePushed;

    async fn run(self, stage: &PackagingStage) -> Result<ImagePushed, StepFailure> {
        stage.push(self).await
    }
}

impl Request for WithdrawImage {
    type Stage = PackagingStage;
    type Answer = ();

    async fn run(self, stage: &PackagingStage) -> Result<(), StepFailure> {
        stage.withdraw(self).await
    }
}

impl Request for DiscardImage {
    type Stage = PackagingStage;
    type Answer = ();

    async fn run(self, stage: &PackagingStage) -> Result<(), StepFailure> {
        stage.discard(self).await
    }
}
