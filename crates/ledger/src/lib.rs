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
mod backup;
mod connection;
mod cycles;
mod data;
mod decisions;
mod deliveries;
mod error;
mod lineage;
mod models;
mod monitoring;
mod opening;
mod records;
mod releases;
mod restore;
mod rows;
mod steps;

pub use alerts::{NewAlert, NewSilence, OutboxAlert, OutboxState, Silence};
pub use backup::{RecoveredTable, RecoveryReport, recover_copy};
pub use connection::{AccessCounts, Answer, Blocking, Ledger, LedgerUsage, Threads};
pub use cycles::{CancelRequest, Cycle, CycleOutcome, CycleReason, CycleState, UndoCause, Undoing};
pub use data::{
    Dataset, DatasetVersion, DatasetWeather, IngestedObject, NewReferenceVersion, ObjectRef, ObjectStatus,
    ObjectsLooked, ReferenceKind, ReferenceOrigin, ReferenceVersion, RefusedDataset,
};
pub use decisions::{AuditEntry, AuditRecord, Decision, Event, NewDecision};
pub use deliveries::{AlertDelivery, Delivery, DeliveryState, FailedAttempt, ToldMessage, UndeliveredCount};
pub use error::{LedgerError, Refusal, refuse};
pub use lineage::{Lineage, LineageEdge, LineageKind, LineageNode};
pub use models::{Alias, AliasMove, AliasRecord, Model, Run, RunState};
pub use monitoring::{DriftRecord, KnownOutcome, MetricsWindow, ScoredOutcome, ServedPrediction};
pub use opening::ensure_unused;
pub use records::{InSnapshot, InTransaction, Reads, Records, Snapshot, Tx, Writes};
pub use releases::{BuildRecord, Deployment, DeploymentState, ImageRecord, VerificationRecord};
pub use restore::{CheckedBackup, Restored, check_backup};
pub use rows::{Page, SequenceName, UnknownText};
pub use steps::{Step, StepState};
