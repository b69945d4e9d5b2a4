//! The schema's versions. A migration is never edited once released: a change is
//! a new file, and `PRAGMA user_version` says how many were applied.

use rusqlite::{Connection, TransactionBehavior};

use super::error::LedgerError;
use super::records::{Reads, Records};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/001.sql"),
    include_str!("migrations/002.sql"),
    include_str!("migrations/003.sql"),
    include_str!("migrations/004.sql"),
    include_str!("migrations/005.sql"),
    include_str!("migrations/006.sql"),
    include_str!("migrations/007.sql"),
    include_str!("migrations/008.sql"),
    include_str!("migrations/009.sql"),
    include_str!("migrations/010.sql"),
];

/// The schema version that this program writes.
pub(super) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The schema version of a database.
pub(super) fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies what is missing, each migration in a transaction of its own, so that
/// a crash in between leaves a whole version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), LedgerError> {
    const WHAT: &str = "migrating the schema";
    let failed = |source| LedgerError::statement(WHAT, source);
    let applied = usize::try_from(version_of(connection).map_err(failed)?).unwrap_or(0);
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(applied) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

impl<R: Reads> Records<R> {
    /// Whether an earlier delayd wrote this ledger, so that records may lack what this one
    /// reads. The daemon migrates when it starts; whoever only reads changes nothing.
    pub fn lacks_migrations(&self) -> R::Answer<bool> {
        self.read("reading the schema's version", |snapshot| Ok(version_of(snapshot)? < known_version()))
    }
}
