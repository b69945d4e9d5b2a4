//! Copies of the ledger: a backup of a running one, and what can still be read
//! of a damaged one.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::error::LedgerError;
use super::opening::migrate;
use delayd_core::own_folder;

/// The copy's name while it is being written, in a folder of its own.
const PARTIAL: &str = "ledger.sqlite";

pub(super) fn backup(connection: &Connection, target: &Path) -> Result<(), LedgerError> {
    refuse_existing(target, "writing a backup")?;
    let io = |source| LedgerError::Io { action: format!("writing the backup {}", target.display()), source };
    let folder = folder_beside(target).map_err(io)?;
    let partial = folder.path().join(PARTIAL);
    write_copy(connection, &partial, &io)?;
    std::fs::rename(&partial, target).map_err(io)
}

/// A folder of our own beside `target`, gone when it is dropped: nobody else may read or exchange what is half-written,
/// nor put a link or a journal where SQLite would look for one.
fn folder_beside(target: &Path) -> std::io::Result<TempDir> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    own_folder::temporary(parent, &format!(".{name}.partial-"))
}

/// A compact copy, on the disk when this returns.
fn write_copy(
    connection: &Connection,
    partial: &Path,
    io: &impl Fn(std::io::Error) -> LedgerError,
) -> Result<(), LedgerError> {
    let name = partial.to_string_lossy().into_owned();
    let failed = |e| LedgerError::statement("writing a backup", e);
    // `query_only` would refuse the copy too, although it changes nothing here.
    let guarded: bool = connection.query_row("PRAGMA query_only", [], |row| row.get(0)).map_err(failed)?;
    connection.pragma_update(None, "query_only", false).map_err(failed)?;
    let copied = connection.execute("VACUUM INTO ?1", [name]).map_err(failed);
    connection.pragma_update(None, "query_only", guarded).map_err(failed)?;
    copied?;
    std::fs::File::open(partial).and_then(|file| file.sync_all()).map_err(io)
}

/// What [`recover_copy`] saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// Every table, with the rows that were copied.
    pub tables: Vec<RecoveredTable>,
}

/// One table of a damaged ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredTable {
    /// Its name.
    pub name: String,
    /// How many rows were copied.
    pub rows: u64,
    /// What stopped the copying, where something did: rows after it may be lost.
    pub damage: Option<String>,
}

impl RecoveryReport {
    /// Whether every row of every table could be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tables.iter().all(|table| table.damage.is_none())
    }
}

/// Copies what can still be read of the damaged ledger at `damaged` into a new
/// one at `target`. Each table is read from its beginning and, where that breaks
/// off, from its end. The damaged file is left as it is.
///
/// # Errors
/// `target` exists or cannot be written, or not even the list of tables can be read.
pub fn recover_copy(damaged: &Path, target: &Path) -> Result<RecoveryReport, LedgerError> {
    const WHAT: &str = "recovering a damaged ledger";
    refuse_existing(target, WHAT)?;
    let failed = |e| LedgerError::statement(WHAT, e);
    let source = Connection::open_with_flags(damaged, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let io = |source| LedgerError::Io { action: format!("{WHAT} to {}", target.display()), source };
    let folder = folder_beside(target).map_err(io)?;
    let partial = folder.path().join(PARTIAL);
    let mut copy = Connection::open(&partial).map_err(failed)?;
    copy.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    migrate(&mut copy)?;
    let tables = table_names(&copy).map_err(failed)?;
    let mut report = RecoveryReport { tables: Vec::with_capacity(tables.len()) };
    for name in tables {
        let transaction = copy.transaction().map_err(failed)?;
        let table = recover_table(&source, &transaction, name).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        report.tables.push(table);
    }
    copy.close().map_err(|(_, error)| failed(error))?;
    std::fs::File::open(&partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&partial, target))
        .map_err(io)?;
    Ok(report)
}

fn table_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn recover_table(source: &Connection, copy: &Connection, name: String) -> rusqlite::Result<RecoveredTable> {
    let key = key_columns(copy, &name)?;
    let mut damage = None;
    for direction in ["ASC", "DESC"] {
        let order = key.iter().map(|column| format!("\"{column}\" {direction}")).collect::<Vec<_>>().join(", ");
        let broke_off = copy_rows(source, copy, &name, &order)?;
        damage = damage.or(broke_off.clone());
        if broke_off.is_none() {
            break;
        }
    }
    let rows: i64 = copy.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))?;
    Ok(RecoveredTable { name, rows: rows.unsigned_abs(), damage })
}

fn key_columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?
        .query_map([table], |row| row.get(0))?
        .collect()
}

/// Copies rows in `order` until the source cannot be read any further, and then
/// answers why. Only a failure to write the copy is an error.
fn copy_rows(source: &Connection, copy: &Connection, table: &str, order: &str) -> rusqlite::Result<Option<String>> {
    let mut select = match source.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY {order}")) {
        Ok(select) => select,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let columns = select.column_names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
    let places = vec!["?"; columns.len()].join(", ");
    let insert = format!("INSERT OR IGNORE INTO \"{table}\" ({}) VALUES ({places})", columns.join(", "));
    let mut insert = copy.prepare(&insert)?;
    let mut rows = match select.query([]) {
        Ok(rows) => rows,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let mut unreadable = None;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(unreadable),
            Err(error) => return Ok(Some(error.to_string())),
        };
        let values: rusqlite::Result<Vec<Value>> = (0..columns.len()).map(|index| row.get(index)).collect();
        match values {
            Ok(values) => {
                insert.execute(rusqlite::params_from_iter(values))?;
            }
            Err(error) => {
                unreadable.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

fn refuse_existing(target: &Path, what: &str) -> Result<(), LedgerError> {
    if target.exists() {
        let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the file exists; name a new one");
        return Err(LedgerError::Io { action: format!("{what} to {}", target.display()), source });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_fails_leaves_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE flights (text TEXT);
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
                 INSERT INTO flights SELECT hex(zeroblob(500)) FROM n;",
            )
            .unwrap();
        drop(connection);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 40_960].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        backup(&connection, &folder.path().join("copy.sqlite")).unwrap_err();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["ledger.sqlite"]);
    }

    #[test]
    fn what_others_put_beside_a_copy_or_in_its_place_is_neither_followed_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let mut ledger = Connection::open(file("ledger.sqlite")).unwrap();
        migrate(&mut ledger).unwrap();
        for target in ["backup", "recovered"] {
            std::fs::create_dir(file(&format!("{target}.partial"))).unwrap();
            std::os::unix::fs::symlink(file("elsewhere"), file(target)).unwrap();
        }
        backup(&ledger, &file("backup")).unwrap();
        recover_copy(&file("ledger.sqlite"), &file("recovered")).unwrap();
        assert!(!file("elsewhere").exists(), "a link was followed");
        for target in ["backup", "recovered"] {
            assert!(file(target).symlink_metadata().unwrap().is_file());
        }
        let hidden = std::fs::read_dir(folder.path()).unwrap().flatten();
        let hidden: Vec<_> =
            hidden.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] == b'.').collect();
        assert_eq!(hidden, Vec::<std::ffi::OsString>::new());
    }
}
