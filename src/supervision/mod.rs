//! Supervision: keeps the daemon's actors alive.
//!
//! actix's own `Supervisor` keeps the same `self`, loses what was being done, and
//! knows neither panics nor hangs. Here each actor runs on an arbiter thread of
//! its own, made by a factory, and a watcher thread beside it notices a stop, a
//! panic, and silence. It restarts the actor with growing pauses, and when one
//! actor keeps dying it gives the whole daemon up, for systemd or the kubelet to
//! start again.
//!
//! What it does not do: it saves no messages (state lives in the ledger, a
//! message is a wake-up), and it cannot kill a thread: a hung one is abandoned,
//! and ends itself as soon as it comes back.

mod actor;
mod incarnation;
mod policy;
mod status;
mod supervisor;

pub use actor::{ActorGone, ActorRef, Request, StageActor, StageRef};
pub use policy::SupervisionPolicy;
pub use status::{ActorState, ActorStatus, Heartbeat};
pub use supervisor::{GivenUp, SupervisedActor, Supervision};
