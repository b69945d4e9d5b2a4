//! What packaging, pushing and withdrawing do.

use std::path::PathBuf;
use std::sync::Arc;

use super::messages::{DiscardImage, ImagePushed, ModelPackaged, PackageModel, PushImage, WithdrawImage};
use super::{PackageRequest, package};
use crate::config::Settings;
use crate::env::Env;
use crate::error::ErrorKind;
use crate::ids::ModelVersion;
use crate::ledger::ImageRecord;
use crate::registry::BundleStore;
use crate::saga::{StepFailure, run_blocking};

/// The packaging's work, apart from its actor.
#[derive(Clone)]
pub struct PackagingStage {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Configuration.
    pub settings: Arc<Settings>,
    /// Bundles on this machine.
    pub bundles: BundleStore,
    /// The static service binary.
    pub service_binary: PathBuf,
}

impl PackagingStage {
    fn layout_of(&self, model: ModelVersion) -> PathBuf {
        self.settings.daemon.state_dir.join("packages").join(model.to_string())
    }

    /// Builds the image. The same bundle and binary give the same digest, so
    /// doing it again after a crash is harmless.
    pub(super) async fn package(&self, message: PackageModel) -> Result<ModelPackaged, StepFailure> {
        let request = PackageRequest {
            model: message.model,
            bundle_dir: self.bundles.path_of(&message.bundle),
            bundle: message.bundle,
            dataset: message.dataset.to_string(),
            service_binary: self.service_binary.clone(),
            service_revision: env!("CARGO_PKG_VERSION").to_owned(),
            service_must_be_static: self.settings.packaging.require_static_service,
            repository: self.settings.packaging.repository.clone(),
            layout_dir: self.layout_of(message.model),
        };
        let image = run_blocking(move || package(&request)).await?;
        let image = image.map_err(|error| StepFailure::of(error.kind(), &error))?;
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
        Ok(ImagePushed { image })
    }

    pub(super) async fn withdraw(&self, message: WithdrawImage) -> Result<(), StepFailure> {
        let tag = message.model.to_string();
        self.env.image_registry.remove_tag(&self.settings.packaging.repository, &tag).await?;
        Ok(())
    }

    pub(super) async fn discard(&self, message: DiscardImage) -> Result<(), StepFailure> {
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
