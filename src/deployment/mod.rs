//! Deployment: rolls a release out, and back as a whole.
//!
//! Builds the [`delayd_core::ports::Release`] of a model, has the cluster apply it, and
//! remembers in the ledger which release came before. It deliberately judges
//! nothing: whether a release is good is the verification's business.

pub mod messages;
mod restarts;
mod rollback;
mod rollouts;
mod serving;
mod stage;

pub use restarts::RestartWatch;
pub use rollback::{PlannedRollback, RolledBack};
pub use rollouts::{Rollouts, UnderWay};
pub use serving::{LiveService, live_service};
pub use stage::{DeploymentActor, DeploymentStage};
