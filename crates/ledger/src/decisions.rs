//! Decisions with everything that was weighed: what `delayd why` shows.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::At;
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::document::Document;
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
            inputs: row.get("inputs")?,
            tests: row.get("tests")?,
            alternatives: row.get("alternatives")?,
            outcome: row.get("outcome")?,
            reason: row.get("reason")?,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a decision under an id minted before; the same id again changes nothing.
    pub fn insert_decision(&self, decision: Decision) -> W::Answer<()> {
        self.write_durably("noting a decision", move |tx| {
            tx.execute(
                "INSERT INTO decisions (id, at, cycle, kind, inputs, tests, alternatives, outcome, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
                params![
                    decision.id,
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
            Ok(())
        })
    }

    /// Mints an id and notes the decision under it, together. Not for a step that
    /// may be repeated: that one mints first.
    pub fn decide(&self, decision: NewDecision) -> W::Answer<DecisionId> {
        self.write_durably("noting a decision", move |tx| {
            let decision = decision.with_id(tx.mint()?);
            let id = decision.id;
            tx.insert_decision(decision).map(|()| id)
        })
    }
}

impl<R: Reads> Records<R> {
    /// Everything that was weighed in a decision.
    pub fn why(&self, id: DecisionId) -> R::Answer<Option<Decision>> {
        self.read("reading a decision", move |connection| {
            query::one(connection, "SELECT * FROM decisions WHERE id = ?1", [id], Decision::from_row)
        })
    }

    /// Decisions, newest first.
    pub fn decisions(&self, page: Page) -> R::Answer<Vec<Decision>> {
        self.read("listing decisions", move |c| query::page(c, "decisions", "id DESC", page, Decision::from_row))
    }

    /// A cycle's decisions, in their order.
    pub fn decisions_of(&self, cycle: CycleId) -> R::Answer<Vec<Decision>> {
        let sql = "SELECT * FROM decisions WHERE cycle = ?1 ORDER BY id";
        self.read("reading a cycle's decisions", move |c| query::all(c, sql, [cycle], Decision::from_row))
    }
}
