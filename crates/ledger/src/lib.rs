//! The ledger: what was done and decided, in one SQLite file.
//!
//! Every stage writes here first and sends messages second, so that `kill -9` at
//! any moment loses no more than the work in hand. Each table has a typed record;
//! every insert is safe to repeat with the same id. Each method is written once and
//! runs on a [`Ledger`], as a transaction of its own, and on a [`Tx`] or a [`Snapshot`],
//! as a part of a larger one: see [`Records`].
//!
//! What it does not do: it decides nothing, it keeps no bundles or datasets
//! (only their digests and keys), and it never reads a clock: every moment is
//! given by the caller.

mod alerts;
mod audit;
mod backup;
mod builds;
pub(crate) mod columns;
mod connection;
mod cycles;
mod datasets;
mod decisions;
mod deployments;
mod drift;
mod error;
mod events;
mod guard;
mod images;
mod lineage;
mod lineage_text;
mod migrations;
mod models;
mod objects;
mod parts;
mod predictions;
mod query;
mod records;
mod reference;
mod restore;
mod runs;
mod settings;
mod steps;
mod usage;

pub use alerts::deliveries::{AlertDelivery, Delivery, DeliveryState, FailedAttempt, ToldMessage, UndeliveredCount};
pub use alerts::outbox::{NewAlert, OutboxAlert, OutboxState};
pub use alerts::silences::{NewSilence, Silence};
pub use audit::{AuditEntry, AuditRecord};
pub use backup::{RecoveredTable, RecoveryReport, recover_copy};
pub use builds::BuildRecord;
pub use columns::UnknownText;
pub use connection::{Answer, Blocking, Ledger, Threads};
pub use cycles::{CancelRequest, Cycle, CycleOutcome, CycleReason, CycleState, UndoCause, Undoing};
pub use datasets::{Dataset, DatasetVersion, ObjectRef, RefusedDataset};
pub use decisions::{Decision, NewDecision};
pub use deployments::{Deployment, DeploymentState, VerificationRecord};
pub use drift::{DriftRecord, MetricsWindow};
pub use error::{LedgerError, Refusal, refuse};
pub use events::Event;
pub use guard::ensure_unused;
pub use images::ImageRecord;
pub use lineage::{Lineage, LineageEdge, LineageKind, LineageNode};
pub use models::{Alias, AliasMove, AliasRecord, Model};
pub use objects::{IngestedObject, ObjectStatus, ObjectsLooked};
pub use predictions::{FlightKey, KnownOutcome, ScoredOutcome, ServedPrediction};
pub use query::{Page, SequenceName};
pub use records::{InSnapshot, InTransaction, Reads, Records, Snapshot, Tx, Writes};
pub use reference::{DatasetWeather, NewReferenceVersion, ReferenceKind, ReferenceOrigin, ReferenceVersion};
pub use restore::{CheckedBackup, Restored, check_backup};
pub use runs::{Run, RunState};
pub use steps::{Step, StepState};
pub use usage::{AccessCounts, LedgerUsage};
