//! The canonical parts of sources, as the data stage describes them: to the ledger each is a text.

use rusqlite::params;

use super::{Ledger, LedgerError, query};
use delayd_core::ids::Digest;

impl Ledger {
    /// Notes what was made of sources; what was noted of them before is replaced.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn save_parts(&self, parts: Vec<(Digest, String)>) -> Result<(), LedgerError> {
        self.transact("noting canonical parts", move |tx| {
            let sql = "INSERT INTO parts (source, body) VALUES (?1, ?2) ON CONFLICT (source) DO UPDATE SET body = ?2";
            let mut statement = tx.prepare_cached(sql)?;
            parts.iter().try_for_each(|(source, part)| statement.execute(params![source, part]).map(drop))
        })
        .await
    }

    /// What was made of each source.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn parts(&self) -> Result<Vec<(Digest, String)>, LedgerError> {
        self.read("reading canonical parts", |connection| {
            query::all(connection, "SELECT source, body FROM parts", [], |row| {
                Ok((row.get("source")?, row.get("body")?))
            })
        })
        .await
    }
}
