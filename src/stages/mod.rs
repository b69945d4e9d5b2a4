//! The stages of the loop: in each file what a stage can be asked, and the work that answers it.
//!
//! A request is a struct; its `impl Request` holds the work. A stage (`XStage`) is only what that work needs: ports,
//! settings, and handles that outlive a restart of its actor. It keeps nothing that the ledger does not have.

pub mod dataset;
pub mod deploy;
pub mod gate;
pub mod image_export;
pub mod ingest;
pub mod live_service;
pub mod package;
pub mod reconcile;
pub mod reference;
pub mod register;
pub mod retain;
pub mod rollback;
pub mod train;
pub mod verify;
pub mod watch;

use crate::supervision::StageRef;
use deploy::DeploymentStage;
use ingest::DataStage;
use package::PackagingStage;
use register::RegistryStage;
use train::TrainingStage;
use verify::VerificationStage;

/// The actors that a cycle asks.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Ingestion and datasets.
    pub data: StageRef<DataStage>,
    /// Training and the gate.
    pub training: StageRef<TrainingStage>,
    /// Versions and aliases.
    pub registry: StageRef<RegistryStage>,
    /// Images.
    pub packaging: StageRef<PackagingStage>,
    /// Releases.
    pub deployment: StageRef<DeploymentStage>,
    /// Checks of new releases.
    pub verification: StageRef<VerificationStage>,
}
