//! The ledger: what was done and decided, in one SQLite file.
//!
//! Every stage writes here first and sends messages second, so that `kill -9` at
//! any moment loses no more than the work in hand. Each table has a typed record
//! and its functions in a file of its own; every insert is safe to repeat with
//! the same id. Free functions take a transaction and can be combined inside
//! [`Ledger::transact`]; the methods on [`Ledger`] run one of them.
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
pub use connection::Ledger;
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
pub use reference::{DatasetWeather, NewReferenceVersion, ReferenceKind, ReferenceOrigin, ReferenceVersion};
pub use restore::{CheckedBackup, Restored, check_backup};
pub use runs::{Run, RunState};
pub use steps::{Step, StepState};
pub use usage::{AccessCounts, LedgerUsage};

/// The functions behind the methods, for use inside [`Ledger::transact`] where
/// several must be stored together or not at all.
pub mod tx {
    pub use super::alerts::deliveries::{
        claim as claim_message, delivered as message_delivered, due as due_deliveries, failed as message_failed,
        hold_off as hold_off_deliveries, of_message as deliveries_of_message, told_since, wait as let_deliveries_wait,
        withdraw as withdraw_deliveries,
    };
    pub use super::alerts::outbox::{
        enqueue as enqueue_alert, retry as retry_alert, route as route_alert, unrouted as unrouted_alerts,
    };
    pub use super::alerts::silences::apply as apply_silences;
    pub use super::audit::record as record_audit;
    pub use super::builds::save as save_build;
    pub use super::cycles::{
        begin as begin_cycle, finish as finish_cycle, open as open_cycle, page as cycles_page,
        set_state as set_cycle_state,
    };
    pub use super::datasets::insert as insert_dataset;
    pub use super::decisions::insert as insert_decision;
    pub use super::deployments::{
        approved_of as approved_deployment_of, get as deployment, insert as insert_deployment, insert_verification,
        of_model as deployments_of, set_state as set_deployment_state,
    };
    pub use super::drift::{insert as insert_drift_report, save_window as save_metrics_window};
    pub use super::images::{save as save_image, withdraw as withdraw_images};
    pub use super::models::{alias, get as model, promote, register as register_model, rollback_alias, set_candidate};
    pub use super::objects::record_object;
    pub use super::query::mint;
    pub use super::runs::save as save_run;
    pub use super::settings::{get as setting, set as set_setting};
    pub use super::steps::{
        done as step_done, failed as step_failed, progress as step_progress, skipped as step_skipped,
        started as step_started, stuck as step_stuck, undo_failed as step_undo_failed, undone as step_undone,
    };
}
