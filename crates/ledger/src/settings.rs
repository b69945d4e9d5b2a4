//! Small facts that outlive a restart: whether the loop is paused, watermarks.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::columns::{At, Json};
use super::{Ledger, LedgerError, query};

/// The value of a setting, or `None` where it was never set.
///
/// # Errors
/// It is of another type, or SQLite failed.
pub fn get<T: DeserializeOwned>(connection: &Connection, name: &str) -> rusqlite::Result<Option<T>> {
    query::one(connection, "SELECT value FROM settings WHERE name = ?1", [name], |row| {
        row.get::<_, Json<T>>(0).map(|json| json.0)
    })
}

/// Sets a setting.
///
/// # Errors
/// SQLite failed.
pub fn set<T: Serialize>(tx: &Transaction<'_>, name: &str, value: &T, at: DateTime<Utc>) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO settings (name, value, changed_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET value = ?2, changed_at = ?3",
        params![name, Json(value), At(at)],
    )?;
    Ok(())
}

impl Ledger {
    /// The value of a setting, or `None` where it was never set.
    ///
    /// # Errors
    /// It is of another type, or SQLite failed.
    pub async fn setting<T: DeserializeOwned + Send + 'static>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, LedgerError> {
        self.read("reading a setting", move |connection| get(connection, name)).await
    }

    /// Sets a setting.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn set_setting<T: Serialize + Send + 'static>(
        &self,
        name: &'static str,
        value: T,
        at: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        self.transact("changing a setting", move |tx| set(tx, name, &value, at)).await
    }
}
