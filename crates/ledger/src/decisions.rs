//! Decisions with everything that was weighed: what `delayd why` shows.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::{At, Json};
use super::query::{self, Page};
use super::{Ledger, LedgerError};
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
    pub inputs: Value,
    /// Every test, its threshold and its result.
    pub tests: Value,
    /// What else could have been decided, and why it was not.
    pub alternatives: Value,
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
    pub inputs: Value,
    /// Every test, its threshold and its result.
    pub tests: Value,
    /// What else could have been decided.
    pub alternatives: Value,
    /// What was decided.
    pub outcome: String,
    /// Why, in words.
    pub reason: String,
}

impl NewDecision {
    /// The decision under its id.
    #[must_use]
    pub fn with_id(self, id: DecisionId) -> Decision {
        Decision {
            id,
            at: self.at,
            cycle: self.cycle,
            kind: self.kind,
            inputs: self.inputs,
            tests: self.tests,
            alternatives: self.alternatives,
            outcome: self.outcome,
            reason: self.reason,
        }
    }
}

impl Decision {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get::<_, At>("at")?.0,
            cycle: row.get("cycle")?,
            kind: row.get("kind")?,
            inputs: row.get::<_, Json<_>>("inputs")?.0,
            tests: row.get::<_, Json<_>>("tests")?.0,
            alternatives: row.get::<_, Json<_>>("alternatives")?.0,
            outcome: row.get("outcome")?,
            reason: row.get("reason")?,
        })
    }
}

/// Notes a decision; the same id again changes nothing.
///
/// # Errors
/// Its cycle is unknown, or SQLite failed.
pub fn insert(tx: &Transaction<'_>, decision: &Decision) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO decisions (id, at, cycle, kind, inputs, tests, alternatives, outcome, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        params![
            decision.id,
            At(decision.at),
            decision.cycle,
            decision.kind,
            Json(&decision.inputs),
            Json(&decision.tests),
            Json(&decision.alternatives),
            decision.outcome,
            decision.reason
        ],
    )?;
    Ok(())
}

fn get(connection: &Connection, id: DecisionId) -> rusqlite::Result<Option<Decision>> {
    query::one(connection, "SELECT * FROM decisions WHERE id = ?1", [id], Decision::from_row)
}

impl Ledger {
    /// Notes a decision under an id minted before; the same id again changes nothing.
    ///
    /// # Errors
    /// Its cycle is unknown, or SQLite failed.
    pub async fn insert_decision(&self, decision: Decision) -> Result<(), LedgerError> {
        self.transact_durably("noting a decision", move |tx| insert(tx, &decision)).await
    }

    /// Mints an id and notes the decision under it, together. Not for a step that
    /// may be repeated: that one mints first.
    ///
    /// # Errors
    /// Its cycle is unknown, or SQLite failed.
    pub async fn decide(&self, decision: NewDecision) -> Result<DecisionId, LedgerError> {
        self.transact_durably("noting a decision", move |tx| {
            let decision = decision.with_id(query::mint(tx)?);
            insert(tx, &decision).map(|()| decision.id)
        })
        .await
    }

    /// Everything that was weighed in a decision.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn why(&self, id: DecisionId) -> Result<Option<Decision>, LedgerError> {
        self.read("reading a decision", move |connection| get(connection, id)).await
    }

    /// Decisions, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn decisions(&self, page: Page) -> Result<Vec<Decision>, LedgerError> {
        self.read("listing decisions", move |c| query::page(c, "decisions", "id DESC", page, Decision::from_row)).await
    }

    /// A cycle's decisions, in their order.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn decisions_of(&self, cycle: CycleId) -> Result<Vec<Decision>, LedgerError> {
        let sql = "SELECT * FROM decisions WHERE cycle = ?1 ORDER BY id";
        self.read("reading a cycle's decisions", move |c| query::all(c, sql, [cycle], Decision::from_row)).await
    }
}
