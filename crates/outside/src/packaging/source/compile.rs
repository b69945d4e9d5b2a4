//! The build itself: the configured command in the clean tree.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::builds::BuildControl;
use super::process::{BuildLog, Ended, Program, run};
use super::settings::SourceSettings;
use super::{io_error, run_error, stopped};
use crate::packaging;
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;

/// News reach the journal no more often than this.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);
/// `rustc -vV` answers at once; rustup may first install the toolchain that the source asks for.
const TOOLCHAIN_LIMIT: Duration = Duration::from_secs(600);
/// Of the daemon's environment, which holds secrets, a build gets only these and
/// what `pass_environment` names.
const PASSED_VARIABLES: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "CC",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

pub(super) struct Compilation<'a> {
    pub(super) settings: &'a SourceSettings,
    pub(super) control: &'a BuildControl,
    pub(super) mark: &'a str,
    pub(super) commit: &'a str,
    /// In seconds since 1970.
    pub(super) committed_at: Option<String>,
    pub(super) dir: PathBuf,
    /// Where cargo keeps what it has compiled; the same for every build.
    pub(super) target_dir: PathBuf,
    pub(super) must_be_static: bool,
}

/// What rustc says of itself.
#[derive(Default)]
struct Toolchain {
    version: String,
    host: String,
}

impl Compilation<'_> {
    /// Builds, and answers the executable and the toolchain.
    pub(super) fn run(&self, log: &mut BuildLog, progress: &dyn Fn(&str)) -> Result<(PathBuf, String), PortError> {
        if !self.dir.is_dir() {
            let message = format!(
                "the commit has no folder `{}`; packaging.source.subdirectory names it",
                self.settings.subdirectory
            );
            return Err(self.failed(ErrorKind::Invalid, message, log));
        }
        fs::create_dir_all(&self.target_dir).map_err(io_error("creating", &self.target_dir))?;
        let toolchain = self.toolchain(log)?;
        let binary = self.binary(&toolchain);
        // What an earlier commit left there must not pass for this one's.
        match fs::remove_file(&binary) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(io_error("removing", &binary))?,
        }
        self.compile(&toolchain, log, progress)?;
        self.inspect(&binary, log)?;
        Ok((binary, toolchain.version))
    }

    fn compile(&self, toolchain: &Toolchain, log: &mut BuildLog, progress: &dyn Fn(&str)) -> Result<(), PortError> {
        let words = self.settings.build_command.iter().map(|word| word.replace("{target}", &toolchain.host));
        let command: Vec<String> = words.collect();
        let told = command.join(" ");
        progress(&format!("building {:.12}: {told}", self.commit));
        let mut last_news = Instant::now();
        let timeout = Duration::from_secs(self.settings.timeout_secs);
        let ended = self.execute(self.nice(command), timeout, log, &mut |line| {
            if last_news.elapsed() >= PROGRESS_PAUSE && !line.trim().is_empty() {
                last_news = Instant::now();
                progress(&format!("building {:.12}: {}", self.commit, line.trim()));
            }
        })?;
        match ended {
            Ended::Exited(status) if status.success() => Ok(()),
            Ended::Exited(status) => {
                let (kind, message) = reason(&told, status, &log.tail());
                Err(self.failed(kind, message, log))
            }
            Ended::TimedOut => {
                let limit = self.settings.timeout_secs;
                let message = format!(
                    "`{told}` did not finish within {limit} s and was ended with all its children; \
                     packaging.source.timeout_secs allows more"
                );
                Err(self.failed(ErrorKind::Timeout, message, log))
            }
            Ended::Stopped => Err(stopped()),
        }
    }

    /// Gives way to others by the program of that name.
    fn nice(&self, command: Vec<String>) -> Vec<String> {
        if self.settings.niceness == 0 {
            return command;
        }
        let nice = ["nice".to_owned(), "-n".to_owned(), self.settings.niceness.to_string()];
        nice.into_iter().chain(command).collect()
    }

    /// The compiler that the source asks for (`rust-toolchain.toml`); none where the
    /// source is in another language.
    fn toolchain(&self, log: &mut BuildLog) -> Result<Toolchain, PortError> {
        let mut said = Vec::new();
        let command = ["rustc", "-vV"].map(str::to_owned).to_vec();
        let ended = self.execute(command, TOOLCHAIN_LIMIT, log, &mut |line| said.push(line.to_owned()));
        let needed = self.settings.build_command.iter().chain([&self.settings.binary]).any(|w| w.contains("{target}"));
        match ended {
            Ok(Ended::Stopped) => return Err(stopped()),
            Err(error) if needed => return Err(error),
            Ok(Ended::Exited(status)) if status.success() => {}
            Ok(_) if needed => {
                return Err(self.failed(ErrorKind::Invalid, "`rustc -vV` failed".to_owned(), log));
            }
            _ => return Ok(Toolchain::default()),
        }
        let after = |prefix: &str| said.iter().find_map(|line| line.strip_prefix(prefix)).unwrap_or_default();
        let version = said.iter().find(|line| line.starts_with("rustc ")).cloned().unwrap_or_default();
        Ok(Toolchain { version, host: after("host: ").to_owned() })
    }

    fn execute(
        &self,
        command: Vec<String>,
        timeout: Duration,
        log: &mut BuildLog,
        news: &mut dyn FnMut(&str),
    ) -> Result<Ended, PortError> {
        let path = log.path().to_owned();
        log.line(&format!("$ {}", command.join(" "))).map_err(io_error("writing", &path))?;
        let started = command.first().cloned().unwrap_or_default();
        let program = Program {
            command,
            dir: self.dir.clone(),
            environment: self.environment(),
            timeout,
            mark: self.mark.to_owned(),
        };
        let ended = run(&program, self.control, &mut |line| {
            news(line);
            log.line(line)
        });
        ended.map_err(run_error(&started, &path))
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        let names = PASSED_VARIABLES.iter().copied().chain(self.settings.pass_environment.iter().map(String::as_str));
        let passed = names.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)));
        let ours = [
            ("LANG", "C.UTF-8"),
            ("CARGO_TERM_COLOR", "never"),
            ("CARGO_TERM_PROGRESS_WHEN", "never"),
            ("DELAYD_BUILD_COMMIT", self.commit),
        ];
        let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), OsString::from(value)));
        let target = ("CARGO_TARGET_DIR".to_owned(), self.target_dir().into_os_string());
        let epoch = self.committed_at.iter().map(|at| ("SOURCE_DATE_EPOCH".to_owned(), OsString::from(at)));
        let configured = self.settings.environment.iter().map(|(name, value)| (name.clone(), OsString::from(value)));
        passed.chain(ours).chain([target]).chain(epoch).chain(configured).collect()
    }

    /// From the root, because the command runs elsewhere.
    fn target_dir(&self) -> PathBuf {
        self.target_dir.canonicalize().unwrap_or_else(|_| self.target_dir.clone())
    }

    fn binary(&self, toolchain: &Toolchain) -> PathBuf {
        let path = self.settings.binary.replace("{target_dir}", &self.target_dir().to_string_lossy());
        // An absolute path replaces the folder.
        self.dir.join(path.replace("{target}", &toolchain.host))
    }

    fn inspect(&self, binary: &Path, log: &BuildLog) -> Result<(), PortError> {
        let wrong = |message: String| Err(self.failed(ErrorKind::Invalid, message, log));
        if !binary.is_file() {
            return wrong(format!(
                "the command succeeded, and yet there is no {}; packaging.source.binary names what it builds",
                binary.display()
            ));
        }
        match packaging::inspect_service(binary) {
            Ok(found) if self.must_be_static && !found.is_static => wrong(format!(
                "{} is dynamically linked and cannot start in an image without a loader; link it statically \
                 (packaging.source.environment: RUSTFLAGS = \"-C target-feature=+crt-static\")",
                binary.display()
            )),
            Ok(_) => Ok(()),
            Err(error) => wrong(delayd_core::error::chain(&error)),
        }
    }

    fn failed(&self, kind: ErrorKind, message: String, log: &BuildLog) -> PortError {
        let what = format!("building {} at {:.12}", self.settings.repository, self.commit);
        let (path, tail) = (log.path().display(), log.tail());
        PortError::new(kind, what, format!("{message}; the whole log is {path}, its last lines:\n{tail}"))
    }
}

/// What an unsuccessful build stands for. Its words decide: cargo has one exit
/// status for all failures.
fn reason(command: &str, status: ExitStatus, tail: &str) -> (ErrorKind, String) {
    let says = |words: &[&str]| words.iter().any(|words| tail.contains(words));
    if says(&["No space left on device", "Disk quota exceeded"]) {
        return (ErrorKind::Exhausted, format!("`{command}`: the disk is full; make room for <state>/builds"));
    }
    if says(&["--locked was passed", "because --locked", "cannot update the lock file"]) {
        let advice =
            "Cargo.lock does not match Cargo.toml at this commit: run `cargo update --workspace` and commit it";
        return (ErrorKind::Invalid, format!("`{command}` refused the lock file; {advice}"));
    }
    // cargo's and curl's words about a registry that is unavailable. Only those of the last error count: a
    // download that succeeded at the second try leaves warnings behind.
    let last_error = tail.rfind("\nerror").map_or(tail, |at| &tail[at..]);
    let network = [
        "failed to download from",
        "download of config.json failed",
        "Could not resolve host",
        "Couldn't resolve host",
        "Could not connect to server",
        "Couldn't connect to server",
        "network failure seems to have happened",
        "[28] Timeout was reached",
        "[56] Failure when receiving data",
    ];
    if network.iter().any(|words| last_error.contains(words)) {
        return (ErrorKind::Unavailable, format!("`{command}` could not fetch the dependencies"));
    }
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => (ErrorKind::Invalid, format!("`{command}` failed with exit status {code}")),
        (None, Some(nix::libc::SIGKILL)) => (
            ErrorKind::Exhausted,
            format!("`{command}` was killed (signal 9), as the system does when memory runs out"),
        ),
        (None, signal) => {
            (ErrorKind::Interrupted, format!("`{command}` was ended by signal {}", signal.unwrap_or_default()))
        }
    }
}

/// Digest of everything configured that can change what a commit comes to. The
/// toolchain is not in it: it is recorded, and removing the cache builds it again.
pub(super) fn command_digest(settings: &SourceSettings) -> Digest {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| {
        // Writing to a String cannot fail. Lengths keep two values from running into one.
        let _ = writeln!(text, "{name} {} {value}", value.len());
    };
    add("repository", &settings.repository);
    add("subdirectory", &settings.subdirectory);
    add("binary", &settings.binary);
    for word in &settings.build_command {
        add("word", word);
    }
    for (name, value) in settings.environment.iter().filter(|(name, _)| !is_secret(name)) {
        add(name, value);
    }
    for name in settings.pass_environment.iter().filter(|name| !is_secret(name)) {
        add(name, &std::env::var(name).unwrap_or_default());
    }
    Digest::of(text.as_bytes())
}

/// Values that must not be seen in a log: the token, and of the build's variables those whose name says so.
pub(super) fn secrets(settings: &SourceSettings) -> Vec<String> {
    let named = settings.pass_environment.iter().filter(|name| is_secret(name));
    let passed = named.filter_map(|name| std::env::var(name).ok());
    let configured = settings.environment.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.clone());
    // Unreadable now is unreadable for git, too, which then says so.
    let token = settings.token.reveal("masking the log").ok();
    passed.chain(configured).chain(token).filter(|value| !value.is_empty()).collect()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "KEY"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_cargo_says_decides_whether_to_try_again() {
        let locked = "error: cannot update the lock file /x/Cargo.lock because --locked was passed to prevent this";
        for (tail, status, kind) in [
            ("error[E0425]: cannot find value `x`", 101 << 8, ErrorKind::Invalid),
            (locked, 101 << 8, ErrorKind::Invalid),
            (
                "Updating index\nerror: failed to get `x`\n[6] Couldn't resolve host name",
                101 << 8,
                ErrorKind::Unavailable,
            ),
            ("[6] Couldn't resolve host name, trying again\nerror: could not compile", 101 << 8, ErrorKind::Invalid),
            ("error: could not write: No space left on device (os error 28)", 101 << 8, ErrorKind::Exhausted),
            ("Compiling x", 9, ErrorKind::Exhausted),
            ("Compiling x", 15, ErrorKind::Interrupted),
        ] {
            let (found, message) = reason("cargo build", ExitStatus::from_raw(status), tail);
            assert_eq!(found, kind, "{tail}: {message}");
        }
    }

    #[test]
    fn another_command_is_another_build_and_a_secret_is_not() {
        let settings = SourceSettings::default();
        let same = SourceSettings { niceness: 3, timeout_secs: 7, ..settings.clone() };
        let flags = [("RUSTFLAGS".to_owned(), "-C opt-level=1".to_owned())].into();
        let other = SourceSettings { environment: flags, ..settings.clone() };
        let passed = SourceSettings { pass_environment: vec!["MY_TOKEN".to_owned()], ..settings.clone() };
        assert_eq!(command_digest(&settings), command_digest(&same));
        assert_ne!(command_digest(&settings), command_digest(&other));
        assert_eq!(command_digest(&settings), command_digest(&passed));
    }
}
