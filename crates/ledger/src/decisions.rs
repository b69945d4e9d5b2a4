//! Why it is as it is: decisions with everything that was weighed (`delayd why`), who asked for what, and what changed, in
//! the order in which it was committed.
//!
//! The schema's triggers write the events. They are for watching: the last 10,000 are kept, and what they name is looked up
//! in the record itself.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Tx, Writes};
use super::refuse;
use super::rows::{self, At, Count, Page};
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, DecisionId};

/// One decision, complete enough to be made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Decision {
    /// Its identity.
    pub id: DecisionId,
    /// When.
    pub at: DateTime<Utc>,
    /// The cycle, where there was one.
    pub cycle: Option<CycleId>,
    /// What sort: `retrain`, `gate`, `approve`, `rollback`, …
    pub kind: String,
    /// What it was made from.
    pub inputs: Document,
    /// Every test, its threshold and its result.
    pub tests: Document,
    /// What else could have been decided, and why it was not.
    pub alternatives: Document,
    /// What was decided.
    pub outcome: String,
    /// Why, in words.
    pub reason: String,
}

/// A decision before it has an id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewDecision {
    /// When.
    pub at: DateTime<Utc>,
    /// The cycle, where there is one.
    pub cycle: Option<CycleId>,
    /// What sort.
    pub kind: String,
    /// What it was made from.
    pub inputs: Document,
    /// Every test, its threshold and its result.
    pub tests: Document,
    /// What else could have been decided.
    pub alternatives: Document,
    /// What was decided.
    pub outcome: String,
    /// Why, in words.
    pub reason: String,
}

impl Decision {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get::<_, At>("at")?.0,
            cycle: row.get("cycle")?,
            kind: row.get("kind")?,
            inputs: row.get("inputs")?,
            tests: row.get("tests")?,
            alternatives: row.get("alternatives")?,
            outcome: row.get("outcome")?,
            reason: row.get("reason")?,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Mints an id and notes the decision under it, together.
    pub fn decide(&self, decision: NewDecision) -> W::Answer<DecisionId> {
        self.write_durably("noting a decision", move |tx| {
            let id: DecisionId = tx.mint()?;
            tx.execute(
                "INSERT INTO decisions (id, at, cycle, kind, inputs, tests, alternatives, outcome, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    id,
                    At(decision.at),
                    decision.cycle,
                    decision.kind,
                    decision.inputs,
                    decision.tests,
                    decision.alternatives,
                    decision.outcome,
                    decision.reason
                ],
            )?;
            Ok(id)
        })
    }
}

impl<R: Reads> Records<R> {
    /// Everything that was weighed in a decision.
    pub fn why(&self, id: DecisionId) -> R::Answer<Option<Decision>> {
        self.read("reading a decision", move |connection| {
            rows::one(connection, "SELECT * FROM decisions WHERE id = ?1", [id], Decision::from_row)
        })
    }

    /// Decisions, newest first.
    pub fn decisions(&self, page: Page) -> R::Answer<Vec<Decision>> {
        self.read("listing decisions", move |c| rows::page(c, "decisions", "id DESC", page, Decision::from_row))
    }

    /// A cycle's decisions, in their order.
    pub fn decisions_of(&self, cycle: CycleId) -> R::Answer<Vec<Decision>> {
        let sql = "SELECT * FROM decisions WHERE cycle = ?1 ORDER BY id";
        self.read("reading a cycle's decisions", move |c| rows::all(c, sql, [cycle], Decision::from_row))
    }
}

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// Who: the user behind the command line or the HTTP token.
    pub actor: String,
    /// What: `pause`, `approve`, `rollback`, …
    pub action: String,
    /// To what: `cycle_7`, `model_v3`.
    pub subject: String,
    /// Why, in the person's words.
    pub detail: String,
}

/// A noted entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Its number.
    pub id: u64,
    /// What is noted.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// What came of it: `done` with a sentence perhaps, `refused: …` or `failed: …`; `asked` while that is open,
    /// empty where an older delayd did not note it.
    #[serde(default)]
    pub outcome: String,
}

impl AuditRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get::<_, Count>("id")?.0,
            entry: AuditEntry {
                at: row.get::<_, At>("at")?.0,
                actor: row.get("actor")?,
                action: row.get("action")?,
                subject: row.get("subject")?,
                detail: row.get("detail")?,
            },
            outcome: row.get("outcome")?,
        })
    }
}

impl Tx<'_> {
    /// Notes who did what, in the same transaction as the deed.
    pub fn record_audit(&self, entry: &AuditEntry) -> rusqlite::Result<()> {
        insert(self, entry, "done").map(drop)
    }
}

fn insert(tx: &Tx<'_>, entry: &AuditEntry, outcome: &str) -> rusqlite::Result<u64> {
    tx.query_row(
        "INSERT INTO audit (at, actor, action, subject, detail, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        params![At(entry.at), entry.actor, entry.action, entry.subject, entry.detail, outcome],
        |row| row.get::<_, Count>(0).map(|count| count.0),
    )
}

impl<W: Writes> Records<W> {
    /// Notes what somebody asks for before it is done; answers the entry's number, for [`Records::end_audit`].
    pub fn begin_audit(&self, entry: AuditEntry) -> W::Answer<u64> {
        self.write_durably("noting what an administrator asks for", move |tx| insert(tx, &entry, "asked"))
    }

    /// Notes what came of an entry, and what it was about.
    pub fn end_audit(&self, id: u64, subject: impl Into<String>, outcome: impl Into<String>) -> W::Answer<()> {
        let (subject, outcome) = (subject.into(), outcome.into());
        self.write_durably("noting what came of a command", move |tx| {
            let changed = tx.execute(
                "UPDATE audit SET subject = ?2, outcome = ?3 WHERE id = ?1",
                params![Count(id), subject, outcome],
            )?;
            if changed == 1 { Ok(()) } else { Err(refuse(ErrorKind::NotFound, format!("the audit has no entry {id}"))) }
        })
    }
}

impl<R: Reads> Records<R> {
    /// Who did what, newest first.
    pub fn audit(&self, page: Page) -> R::Answer<Vec<AuditRecord>> {
        self.read("reading the audit", move |c| rows::page(c, "audit", "id DESC", page, AuditRecord::from_row))
    }
}

/// A change of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Its number: ascending, never used again.
    pub id: u64,
    /// The changed record's own time.
    pub at: DateTime<Utc>,
    /// What changed: `cycle`, `step`, `run`, `model`, `alias`, `image`, `deployment`, `verification`, `drift`, `metrics`,
    /// `decision`, `alert`, `silence`, `audit`.
    pub kind: String,
    /// Which one: `cycle_3`, `cycle_3/train`, `live`.
    pub subject: String,
    /// What it is now: a state, an outcome, or the model that an alias names.
    pub state: String,
}

impl Event {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get::<_, Count>("id")?.0,
            at: row.get::<_, At>("at")?.0,
            kind: row.get("kind")?,
            subject: row.get("subject")?,
            state: row.get("state")?,
        })
    }
}

impl<R: Reads> Records<R> {
    /// At most `limit` events after the one with this number, oldest first.
    pub fn events_after(&self, id: u64, limit: u64) -> R::Answer<Vec<Event>> {
        self.read("reading events", move |connection| {
            let mut query = connection.prepare_cached("SELECT * FROM events WHERE id > ?1 ORDER BY id LIMIT ?2")?;
            query.query_map(params![Count(id), Count(limit)], Event::from_row)?.collect()
        })
    }

    /// The number of the newest event; 0 while there is none.
    pub fn last_event(&self) -> R::Answer<u64> {
        self.read("reading the newest event", |connection| {
            connection
                .query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get::<_, Count>(0))
                .map(|count| count.0)
        })
    }
}
