//! The handle on the ledger and the threads behind it.
//!
//! One thread owns the writing connection, so that writes queue in one place and
//! never meet a lock of our own; a second one owns a connection that can only
//! read, so that a long report does not hold up a step's journal entry. The
//! handle is cheap to clone; when the last clone goes, both threads finish what
//! is queued, close their connections and the lock is released.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::error::LedgerError;
use super::guard::{OpenLock, check_before_open};
use super::migrations::migrate;
use super::usage::{LedgerUsage, Meter};

/// How long a connection waits for another process's lock (a backup tool, `sqlite3` on the command line).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle on the ledger.
#[derive(Clone)]
pub struct Ledger {
    /// `None` for a handle that can only read.
    writer: Option<Arc<Worker>>,
    /// `None` in memory, where only the writer's connection sees the data.
    reader: Option<Arc<Worker>>,
    path: Option<Arc<PathBuf>>,
    /// Counts commits, for those who watch.
    pub(super) committed: Arc<watch::Sender<u64>>,
    reads: Meter,
    writes: Meter,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("path", &self.path).field("read_only", &self.writer.is_none()).finish()
    }
}

impl Ledger {
    /// Opens the daemon's ledger, and makes one where there is none.
    ///
    /// # Errors
    /// Another daemon has it open, the file is damaged, is no database, or was
    /// written by a newer delayd. In all of these the file is left as it is.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let lock = OpenLock::take(path)?;
        check_before_open(path)?;
        let mut connection = connect(path, OpenFlags::default())?;
        migrate(&mut connection)?;
        let reader = connect(path, OpenFlags::default()).and_then(query_only)?;
        Ok(Self {
            writer: Some(Worker::start("ledger-writer", connection, Some(lock))?),
            reader: Some(Worker::start("ledger-reader", reader, None)?),
            path: Some(Arc::new(path.to_owned())),
            committed: Arc::default(),
            reads: Meter::default(),
            writes: Meter::default(),
        })
    }

    /// Opens a ledger to read only, also while a daemon has it open: for the
    /// command line. Every write through it is refused.
    ///
    /// # Errors
    /// As for [`Ledger::open`], except that a running daemon is no obstacle.
    pub fn open_read_only(path: &Path) -> Result<Self, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing { path: path.to_owned() });
        }
        check_before_open(path)?;
        // Not SQLITE_OPEN_READ_ONLY: reading a WAL file needs its shared-memory
        // file, which a read-only open cannot make when no daemon runs.
        let flags = OpenFlags::default() & !OpenFlags::SQLITE_OPEN_CREATE;
        let reader = connect(path, flags).and_then(query_only)?;
        Ok(Self {
            writer: None,
            reader: Some(Worker::start("ledger-reader", reader, None)?),
            path: Some(Arc::new(path.to_owned())),
            committed: Arc::default(),
            reads: Meter::default(),
            writes: Meter::default(),
        })
    }

    /// A ledger in memory, gone with its last handle: for tests and dry runs.
    ///
    /// # Errors
    /// SQLite could not be started.
    pub fn in_memory() -> Result<Self, LedgerError> {
        let mut connection =
            Connection::open_in_memory().map_err(|e| LedgerError::statement("opening a ledger in memory", e))?;
        configure(&connection).map_err(|e| LedgerError::statement("configuring the connection", e))?;
        migrate(&mut connection)?;
        let writer = Worker::start("ledger-writer", connection, None)?;
        Ok(Self {
            writer: Some(writer),
            reader: None,
            path: None,
            committed: Arc::default(),
            reads: Meter::default(),
            writes: Meter::default(),
        })
    }

    /// The file, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref().map(PathBuf::as_path)
    }

    /// What was counted at this handle and its clones since it was opened.
    #[must_use]
    pub fn usage(&self) -> LedgerUsage {
        LedgerUsage { reads: self.reads.counts(), writes: self.writes.counts() }
    }

    /// Runs `f` in one writing transaction on the ledger's thread: all of it is
    /// stored, or nothing. `what` names it in errors. `f` should be short; it
    /// refuses with [`super::refuse`].
    ///
    /// # Errors
    /// What `f` answers, or SQLite's own failure.
    pub async fn transact<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let begun = Instant::now();
        let answer = self.writer(what)?.call(what, move |connection| in_transaction(connection, what, f)).await;
        self.tell_commit(&answer);
        self.writes.count(begun, answer)
    }

    /// [`Ledger::transact`] that answers only when what it stored is on the disk: for decisions, approvals, the audit and
    /// which model is live. A commit of those that a power cut took away would be forgotten; a step's would be repeated.
    ///
    /// # Errors
    /// As for [`Ledger::transact`].
    pub async fn transact_durably<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let begun = Instant::now();
        let answer = self.writer(what)?.call(what, move |connection| durably(connection, what, f)).await;
        self.tell_commit(&answer);
        self.writes.count(begun, answer)
    }

    /// [`Ledger::transact`] for threads that may block: training, the command line, tests.
    ///
    /// # Errors
    /// As for [`Ledger::transact`].
    pub fn transact_blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let begun = Instant::now();
        let answer = self.writer(what)?.call_blocking(what, move |connection| in_transaction(connection, what, f));
        self.tell_commit(&answer);
        self.writes.count(begun, answer)
    }

    fn tell_commit<T>(&self, answer: &Result<T, LedgerError>) {
        if answer.is_ok() {
            self.committed.send_modify(|count| *count += 1);
        }
    }

    /// Runs a query beside the writer. It sees everything committed before it began.
    ///
    /// # Errors
    /// What `f` answers, or SQLite's own failure; a write inside `f` fails.
    pub async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let begun = Instant::now();
        let answer = self.reader(what)?.call(what, move |connection| in_snapshot(connection, what, f)).await;
        self.reads.count(begun, answer)
    }

    /// [`Ledger::read`] for threads that may block.
    ///
    /// # Errors
    /// As for [`Ledger::read`].
    pub fn read_blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let begun = Instant::now();
        let answer = self.reader(what)?.call_blocking(what, move |connection| in_snapshot(connection, what, f));
        self.reads.count(begun, answer)
    }

    fn writer(&self, what: &'static str) -> Result<&Worker, LedgerError> {
        self.writer.as_deref().ok_or(LedgerError::ReadOnly { what })
    }

    pub(super) fn reader(&self, what: &'static str) -> Result<&Worker, LedgerError> {
        self.reader.as_deref().map_or_else(|| self.writer(what), Ok)
    }
}

/// Runs `f` in a writing transaction; dropping the transaction, also by a panic, rolls it back.
fn in_transaction<T>(
    connection: &mut Connection,
    what: &'static str,
    f: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
) -> Result<T, LedgerError> {
    let failed = |e| LedgerError::statement(what, e);
    // Immediate: the lock is taken at the start, not half way through.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let answer = f(&transaction).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(answer)
}

/// [`in_transaction`], with the log of the commit synced before it answers. SQLite takes the setting between
/// transactions only.
fn durably<T>(
    connection: &mut Connection,
    what: &'static str,
    f: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
) -> Result<T, LedgerError> {
    let failed = |e| LedgerError::statement(what, e);
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let answer = in_transaction(connection, what, f);
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    answer
}

/// Runs `f` in a reading transaction, so that several queries see one state.
fn in_snapshot<T>(
    connection: &mut Connection,
    what: &'static str,
    f: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
) -> Result<T, LedgerError> {
    let failed = |e| LedgerError::statement(what, e);
    let transaction = connection.transaction().map_err(failed)?;
    f(&transaction).map_err(failed)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, LedgerError> {
    let connection =
        Connection::open_with_flags(path, flags).map_err(|e| LedgerError::statement("opening the ledger's file", e))?;
    configure(&connection).map_err(|e| LedgerError::statement("configuring the connection", e))?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Answers the mode that is now in force, hence a query. NORMAL under WAL can
    // lose the last commits at a power cut, never the file's consistency; the
    // saga repeats such steps, and what nobody would repeat is stored by `transact_durably`.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn query_only(connection: Connection) -> Result<Connection, LedgerError> {
    connection
        .pragma_update(None, "query_only", true)
        .map_err(|e| LedgerError::statement("making the connection read-only", e))?;
    Ok(connection)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread that owns a connection and works off what it is sent, in order.
pub(super) struct Worker {
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection, lock: Option<OpenLock>) -> Result<Arc<Self>, LedgerError> {
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for job in queue {
                    job(&mut connection);
                }
                // The connection must be closed before another daemon may open the file.
                drop(connection);
                drop(lock);
            })
            .map_err(|source| LedgerError::Io { action: format!("starting the thread {name}"), source })?;
        Ok(Arc::new(Self { jobs: Some(jobs), thread: Some(thread) }))
    }

    fn submit(&self, what: &'static str, job: Job) -> Result<(), LedgerError> {
        let jobs = self.jobs.as_ref().ok_or(LedgerError::Closed { what })?;
        jobs.send(job).map_err(|_| LedgerError::Closed { what })
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&mut Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        // A caller that went away no longer wants the answer; the work is done all the same.
        self.submit(what, Box::new(move |connection| drop(reply.send(caught(what, connection, f)))))?;
        answer.await.unwrap_or(Err(LedgerError::Closed { what }))
    }

    pub(super) fn call_blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&mut Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = channel();
        self.submit(what, Box::new(move |connection| drop(reply.send(caught(what, connection, f)))))?;
        answer.recv().unwrap_or(Err(LedgerError::Closed { what }))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        let Some(thread) = self.thread.take() else { return };
        // A job may hold the last handle: the thread cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            // Its jobs' panics are caught; there is nothing left to report here.
            drop(thread.join());
        }
    }
}

/// A panic in one caller's closure must not take the ledger away from all others.
fn caught<T>(
    what: &'static str,
    connection: &mut Connection,
    f: impl FnOnce(&mut Connection) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    catch_unwind(AssertUnwindSafe(|| f(connection))).unwrap_or_else(|payload| {
        let message = delayd_core::failure::panic_message(payload.as_ref());
        Err(LedgerError::Panicked { what, message })
    })
}
