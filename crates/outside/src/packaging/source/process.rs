//! Runs one program to its end, with a deadline, in a process group of its own.
//!
//! Whatever the program starts is gone when [`run`] comes back: first its process
//! group is ended, then every process that still carries its mark in the
//! environment (a child may leave the group, but it inherits the mark). The mark
//! is also how what a killed daemon left behind is found again.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::builds::BuildControl;

/// The environment variable that holds the mark.
const MARK_VARIABLE: &str = "DELAYD_BUILD_MARK";
/// How often the deadline, the end of the program and a wish to stop are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a program that was asked to end (SIGTERM) may take before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// Longer lines are told in parts.
const LINE_BYTES: u64 = 16 * 1024;
/// Lines that may wait; a program that says more waits for us.
const WAITING_LINES: usize = 1024;
/// Killing continues until no marked process is found, but no longer than this: one
/// in uninterruptible sleep dies when the kernel lets go of it.
const SWEEP_ROUNDS: u32 = 20;

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// The program and its arguments. Nothing secret: any user can read them.
    pub(super) command: Vec<String>,
    pub(super) dir: PathBuf,
    pub(super) environment: Vec<(String, OsString)>,
    pub(super) timeout: Duration,
    /// By which its processes are found.
    pub(super) mark: String,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, or by a signal of somebody else.
    Exited(ExitStatus),
    /// It was killed at its deadline.
    TimedOut,
    /// It was killed because somebody wanted it to stop.
    Stopped,
}

/// Why it did not come to its end.
#[derive(Debug)]
pub(super) enum RunError {
    Start(io::Error),
    /// Its output could not be kept.
    Output(io::Error),
}

/// Runs the program. Every line that it or its children say is told to `line`.
///
/// # Errors
/// It could not be started, or `line` failed; nothing of it runs any more then.
pub(super) fn run(
    program: &Program,
    control: &BuildControl,
    line: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<Ended, RunError> {
    let (mut running, lines) = start(program).map_err(RunError::Start)?;
    let ended = running.wait(program.timeout, control, &lines, line).map_err(RunError::Output)?;
    running.end();
    // The pipe is closed now that nobody is left to write into it.
    while let Ok(text) = lines.recv_timeout(GRACE) {
        line(&text).map_err(RunError::Output)?;
    }
    Ok(ended)
}

fn start(program: &Program) -> io::Result<(Running, Receiver<String>)> {
    let (reader, writer) = io::pipe()?;
    let (name, arguments) = program.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(name);
    command.args(arguments).current_dir(&program.dir).env_clear().process_group(0);
    command.envs(program.environment.iter().map(|(name, value)| (name, value))).env(MARK_VARIABLE, &program.mark);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let running = Running { child: command.spawn()?, mark: program.mark.clone(), ended: false };
    // Our ends of the pipe: while they are open the reader never comes to its end.
    drop(command);
    let (tell, lines) = sync_channel(WAITING_LINES);
    std::thread::Builder::new().name("build-output".to_owned()).spawn(move || read_lines(reader, &tell))?;
    Ok((running, lines))
}

/// The program while it runs; dropping it ends it.
struct Running {
    child: Child,
    mark: String,
    ended: bool,
}

impl Running {
    fn wait(
        &mut self,
        timeout: Duration,
        control: &BuildControl,
        lines: &Receiver<String>,
        line: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> io::Result<Ended> {
        let begun = Instant::now();
        loop {
            match lines.recv_timeout(TICK) {
                Ok(text) => line(&text)?,
                Err(RecvTimeoutError::Timeout) => {}
                // It closed its output and may still run.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
            if let Some(status) = self.child.try_wait()? {
                return Ok(Ended::Exited(status));
            }
            if control.is_stopped() {
                return Ok(Ended::Stopped);
            }
            if begun.elapsed() >= timeout {
                return Ok(Ended::TimedOut);
            }
        }
    }

    /// Asks the group to end, then kills it, then whatever left the group.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let asked = Instant::now();
        // A group that is gone already is what is wanted; so is a child that was waited for.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let Ok(group) = group
            && killpg(group, Signal::SIGTERM).is_ok()
        {
            while asked.elapsed() < GRACE && killpg(group, None).is_ok() {
                // A child that nobody waits for stays in its group as a zombie.
                let _ = self.child.try_wait();
                std::thread::sleep(TICK / 5);
            }
            let _ = killpg(group, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_marked(&self.mark);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills every process that carries the mark; answers how many there were.
pub(super) fn end_marked(mark: &str) -> usize {
    let mut killed = std::collections::BTreeSet::new();
    for _ in 0..SWEEP_ROUNDS {
        let found = marked(mark);
        if found.is_empty() {
            break;
        }
        for pid in found {
            // One that is gone meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
        std::thread::sleep(TICK / 5);
    }
    killed.len()
}

/// The processes that carry the mark. Zombies have no environment any more.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK_VARIABLE}={mark}");
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<i32>().ok()?, entry.path())))
        .filter(|(pid, _)| u32::try_from(*pid).is_ok_and(|pid| pid != std::process::id()))
        .filter(|(_, path)| carries(path, wanted.as_bytes()))
        .map(|(pid, _)| pid)
        .collect()
}

fn carries(process: &Path, wanted: &[u8]) -> bool {
    // Other users' processes cannot be read, and are not ours.
    std::fs::read(process.join("environ")).is_ok_and(|all| all.split(|byte| *byte == 0).any(|entry| entry == wanted))
}

fn read_lines(output: impl Read, tell: &SyncSender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut bytes = Vec::new();
        let read = (&mut output).take(LINE_BYTES).read_until(b'\n', &mut bytes);
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        if tell.send(text).is_err() {
            return;
        }
    }
}

/// So many last lines go into an error and its alert.
const TAIL_LINES: usize = 30;
/// And so many bytes of each.
const TAIL_LINE_BYTES: usize = 500;
/// Shorter values are masked nowhere: they would mask half the log.
const SHORTEST_MASKED: usize = 6;

/// The log that a build writes.
#[derive(Debug)]
pub(super) struct BuildLog {
    path: PathBuf,
    file: File,
    written: u64,
    maximum_bytes: u64,
    tail: VecDeque<String>,
    masked: Vec<String>,
}

impl BuildLog {
    /// Starts a new log. What `masked` holds is written as `***`.
    pub(super) fn begin(path: &Path, maximum_bytes: u64, masked: Vec<String>) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let masked = masked.into_iter().filter(|value| value.len() >= SHORTEST_MASKED).collect();
        let file = File::create(path)?;
        Ok(Self { path: path.to_owned(), file, written: 0, maximum_bytes, tail: VecDeque::new(), masked })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        let text = self.masked.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"));
        let before = self.written;
        self.written += text.len() as u64 + 1;
        if self.written <= self.maximum_bytes {
            writeln!(self.file, "{text}")?;
        } else if before <= self.maximum_bytes {
            writeln!(self.file, "[delayd] the log is full at {} bytes; what follows is not kept", self.maximum_bytes)?;
        }
        if !text.trim().is_empty() {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(shortened(text));
        }
        Ok(())
    }

    /// The last lines, for an error.
    pub(super) fn tail(&self) -> String {
        self.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Ends the log. One that overflowed ends with its last lines, which are the
    /// ones that tell why a build failed.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.written > self.maximum_bytes {
            writeln!(self.file, "[delayd] the last lines were:\n{}", self.tail())?;
        }
        self.file.flush()
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TAIL_LINE_BYTES {
        let end = (0..=TAIL_LINE_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str, mark: &str) -> Program {
        Program {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            dir: PathBuf::from("/"),
            environment: vec![("PATH".to_owned(), std::env::var_os("PATH").unwrap())],
            timeout: Duration::from_secs(60),
            mark: mark.to_owned(),
        }
    }

    fn ran(program: &Program, control: &BuildControl) -> (Ended, Vec<String>) {
        let mut lines = Vec::new();
        let ended = run(program, control, &mut |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        (ended.unwrap(), lines)
    }

    fn mark(test: &str) -> String {
        format!("{test}-{}", std::process::id())
    }

    #[test]
    fn output_and_errors_are_told_in_their_order_and_the_exit_status_too() {
        let program = program("echo one; echo two >&2; printf three; exit 7", &mark("order"));
        let (ended, lines) = ran(&program, &BuildControl::default());
        assert_eq!(lines, ["one", "two", "three"]);
        assert!(matches!(ended, Ended::Exited(status) if status.code() == Some(7)), "{ended:?}");
    }

    #[test]
    fn the_environment_is_only_what_was_given() {
        let (_, lines) = ran(&program("env", &mark("environment")), &BuildControl::default());
        let names: Vec<&str> = lines.iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH") && names.contains(&MARK_VARIABLE), "{names:?}");
        assert!(!names.contains(&"HOME") && !names.contains(&"CARGO_MANIFEST_DIR"), "{names:?}");
    }

    #[test]
    fn at_its_deadline_a_program_is_gone_with_its_children_even_one_that_left_the_group() {
        let mark = mark("deadline");
        let mut hangs = program("trap '' TERM; setsid sleep 600 & sleep 600 & echo started; wait", &mark);
        hangs.timeout = Duration::from_millis(400);
        let (ended, lines) = ran(&hangs, &BuildControl::default());
        assert_eq!((ended, lines.as_slice()), (Ended::TimedOut, ["started".to_owned()].as_slice()));
        assert_eq!(marked(&mark), Vec::<i32>::new());
    }

    #[test]
    fn a_program_that_ends_leaves_no_child_behind_that_holds_its_output() {
        let mark = mark("leftover");
        let (ended, lines) = ran(&program("setsid sleep 600 & echo done", &mark), &BuildControl::default());
        assert!(matches!(ended, Ended::Exited(status) if status.success()));
        assert_eq!((lines.as_slice(), marked(&mark)), (["done".to_owned()].as_slice(), Vec::new()));
    }

    #[test]
    fn a_wish_to_stop_ends_it() {
        let control = BuildControl::default();
        let (asked, mark) = (control.clone(), mark("stop"));
        let program = program("echo started; sleep 600", &mark);
        let ended = run(&program, &control, &mut |_| {
            asked.cancel();
            Ok(())
        });
        assert_eq!(ended.unwrap(), Ended::Stopped);
        assert_eq!(marked(&mark), Vec::<i32>::new());
    }

    #[test]
    fn what_a_killed_daemon_left_is_found_by_its_mark() {
        let mark = mark("orphan");
        let mut orphan = Command::new("sleep").arg("600").env(MARK_VARIABLE, &mark).spawn().unwrap();
        // Until the child has replaced itself by `sleep` it still has our own environment.
        while marked(&mark).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // It stays a zombie until it is waited for; a zombie carries no mark.
        assert_eq!(end_marked(&mark), 1);
        assert!(!orphan.wait().unwrap().success());
    }
}

#[cfg(test)]
mod build_log_tests {
    use super::*;

    #[test]
    fn a_log_that_overflows_keeps_its_beginning_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cycle_1/build.log");
        let mut log = BuildLog::begin(&path, 100, Vec::new()).unwrap();
        for number in 0..1000 {
            log.line(&format!("line {number}")).unwrap();
        }
        log.finish().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 999\n"), "{text}");
        assert!(text.contains("the log is full at 100 bytes") && !text.contains("line 500\n"), "{text}");
        assert!(text.len() < 1000);
        assert_eq!(log.tail().lines().count(), TAIL_LINES);
    }

    #[test]
    fn secrets_are_masked_in_the_file_and_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("build.log");
        let masked = vec!["s3cret-token".to_owned(), "no".to_owned()];
        let mut log = BuildLog::begin(&path, 1000, masked).unwrap();
        log.line("fetching with s3cret-token, no harm done").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "fetching with ***, no harm done\n");
        assert_eq!(log.tail(), "fetching with ***, no harm done");
    }
}
