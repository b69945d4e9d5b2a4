//! What changed, in the order in which it was committed: the event stream's source.
//!
//! The schema's triggers write it. Events are for watching: the last 10,000 are kept,
//! and what they name is looked up in the record itself.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::records::{Reads, Records};

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
