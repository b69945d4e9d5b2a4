//! The stages' actors, as the cycle asks them.

use crate::data::DataActor;
use crate::deployment::DeploymentActor;
use crate::packaging::PackagingActor;
use crate::registry::RegistryActor;
use crate::supervision::ActorRef;
use crate::training::TrainingActor;
use crate::verification::VerificationActor;

/// Addresses that survive restarts.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Ingestion and datasets.
    pub data: ActorRef<DataActor>,
    /// Training and the gate.
    pub training: ActorRef<TrainingActor>,
    /// Versions and aliases.
    pub registry: ActorRef<RegistryActor>,
    /// Images.
    pub packaging: ActorRef<PackagingActor>,
    /// Releases.
    pub deployment: ActorRef<DeploymentActor>,
    /// Judging releases.
    pub verification: ActorRef<VerificationActor>,
}
