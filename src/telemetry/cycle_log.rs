//! The log of each cycle in a file of its own, `<state_dir>/logs/cycle_N.log`: what
//! the API and the page show of it.
//!
//! A thread of its own writes it, so that no disk, full or hanging, can hold up the
//! loop: lines that cannot be written or queued are counted and lost. Only our own
//! lines from INFO up are kept, none of an SDK's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::lines::{self, Fields, TextTarget};
use delayd_core::ids::CycleId;

/// Lines that may wait for the disk.
const QUEUE: usize = 4096;
/// How long the end of a process waits for them.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleLogPolicy {
    /// Logs of so many of the newest cycles.
    pub cycles: usize,
    /// Bytes of one log; beyond, only warnings and errors, up to a quarter more.
    pub bytes: u64,
}

impl Default for CycleLogPolicy {
    fn default() -> Self {
        Self { cycles: 100, bytes: 4 << 20 }
    }
}

/// Where a cycle's log lies.
pub fn cycle_log_path(state_dir: &Path, cycle: CycleId) -> PathBuf {
    state_dir.join("logs").join(format!("{cycle}.log"))
}

/// Lines of cycles that could not be kept since the process started.
pub fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

static LOST: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<SyncSender<Job>> = OnceLock::new();

enum Job {
    Line(Line),
    Flush(SyncSender<()>),
}

struct Line {
    cycle: CycleId,
    trace: String,
    severe: bool,
    text: String,
}

/// Starts the thread that writes.
pub(super) fn keep(state_dir: &Path, policy: CycleLogPolicy) -> io::Result<()> {
    let (sender, jobs) = sync_channel(QUEUE);
    // A second daemon in one process logs into the first one's files, or not at all.
    if WRITER.set(sender).is_err() {
        return Ok(());
    }
    let mut files = Files { folder: state_dir.join("logs"), policy, open: None };
    std::thread::Builder::new().name("cycle-logs".to_owned()).spawn(move || files.work(&jobs)).map(|_| ())
}

pub(super) fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, answered) = sync_channel(1);
    if writer.try_send(Job::Flush(done)).is_ok() {
        // A disk that hangs is not waited for.
        let _ = answered.recv_timeout(FLUSH_LIMIT);
    }
}

/// Hands the lines of cycles to the thread.
#[derive(Debug)]
pub(super) struct CycleLog;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for CycleLog {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(writer) = WRITER.get() else { return };
        // Only what happens within a cycle's span is its log.
        let within = context.event_scope(event).is_some_and(|mut scope| scope.any(|span| span.name() == "cycle"));
        if !within {
            return;
        }
        let (message, fields) = Fields::of_event(event, &context);
        let Some(cycle) = fields.text("cycle.id").and_then(|text| text.parse().ok()) else { return };
        let line = Line {
            cycle,
            trace: fields.text("trace.id").unwrap_or_default(),
            severe: *event.metadata().level() <= Level::WARN,
            text: lines::text(event.metadata(), &message, &fields, TextTarget::CycleFile),
        };
        if writer.try_send(Job::Line(line)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The files, as the thread sees them.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    policy: CycleLogPolicy,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    cycle: CycleId,
    file: File,
    bytes: u64,
    full: bool,
}

impl Files {
    fn work(&mut self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Line(line) => {
                    if self.write(&line).is_err() {
                        LOST.fetch_add(1, Ordering::Relaxed);
                        // The next line tries again: a disk may have room by then.
                        self.open = None;
                    }
                }
                // Who asked may have gone.
                Job::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|open| open.cycle != line.cycle) {
            self.open = Some(self.open(line)?);
        }
        let (limit, Some(open)) = (self.policy.bytes, self.open.as_mut()) else { return Ok(()) };
        let length = line.text.len() as u64;
        if open.bytes + length > limit && !open.full {
            open.full = true;
            let end = format!("# {limit} bytes are full: from here on only warnings and errors\n");
            open.put(end.as_bytes())?;
        }
        if open.full && (!line.severe || open.bytes + length > limit + limit / 4) {
            return Ok(());
        }
        open.put(line.text.as_bytes())
    }

    fn open(&self, line: &Line) -> io::Result<Open> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}.log", line.cycle));
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        let mut open = Open { cycle: line.cycle, file, bytes, full: bytes > self.policy.bytes };
        if bytes == 0 {
            self.prune()?;
            open.put(format!("# {}, trace {}\n", line.cycle, line.trace).as_bytes())?;
        }
        Ok(open)
    }

    /// Removes the logs of all but the newest cycles.
    fn prune(&self) -> io::Result<()> {
        let mut cycles: Vec<CycleId> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            // What else lies there is not ours to remove.
            cycles.extend(name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<CycleId>().ok()));
        }
        cycles.sort_unstable();
        let surplus = cycles.len().saturating_sub(self.policy.cycles.max(1));
        cycles.iter().take(surplus).try_for_each(|cycle| fs::remove_file(self.folder.join(format!("{cycle}.log"))))
    }
}

impl Open {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, cycles: usize, bytes: u64) -> Files {
        Files { folder: folder.join("logs"), policy: CycleLogPolicy { cycles, bytes }, open: None }
    }

    fn line(cycle: u64, text: &str, severe: bool) -> Line {
        Line { cycle: CycleId(cycle), trace: "4bf9".to_owned(), severe, text: format!("{text}\n") }
    }

    fn content(folder: &Path, cycle: u64) -> String {
        fs::read_to_string(cycle_log_path(folder, CycleId(cycle))).unwrap()
    }

    #[test]
    fn a_log_continues_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path(), 9, 1000).write(&line(3, "one", false)).unwrap();
        files(folder.path(), 9, 1000).write(&line(3, "two", false)).unwrap();
        assert_eq!(content(folder.path(), 3), "# cycle_3, trace 4bf9\none\ntwo\n");
    }

    #[test]
    fn a_full_log_keeps_warnings_and_never_grows_past_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), 9, 400);
        for number in 0..100 {
            files.write(&line(1, &format!("line {number} of many"), false)).unwrap();
        }
        files.write(&line(1, "the step failed", true)).unwrap();
        for _ in 0..100 {
            files.write(&line(1, "the step failed again", true)).unwrap();
        }
        let text = content(folder.path(), 1);
        assert!(text.contains("only warnings and errors\nthe step failed\n"), "{text}");
        assert!(text.len() <= 600, "{} bytes", text.len());
    }

    #[test]
    fn the_logs_of_old_cycles_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), 2, 1000);
        fs::create_dir_all(folder.path().join("logs")).unwrap();
        fs::write(folder.path().join("logs/notes.txt"), "mine").unwrap();
        for cycle in [2, 9, 10, 11] {
            files.write(&line(cycle, "text", false)).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(folder.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["cycle_10.log", "cycle_11.log", "notes.txt"]);
    }

    #[test]
    fn a_disk_without_room_costs_lines_and_nothing_else() {
        // `/dev/full` answers every write with ENOSPC.
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("logs")).unwrap();
        std::os::unix::fs::symlink("/dev/full", cycle_log_path(folder.path(), CycleId(1))).unwrap();
        let (sender, jobs) = sync_channel(8);
        let before = lost_lines();
        sender.send(Job::Line(line(1, "lost", false))).unwrap();
        sender.send(Job::Line(line(2, "kept", false))).unwrap();
        drop(sender);
        files(folder.path(), 9, 1000).work(&jobs);
        assert!(lost_lines() > before);
        assert_eq!(content(folder.path(), 2), "# cycle_2, trace 4bf9\nkept\n");
    }
}
