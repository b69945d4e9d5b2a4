//! Puts a backup in the ledger's place.
//!
//! Nothing is lost by it: the ledger that was there is set aside beside the new one, and
//! nothing is touched before the backup was found whole and no daemon has the ledger.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::backup::backup;
use super::connection::Ledger;
use super::error::{LedgerError, Refusal};
use super::opening::{OpenLock, check_opened_by, version_of};
use delayd_core::error::ErrorKind;
use delayd_core::own_folder;

const WHAT: &str = "restoring a backup";

/// What a backup is found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedBackup {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The schema's version.
    pub schema_version: i64,
    /// Its newest cycle, `cycle_7`.
    pub newest_cycle: Option<String>,
    /// Its live model, `model_v3`.
    pub live_model: Option<String>,
}

/// What restoring did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// What is in the ledger now.
    pub backup: CheckedBackup,
    /// The ledger.
    pub ledger: PathBuf,
    /// Where the one that was there is now.
    pub set_aside: Option<PathBuf>,
}

/// Looks at a backup from its first page to its last, and at every reference in it,
/// without changing it.
///
/// # Errors
/// It is missing, is no ledger, is damaged, or was written by a newer delayd.
pub fn check_backup(path: &Path) -> Result<CheckedBackup, LedgerError> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => metadata.len(),
        Ok(_) => return Err(LedgerError::NotADatabase { path: path.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(LedgerError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(io("reading", path)(source)),
    };
    refuse_strange_logs(path)?;
    check_opened_by(path, connect)?;
    let connection = open(path)?;
    let schema_version = version_of(&connection).map_err(failed)?;
    if schema_version < 1 {
        return Err(refused(format!("{} is an SQLite database, but no ledger of delayd", path.display())));
    }
    let damage = damage_of(&connection).map_err(failed)?;
    if !damage.is_empty() {
        return Err(LedgerError::Damaged { path: path.to_owned(), detail: damage.join("; ") });
    }
    Ok(CheckedBackup {
        path: path.to_owned(),
        bytes,
        schema_version,
        newest_cycle: number(&connection, "SELECT max(id) FROM cycles")?.map(|id| format!("cycle_{id}")),
        live_model: number(&connection, "SELECT model FROM aliases WHERE alias = 'live'")?
            .map(|version| format!("model_v{version}")),
    })
}

/// Everything that is wrong with it, at most twenty things.
fn damage_of(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut check = connection.prepare("PRAGMA integrity_check(10)")?;
    let pages = check.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut check = connection.prepare("PRAGMA foreign_key_check")?;
    let references = check.query_map([], |row| {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        Ok(format!("a row of {table} names one of {parent} that is not there"))
    })?;
    let references = references.take(10).collect::<Result<Vec<_>, _>>()?;
    Ok(pages.into_iter().filter(|finding| finding != "ok").chain(references).collect())
}

fn number(connection: &Connection, query: &str) -> Result<Option<i64>, LedgerError> {
    let found = connection.query_row(query, [], |row| row.get::<_, Option<i64>>(0)).optional();
    found.map(Option::flatten).map_err(failed)
}

impl Ledger {
    /// Puts the backup in the place of the ledger at `path`. The ledger that is there,
    /// damaged or not, is kept beside it, its name ending in `.replaced-<stamp>`. Files
    /// that root makes are given to the owner of the state directory.
    ///
    /// # Errors
    /// As for [`check_backup`]; a daemon has the ledger; a file cannot be written.
    pub fn restore(path: &Path, from: &Path, stamp: &str) -> Result<Restored, LedgerError> {
        let checked = check_backup(from)?;
        let same = fs::canonicalize(from).ok() == fs::canonicalize(path).ok().or_else(|| Some(path.to_owned()));
        if same {
            return Err(refused(format!("{} is the ledger itself", from.display())));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(io("making the folder", folder))?;
        let _lock = OpenLock::take(path)?;
        let restoring = with_suffix(path, ".restoring");
        remove(&restoring)?;
        // Not a copy of the file: this takes in a write-ahead log beside it too.
        backup(&open(from)?, &restoring)?;
        let set_aside = if path.exists() { Some(set_aside(path, stamp)?) } else { None };
        // A log of the replaced ledger would be taken for the new one's.
        remove(&with_suffix(path, "-wal"))?;
        remove(&with_suffix(path, "-shm"))?;
        fs::rename(&restoring, path).map_err(io("renaming the restored copy to", path))?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("writing", folder))?;
        for file in [path.to_owned(), with_suffix(path, ".lock")] {
            give_to_owner_of(folder, &file)?;
        }
        Ok(Restored { backup: checked, ledger: path.to_owned(), set_aside })
    }
}

/// Keeps the present ledger under another name, while it also keeps its own until the new
/// one takes it.
fn set_aside(path: &Path, stamp: &str) -> Result<PathBuf, LedgerError> {
    // Folded in, so that its file alone is all of it; a damaged one is kept as it is.
    let folded = Connection::open(path)
        .and_then(|connection| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)));
    if let Err(error) = folded {
        tracing::warn!(%error, "the log of the replaced ledger could not be folded into it; both are kept");
    }
    let aside = with_suffix(path, &format!(".replaced-{stamp}"));
    fs::hard_link(path, &aside).map_err(io("keeping the present ledger as", &aside))?;
    let log = with_suffix(path, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let aside_log = with_suffix(&aside, "-wal");
        fs::hard_link(&log, &aside_log).map_err(io("keeping the present ledger's log as", &aside_log))?;
    }
    Ok(aside)
}

/// Root restores for a daemon that is not root.
fn give_to_owner_of(folder: &Path, file: &Path) -> Result<(), LedgerError> {
    let owner = fs::metadata(folder).map_err(io("reading", folder))?;
    let now = fs::metadata(file).map_err(io("reading", file))?;
    if !nix::unistd::geteuid().is_root() || (now.uid(), now.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).map_err(io("giving its owner", file))
}

fn open(path: &Path) -> Result<Connection, LedgerError> {
    let connection = connect(path).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(connection)
}

/// SQLite plays a journal or a log that lies beside a file into it, whoever wrote it. Where anybody may write, a file
/// that has none is read as it is, whatever comes to lie there.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let path = real(path);
    if !lies_in_shared(&path) {
        return Connection::open(path);
    }
    // The one way to say so is a URI (sqlite.org/uri.html, "immutable").
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(*byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
}

/// A log that belongs to a backup is a part of it; one that anybody may have put there cannot be told from that.
fn refuse_strange_logs(path: &Path) -> Result<(), LedgerError> {
    let path = real(path);
    let logs = ["-wal", "-journal"].map(|suffix| with_suffix(&path, suffix));
    match logs.iter().find(|log| fs::symlink_metadata(log).is_ok_and(|found| found.len() > 0)) {
        Some(log) if lies_in_shared(&path) => Err(refused(format!(
            "anybody may have put {} beside the backup; move the backup, with that file if it is yours, into a folder of \
             your own",
            log.display()
        ))),
        _ => Ok(()),
    }
}

/// SQLite, too, looks for logs beside what a symbolic link leads to.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn lies_in_shared(path: &Path) -> bool {
    path.parent().is_some_and(own_folder::is_shared)
}

fn remove(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("removing", path)(error)),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> LedgerError {
    let action = format!("{WHAT}: {doing} {}", path.display());
    move |source| LedgerError::Io { action, source }
}

fn failed(source: rusqlite::Error) -> LedgerError {
    LedgerError::statement(WHAT, source)
}

fn refused(message: String) -> LedgerError {
    LedgerError::Refused { what: WHAT, refusal: Refusal { kind: ErrorKind::Invalid, message } }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::opening::migrate;

    #[test]
    fn in_a_folder_of_all_a_backup_is_read_without_what_others_put_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, ours) = (folder.path().join("tmp 100%"), folder.path().join("ours"));
        for (folder, mode) in [(&shared, 0o1777), (&ours, 0o700)] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        let source = Connection::open(folder.path().join("source")).unwrap();
        source
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE flights (carrier TEXT);
                 PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO flights VALUES ('planted');",
            )
            .unwrap();
        for (folder, expected) in [(&shared, 0_i64), (&ours, 1)] {
            let backup = folder.join("backup");
            fs::copy(source.path().unwrap(), &backup).unwrap();
            fs::copy(format!("{}-wal", source.path().unwrap()), with_suffix(&backup, "-wal")).unwrap();
            let rows = number(&open(&backup).unwrap(), "SELECT count(*) FROM flights").unwrap();
            assert_eq!(rows, Some(expected), "{}", backup.display());
        }
        let told = check_backup(&shared.join("backup")).unwrap_err().to_string();
        assert!(told.contains("backup-wal") && told.contains("a folder of your own"), "{told}");
    }

    #[test]
    fn a_backup_in_a_folder_of_all_is_checked_and_restored() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, state) = (folder.path().join("tmp"), folder.path().join("state"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        let from = shared.join("backup");
        let mut ledger = Connection::open(folder.path().join("ledger")).unwrap();
        migrate(&mut ledger).unwrap();
        backup(&ledger, &from).unwrap();
        let restored = Ledger::restore(&state.join("ledger"), &from, "now").unwrap();
        assert_eq!(restored.backup.path, from);
        check_backup(&state.join("ledger")).unwrap();
    }
}
