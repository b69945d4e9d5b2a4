//! Before the ledger is open: does another daemon have the file, is it a database, is it whole, is it ours (all of it
//! without changing the file), and which migrations does it lack.
//!
//! A migration is never edited once released: a change is a new file, and `PRAGMA user_version` says how many were applied.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::error::LedgerError;
use super::records::{Reads, Records};

/// What every SQLite file begins with (sqlite.org/fileformat2.html, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The right to write: an advisory lock on a file beside the ledger, which holds
/// the process id. The kernel releases it when the process dies, however it dies.
#[derive(Debug)]
pub(super) struct OpenLock {
    _file: Flock<File>,
}

impl OpenLock {
    pub(super) fn take(path: &Path) -> Result<Self, LedgerError> {
        let lock_path = lock_path(path);
        let io =
            |source| LedgerError::Io { action: format!("locking the ledger with {}", lock_path.display()), source };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(LedgerError::Locked { path: path.to_owned(), holder: read_holder(&mut file) });
            }
            Err((_, errno)) => return Err(io(errno.into())),
        };
        write_holder(&mut file).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// Looks whether a process has the ledger at `path` open for writing.
///
/// # Errors
/// [`LedgerError::Locked`], with that process, where one has.
pub fn ensure_unused(path: &Path) -> Result<(), LedgerError> {
    if !lock_path(path).exists() {
        return Ok(());
    }
    OpenLock::take(path).map(drop)
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())?;
    file.flush()
}

/// Looks at an existing file before it is opened in earnest. A file that is not
/// there, or is empty, is a new ledger.
pub(super) fn check_before_open(path: &Path) -> Result<(), LedgerError> {
    check_opened_by(path, |path| Connection::open(path))
}

/// [`check_before_open`] with another way to open the file.
pub(super) fn check_opened_by(
    path: &Path,
    open: impl FnOnce(&Path) -> rusqlite::Result<Connection>,
) -> Result<(), LedgerError> {
    let io = |source| LedgerError::Io { action: format!("reading the ledger {}", path.display()), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let mut magic = Vec::with_capacity(MAGIC.len());
    Read::by_ref(&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
    if magic.is_empty() {
        return Ok(());
    }
    if magic != MAGIC {
        return Err(LedgerError::NotADatabase { path: path.to_owned() });
    }
    let inspected = open(path).and_then(|connection| inspect(&connection)).map_err(|error| damage(path, error))?;
    if let Some(detail) = inspected.damage {
        return Err(LedgerError::Damaged { path: path.to_owned(), detail });
    }
    let known = known_version();
    if inspected.version > known {
        return Err(LedgerError::NewerSchema { path: path.to_owned(), found: inspected.version, known });
    }
    Ok(())
}

struct Inspected {
    version: i64,
    damage: Option<String>,
}

fn inspect(connection: &Connection) -> rusqlite::Result<Inspected> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "query_only", true)?;
    // Closing the last connection would otherwise fold the log into a file that
    // may turn out to be damaged.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version = version_of(connection)?;
    let mut check = connection.prepare("PRAGMA quick_check(5)")?;
    let findings = check.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let damage = if findings == ["ok"] { None } else { Some(findings.join("; ").replace('\n', " ")) };
    Ok(Inspected { version, damage })
}

fn damage(path: &Path, error: rusqlite::Error) -> LedgerError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        _ => LedgerError::statement("checking the ledger's file", error),
    }
}

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
