//! Small facts that outlive a restart: whether the loop is paused, watermarks.

use chrono::{DateTime, Utc};
use rusqlite::params;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::columns::{At, Json};
use super::query;
use super::records::{Reads, Records, Writes};

impl<W: Writes> Records<W> {
    /// Sets a setting.
    pub fn set_setting<T: Serialize + Send + 'static>(
        &self,
        name: &'static str,
        value: T,
        at: DateTime<Utc>,
    ) -> W::Answer<()> {
        self.write("changing a setting", move |tx| {
            tx.execute(
                "INSERT INTO settings (name, value, changed_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET value = ?2, changed_at = ?3",
                params![name, Json(value), At(at)],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// The value of a setting, or `None` where it was never set.
    pub fn setting<T: DeserializeOwned + Send + 'static>(&self, name: &'static str) -> R::Answer<Option<T>> {
        self.read("reading a setting", move |connection| {
            query::one(connection, "SELECT value FROM settings WHERE name = ?1", [name], |row| {
                row.get::<_, Json<T>>(0).map(|json| json.0)
            })
        })
    }
}
