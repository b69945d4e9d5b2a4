//! The handle on the ledger and the threads behind it.
//!
//! One thread owns the writing connection, so that writes queue in one place and
//! never meet a lock of our own; a second one owns a connection that can only
//! read, so that a long report does not hold up a step's journal entry. The
//! handle is cheap to clone; when the last clone goes, both threads finish what
//! is queued, close their connections and the lock is released.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::backup::backup;
use super::error::LedgerError;
use super::opening::{OpenLock, check_before_open, migrate};
use super::records::{InSnapshot, InTransaction, Reads, Records, Snapshot, Tx, Writes};

/// How long a connection waits for another process's lock (a backup tool, `sqlite3` on the command line).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle on the ledger. Its methods answer through futures.
pub type Ledger = Records<Threads>;

/// The threads behind a [`Ledger`].
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

/// The threads behind a ledger, for a caller that may block: see [`Ledger::blocking`].
#[derive(Debug, Clone)]
pub struct Blocking(Threads);

struct Shared {
    /// `None` for a handle that can only read.
    writer: Option<Worker>,
    /// `None` in memory, where only the writer's connection sees the data.
    reader: Option<Worker>,
    path: Option<PathBuf>,
    /// Counts commits, for those who watch.
    committed: watch::Sender<u64>,
    reads: Meter,
    writes: Meter,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("path", &self.0.path).field("read_only", &self.0.writer.is_none()).finish()
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
        let writer = Worker::start("ledger-writer", connection, Some(lock))?;
        Ok(Self::of(Some(writer), Some(Worker::start("ledger-reader", reader, None)?), Some(path)))
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
        Ok(Self::of(None, Some(Worker::start("ledger-reader", reader, None)?), Some(path)))
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
        Ok(Self::of(Some(Worker::start("ledger-writer", connection, None)?), None, None))
    }

    fn of(writer: Option<Worker>, reader: Option<Worker>, path: Option<&Path>) -> Self {
        Records(Threads(Arc::new(Shared {
            writer,
            reader,
            path: path.map(Path::to_owned),
            committed: watch::Sender::default(),
            reads: Meter::default(),
            writes: Meter::default(),
        })))
    }

    /// The file, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.0.path.as_deref()
    }

    /// What was counted at this handle and its clones since it was opened.
    #[must_use]
    pub fn usage(&self) -> LedgerUsage {
        LedgerUsage { reads: self.0.0.reads.counts(), writes: self.0.0.writes.counts() }
    }

    /// Changes whenever something was committed through this handle or a clone of it.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.0.0.committed.subscribe()
    }

    /// The same methods for a thread that may block: a build's output, tests.
    #[must_use]
    pub fn blocking(&self) -> Records<Blocking> {
        Records(Blocking(self.0.clone()))
    }

    /// Writes a whole, compact copy of the ledger to `target` while it is in
    /// use. The copy appears under its name only when it is complete.
    ///
    /// # Errors
    /// `target` exists already, or cannot be written.
    pub async fn backup_to(&self, target: &Path) -> Result<(), LedgerError> {
        const WHAT: &str = "writing a backup";
        let target = target.to_owned();
        let (reply, answer) = oneshot::channel();
        let worker = self.0.0.worker(Access::Read, WHAT)?;
        worker.submit(WHAT, move |connection| backup(connection, &target), move |copied| drop(reply.send(copied)))?;
        answer.await.unwrap_or(Err(LedgerError::Closed { what: WHAT }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    WriteDurably,
}

/// How a method of a [`Ledger`] answers.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send>>;

impl Threads {
    fn run<T: Send + 'static>(
        &self,
        access: Access,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let shared = self.0.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let (reply, answer) = oneshot::channel();
            // A caller that went away no longer wants the answer; the work is done all the same.
            shared.submit(access, what, f, move |answer| drop(reply.send(answer)))?;
            shared.counted(access, begun, answer.await.unwrap_or(Err(LedgerError::Closed { what })))
        })
    }
}

impl Blocking {
    fn run<T: Send + 'static>(
        &self,
        access: Access,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let Self(Threads(shared)) = self;
        let begun = Instant::now();
        let (reply, answer) = channel();
        shared.submit(access, what, f, move |answer| drop(reply.send(answer)))?;
        shared.counted(access, begun, answer.recv().unwrap_or(Err(LedgerError::Closed { what })))
    }
}

macro_rules! run_on_threads {
    ($place:ident, $answer:ty) => {
        impl Reads for $place {
            type Answer<T: Send + 'static> = $answer;

            fn read<T: Send + 'static>(
                &self,
                what: &'static str,
                f: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
            ) -> $answer {
                self.run(Access::Read, what, move |connection| f(&Records(InSnapshot(connection))))
            }
        }

        impl Writes for $place {
            fn write<T: Send + 'static>(
                &self,
                what: &'static str,
                f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
            ) -> $answer {
                self.run(Access::Write, what, move |connection| f(&Records(InTransaction(connection))))
            }

            fn write_durably<T: Send + 'static>(
                &self,
                what: &'static str,
                f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
            ) -> $answer {
                self.run(Access::WriteDurably, what, move |connection| f(&Records(InTransaction(connection))))
            }
        }
    };
}

run_on_threads!(Threads, Answer<T>);
run_on_threads!(Blocking, Result<T, LedgerError>);

impl Shared {
    fn worker(&self, access: Access, what: &'static str) -> Result<&Worker, LedgerError> {
        let reader = self.reader.as_ref().filter(|_| access == Access::Read);
        reader.or(self.writer.as_ref()).ok_or(LedgerError::ReadOnly { what })
    }

    fn submit<T: Send + 'static>(
        &self,
        access: Access,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        reply: impl FnOnce(Result<T, LedgerError>) + Send + 'static,
    ) -> Result<(), LedgerError> {
        let transaction = move |connection: &mut Connection| {
            in_transaction(access, connection, f).map_err(|error| LedgerError::statement(what, error))
        };
        self.worker(access, what)?.submit(what, transaction, reply)
    }

    fn counted<T>(&self, access: Access, begun: Instant, answer: Result<T, LedgerError>) -> Result<T, LedgerError> {
        if access == Access::Read {
            return self.reads.count(begun, answer);
        }
        if answer.is_ok() {
            self.committed.send_modify(|count| *count += 1);
        }
        self.writes.count(begun, answer)
    }
}

/// Runs `f` in a transaction; dropping the transaction, also by a panic, rolls it back.
fn in_transaction<T>(
    access: Access,
    connection: &mut Connection,
    f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    if access == Access::Read {
        // Several queries see one state.
        let transaction = connection.transaction()?;
        return f(&transaction);
    }
    if access == Access::WriteDurably {
        // The log of the commit is synced before it answers. SQLite takes the setting between transactions only.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let answer = in_transaction(Access::Write, connection, f);
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        return answer;
    }
    // Immediate: the lock is taken at the start, not half way through.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let answer = f(&transaction)?;
    transaction.commit()?;
    Ok(answer)
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
    // saga repeats such steps, and what nobody would repeat is stored by `write_durably`.
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
struct Worker {
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection, lock: Option<OpenLock>) -> Result<Self, LedgerError> {
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
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    fn submit<T: 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&mut Connection) -> Result<T, LedgerError> + Send + 'static,
        reply: impl FnOnce(Result<T, LedgerError>) + Send + 'static,
    ) -> Result<(), LedgerError> {
        let jobs = self.jobs.as_ref().ok_or(LedgerError::Closed { what })?;
        let job = Box::new(move |connection: &mut Connection| reply(caught(what, connection, f)));
        jobs.send(job).map_err(|_| LedgerError::Closed { what })
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

/// What was counted of one kind of access since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AccessCounts {
    /// Transactions that ended, whichever way.
    pub begun: u64,
    /// Those that failed or were refused.
    pub failed: u64,
    /// Seconds from asking to the answer, all together.
    pub seconds: f64,
}

/// What was counted since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LedgerUsage {
    /// Transactions that only read.
    pub reads: AccessCounts,
    /// Transactions that write.
    pub writes: AccessCounts,
}

/// A counter of one kind of access.
#[derive(Debug, Default)]
pub(super) struct Meter {
    ended: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Meter {
    /// Counts one access that began at `begun`.
    pub(super) fn count<T, E>(&self, begun: Instant, answer: Result<T, E>) -> Result<T, E> {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        answer
    }

    pub(super) fn counts(&self) -> AccessCounts {
        // Failures first: there are never more of them than there are transactions.
        let failed = self.failed.load(Ordering::Relaxed);
        AccessCounts {
            begun: self.ended.load(Ordering::Relaxed).max(failed),
            failed,
            seconds: self.micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}
