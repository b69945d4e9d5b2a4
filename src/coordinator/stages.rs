//! The stages' actors, as the cycle asks them.

use std::time::Duration;

use actix::dev::MessageResponse;
use actix::{Actor, Context, Handler, Message};

use crate::data::DataActor;
use crate::deployment::DeploymentActor;
use crate::packaging::PackagingActor;
use crate::packaging::messages::{BuildService, ServiceBuilt};
use crate::registry::RegistryActor;
use crate::saga::StepFailure;
use crate::supervision::ActorRef;
use crate::telemetry::Traced;
use crate::training::TrainingActor;
use crate::verification::VerificationActor;

/// A stage that does not answer for this long is given up for this attempt.
/// Hangs are noticed sooner, by supervision; this bounds honest work.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1800);
/// The same for training.
const TRAINING_DEADLINE: Duration = Duration::from_secs(12 * 3600);
/// The same for building the service, whose own limit (`packaging.source.timeout_secs`) is never longer.
const BUILD_DEADLINE: Duration = Duration::from_secs(7 * 3600);

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

macro_rules! ask {
    ($(#[$doc:meta])* $name:ident, $actor:ty, $deadline:expr) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// The stage's own failure, or that its actor died or did not answer.
        pub async fn $name<M, T>(&self, message: M) -> Result<T, StepFailure>
        where
            M: Message<Result = Result<T, StepFailure>> + Send + 'static,
            Result<T, StepFailure>: MessageResponse<$actor, M>,
            $actor: Handler<M>,
            T: Send + 'static,
        {
            ask(&self.$name, message, $deadline).await
        }
    };
}

impl Stages {
    ask!(/// Asks the data stage.
        data, DataActor, ANSWER_DEADLINE);
    ask!(/// Asks the training stage.
        training, TrainingActor, TRAINING_DEADLINE);
    ask!(/// Asks the registry.
        registry, RegistryActor, ANSWER_DEADLINE);
    ask!(/// Asks the packaging stage.
        packaging, PackagingActor, ANSWER_DEADLINE);
    /// Asks the packaging stage for a build of the service.
    ///
    /// # Errors
    /// The stage's own failure, or that its actor died or did not answer.
    pub async fn build(&self, message: BuildService) -> Result<ServiceBuilt, StepFailure> {
        ask(&self.packaging, message, BUILD_DEADLINE).await
    }
    ask!(/// Asks the deployment stage.
        deployment, DeploymentActor, ANSWER_DEADLINE);
    ask!(/// Asks the verification stage.
        verification, VerificationActor, ANSWER_DEADLINE);
}

/// Sends a message, with the span it is sent from, and waits for the answer; an actor that is gone is a failure
/// that may be tried again, because supervision starts it anew.
///
/// # Errors
/// The stage's own failure, or that its actor died or did not answer.
pub async fn ask<A, M, T>(actor: &ActorRef<A>, message: M, deadline: Duration) -> Result<T, StepFailure>
where
    A: Actor<Context = Context<A>> + Handler<M> + Handler<Traced<A>>,
    M: Message<Result = Result<T, StepFailure>> + Send + 'static,
    Result<T, StepFailure>: MessageResponse<A, M>,
    T: Send + 'static,
{
    match actor.send_traced(message, deadline).await {
        Ok(answer) => answer,
        Err(gone) => Err(StepFailure::of(gone.kind(), &gone)),
    }
}
