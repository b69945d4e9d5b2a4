//! Cycles: one pass of the loop each, with every id that it will need.
//!
//! At most one cycle is open. That is what lets it reserve the next model number
//! without holding it for ever: the number is `newest registered + 1`, so a
//! cycle that ends before registering leaves it to the next, and the registered
//! models count without gaps.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx, Writes};
use super::refuse;
use super::rows::{self, At, Json, Page, text_enum};
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, DeploymentId, DriftReportId, ModelVersion, RunId, TraceId};

/// Why a cycle was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CycleReason {
    /// There was no live model.
    Bootstrap,
    /// The inputs drifted.
    Drift {
        /// The evaluation that said so.
        report: DriftReportId,
        /// Its gist, in one line.
        summary: String,
    },
    /// The realised quality fell.
    Performance {
        /// By how much, in one line.
        summary: String,
    },
    /// The schedule said so.
    Scheduled,
    /// A person asked for it.
    Manual {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
}

impl CycleReason {
    /// Its sort, in a word: how it is written in the ledger.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Drift { .. } => "drift",
            Self::Performance { .. } => "performance",
            Self::Scheduled => "scheduled",
            Self::Manual { .. } => "manual",
        }
    }
}

impl std::fmt::Display for CycleReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bootstrap => f.write_str("bootstrap: there was no live model"),
            Self::Drift { report, summary } => write!(f, "data drift ({report}): {summary}"),
            Self::Performance { summary } => write!(f, "concept drift: {summary}"),
            Self::Scheduled => f.write_str("scheduled"),
            Self::Manual { by, why } if why.is_empty() => write!(f, "asked for by {by}"),
            Self::Manual { by, why } => write!(f, "asked for by {by}: {why}"),
        }
    }
}

text_enum! {
    /// Where a cycle is.
    CycleState {
        /// Its steps are being done, or undone.
        Running = "running",
        /// It waits for an administrator.
        WaitingApproval = "waiting_approval",
        /// It is over.
        Finished = "finished",
    }
}

text_enum! {
    /// How a cycle ended.
    CycleOutcome {
        /// Its model is live.
        Deployed = "deployed",
        /// The live model was better, or as good.
        KeptLive = "kept_live",
        /// A step failed, and what came before it was undone.
        Failed = "failed",
        /// Somebody stopped it.
        Cancelled = "cancelled",
        /// It was deployed and taken back.
        RolledBack = "rolled_back",
        /// An undo could not finish; a person must look.
        Stuck = "stuck",
    }
}

text_enum! {
    /// Why a cycle is being undone.
    UndoCause {
        /// A step failed for good.
        Failed = "failed",
        /// Somebody stopped it.
        Cancelled = "cancelled",
        /// An administrator did not approve its release.
        Rejected = "rejected",
    }
}

/// Why a cycle is being undone; noted before the first undo, so that a start after a crash
/// goes on undoing and never does a step again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Undoing {
    /// The sort of reason.
    pub cause: UndoCause,
    /// The reason in words.
    pub why: String,
}

/// Who wants a cycle to stop; it does at the next step's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.why.as_str() {
            "" => write!(f, "{} cancelled it", self.by),
            why => write!(f, "{} cancelled it: {why}", self.by),
        }
    }
}

/// One cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cycle {
    /// Its identity.
    pub id: CycleId,
    /// Why it was begun.
    pub reason: CycleReason,
    /// Where it is.
    pub state: CycleState,
    /// How it ended, once it has.
    pub outcome: Option<CycleOutcome>,
    /// The end in words.
    pub detail: String,
    /// The training run it will make.
    pub run: RunId,
    /// The number its model will have, if it comes to be registered.
    pub model: ModelVersion,
    /// The deployment it will make.
    pub deployment: DeploymentId,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who approved its release, where a person had to.
    #[serde(default)]
    pub approved_by: Option<String>,
    /// Why it is being undone, or was.
    #[serde(default)]
    pub undoing: Option<Undoing>,
    /// Who wants it to stop.
    #[serde(default)]
    pub cancel: Option<CancelRequest>,
}

impl Cycle {
    /// Its trace, the same before and after a restart: from everything that was
    /// settled when it was begun.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        let Self { id, run, model, deployment, started_at, .. } = self;
        TraceId::of(&format!("delayd/{id}/{run}/{model}/{deployment}/{}", started_at.timestamp_micros()))
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            reason: row.get::<_, Json<_>>("reason")?.0,
            state: row.get("state")?,
            outcome: row.get("outcome")?,
            detail: row.get("detail")?,
            run: row.get("run")?,
            model: row.get("model")?,
            deployment: row.get("deployment")?,
            started_at: row.get::<_, At>("started_at")?.0,
            finished_at: row.get::<_, Option<At>>("finished_at")?.map(|at| at.0),
            approved_by: row.get("approved_by")?,
            undoing: row.get::<_, Option<Json<_>>>("undoing")?.map(|json| json.0),
            cancel: row.get::<_, Option<Json<_>>>("cancel")?.map(|json| json.0),
        })
    }
}

fn not_open(tx: &Tx<'_>, id: CycleId) -> rusqlite::Result<rusqlite::Error> {
    Ok(match tx.cycle(id)? {
        None => refuse(ErrorKind::NotFound, format!("there is no {id}")),
        Some(cycle) => refuse(
            ErrorKind::Conflict,
            format!("{id} is finished ({})", cycle.outcome.map_or("no outcome", CycleOutcome::as_str)),
        ),
    })
}

impl<W: Writes> Records<W> {
    /// Begins a cycle and mints all its ids. Refuses (`Conflict`) while another is open.
    pub fn begin_cycle(&self, reason: CycleReason, at: DateTime<Utc>) -> W::Answer<Cycle> {
        self.write_durably("beginning a cycle", move |tx| {
    if let Some(open) = tx.open_cycle()? {
        return Err(refuse(
            ErrorKind::Conflict,
            format!("{} is still {}; one cycle runs at a time", open.id, open.state),
        ));
    }
    let newest: Option<ModelVersion> = tx.query_row("SELECT max(version) FROM models", [], |row| row.get(0))?;
    let cycle = Cycle {
        id: tx.mint()?,
        reason,
        state: CycleState::Running,
        outcome: None,
        detail: String::new(),
        run: tx.mint()?,
        model: ModelVersion(newest.map_or(0, |version| version.0) + 1),
        deployment: tx.mint()?,
        started_at: at,
        finished_at: None,
        approved_by: None,
        undoing: None,
        cancel: None,
    };
    tx.execute(
        "INSERT INTO cycles (id, reason, state, run, model, deployment, started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![cycle.id, Json(&cycle.reason), cycle.state, cycle.run, cycle.model, cycle.deployment, At(at)],
    )?;
    tx.cycle(cycle.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
})
    }

    /// Moves an open cycle between running and waiting.
    pub fn set_cycle_state(&self, id: CycleId, state: CycleState) -> W::Answer<()> {
        self.write("changing a cycle's state", move |tx| {
            if state == CycleState::Finished {
                return Err(refuse(
                    ErrorKind::Invalid,
                    format!("{id} is finished by `finish_cycle`, which takes the outcome"),
                ));
            }
            let changed =
                tx.execute("UPDATE cycles SET state = ?2 WHERE id = ?1 AND state <> 'finished'", params![id, state])?;
            if changed == 1 { Ok(()) } else { Err(not_open(tx, id)?) }
        })
    }

    /// Notes who approved a cycle that waits for it, and lets it go on.
    pub fn approve_cycle(&self, id: CycleId, by: impl Into<String>) -> W::Answer<()> {
        let by = by.into();
        self.write_durably("noting an approval", move |tx| {
            let sql =
                "UPDATE cycles SET state = 'running', approved_by = ?2 WHERE id = ?1 AND state = 'waiting_approval'";
            let changed = tx.execute(sql, params![id, by])?;
            if changed == 1 {
                Ok(())
            } else {
                Err(refuse(ErrorKind::Conflict, format!("{id} does not wait for approval")))
            }
        })
    }

    /// Notes why an open cycle is being undone, before the first undo; the reason that it has already stays.
    pub fn begin_undo(&self, id: CycleId, undoing: Undoing) -> W::Answer<()> {
        self.write_durably("noting that a cycle is undone", move |tx| {
            let waits = tx.cycle(id)?.is_some_and(|cycle| cycle.state == CycleState::WaitingApproval);
            if undoing.cause == UndoCause::Rejected && !waits {
                return Err(refuse(ErrorKind::Conflict, format!("{id} does not wait for approval")));
            }
            let changed = tx.execute(
        "UPDATE cycles SET state = 'running', undoing = coalesce(undoing, ?2) WHERE id = ?1 AND state <> 'finished'",
        params![id, Json(undoing)],
    )?;
            if changed == 1 { Ok(()) } else { Err(not_open(tx, id)?) }
        })
    }

    /// Notes who wants a running cycle to stop; whoever said so first stays.
    pub fn request_cancel(&self, id: CycleId, request: CancelRequest) -> W::Answer<()> {
        self.write_durably("noting that a cycle is to stop", move |tx| {
            let changed = tx.execute(
                "UPDATE cycles SET state = state, cancel = coalesce(cancel, ?2)
         WHERE id = ?1 AND state = 'running' AND undoing IS NULL",
                params![id, Json(request)],
            )?;
            if changed == 1 { Ok(()) } else { Err(refuse(ErrorKind::Conflict, format!("{id} does not run any more"))) }
        })
    }

    /// Ends a cycle. Repeating the same end changes nothing; another end is refused.
    pub fn finish_cycle(
        &self,
        id: CycleId,
        outcome: CycleOutcome,
        detail: impl Into<String>,
        at: DateTime<Utc>,
    ) -> W::Answer<()> {
        let detail = detail.into();
        self.write_durably("finishing a cycle", move |tx| {
            let changed = tx.execute(
                "UPDATE cycles SET state = 'finished', outcome = ?2, detail = ?3, finished_at = ?4
         WHERE id = ?1 AND state <> 'finished'",
                params![id, outcome, detail, At(at)],
            )?;
            let ended_so_already = tx.cycle(id)?.is_some_and(|cycle| cycle.outcome == Some(outcome));
            if changed == 1 || ended_so_already { Ok(()) } else { Err(not_open(tx, id)?) }
        })
    }
}

impl<R: Reads> Records<R> {
    /// The cycle that is running or waiting, if any: what a start goes on with.
    pub fn open_cycle(&self) -> R::Answer<Option<Cycle>> {
        self.read("looking for an open cycle", |connection| {
            rows::one(connection, "SELECT * FROM cycles WHERE state <> 'finished'", [], Cycle::from_row)
        })
    }

    /// One cycle.
    pub fn cycle(&self, id: CycleId) -> R::Answer<Option<Cycle>> {
        self.read("reading a cycle", move |connection| {
            rows::one(connection, "SELECT * FROM cycles WHERE id = ?1", [id], Cycle::from_row)
        })
    }

    /// Cycles, newest first.
    pub fn cycles(&self, page: Page) -> R::Answer<Vec<Cycle>> {
        self.read("listing cycles", move |connection| {
            rows::page(connection, "cycles", "id DESC", page, Cycle::from_row)
        })
    }
}
