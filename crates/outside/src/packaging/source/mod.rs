//! The inference service from its source: clone at a revision, locked build, log.
//!
//! Everything lies in the state directory: `sources/` has the mirror and the tree,
//! `builds/<cycle>/build.log` the log, `builds/target` the cached target folder,
//! and `builds/cache` the finished executables by commit and command. The build
//! runs with the daemon's rights: it is no sandbox, and only what is trusted may
//! be built.

mod builds;
mod compile;
mod git;
mod process;
mod settings;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use builds::{BuildCache, CachedBuild};
use compile::Compilation;
use git::Repository;
use process::BuildLog;

use self::process::RunError;
pub use builds::{BuildControl, Builds};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{CycleId, Digest};
use delayd_core::own_folder;
pub use settings::{SourceKind, SourceSettings};

const LOG_FILE: &str = "build.log";
/// A probe is answered within this time, or not at all.
const PROBE_LIMIT_SECS: u64 = 15;
/// How often a build looks whether another one has ended.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Builds the service. Blocking: run it off the actor thread.
#[derive(Debug, Clone)]
pub struct SourceBuilder {
    settings: SourceSettings,
    must_be_static: bool,
    sources: PathBuf,
    builds: PathBuf,
}

/// A finished build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedBuild {
    /// The executable, in the cache.
    pub binary: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The commit.
    pub commit: String,
    /// Digest of everything configured that can change what comes out.
    pub command_digest: Digest,
    /// What `rustc -V` said when it was built; empty where there is no rustc.
    pub toolchain: String,
    /// Whether it had been built before.
    pub reused: bool,
}

/// The log of a cycle's build, whether it is there or not.
#[must_use]
pub fn build_log_path(state_dir: &Path, cycle: CycleId) -> PathBuf {
    state_dir.join("builds").join(cycle.to_string()).join(LOG_FILE)
}

impl SourceBuilder {
    /// A builder that keeps what it needs in `state_dir`.
    #[must_use]
    pub fn new(settings: &SourceSettings, must_be_static: bool, state_dir: &Path) -> Self {
        // Programs run in other folders than the daemon. Only an empty path has no absolute form.
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self {
            settings: settings.clone(),
            must_be_static,
            sources: state_dir.join("sources"),
            builds: state_dir.join("builds"),
        }
    }

    /// Fetches the revision, and builds it unless that was done before. `progress`
    /// is told what is being done, in one line.
    ///
    /// # Errors
    /// Why there is no executable: `Cancelled` when it was stopped, `Invalid` for a build that will fail again. No process of
    /// the build runs any more then.
    pub fn build(
        &self,
        cycle: CycleId,
        control: &BuildControl,
        progress: &dyn Fn(&str),
    ) -> Result<FinishedBuild, PortError> {
        self.refuse_shared_state()?;
        fs::create_dir_all(&self.builds).map_err(io_error("creating", &self.builds))?;
        let _one_at_a_time = self.lock(control)?;
        let mark = self.builds.canonicalize().map_err(io_error("finding", &self.builds))?.display().to_string();
        let left = process::end_marked(&mark);
        if left > 0 {
            tracing::warn!(cycle.id = %cycle, processes = left, "an earlier daemon left a build running; it was ended");
        }
        let path = self.builds.join(cycle.to_string()).join(LOG_FILE);
        let mut log = BuildLog::begin(&path, self.settings.maximum_log_bytes, compile::secrets(&self.settings))
            .map_err(io_error("writing", &path))?;
        let built = self.logged(&mark, control, progress, &mut log);
        let ended = match &built {
            Ok(built) if built.reused => format!("[delayd] {} was built before: {}", built.commit, built.digest),
            Ok(built) => format!("[delayd] built {}", built.digest),
            Err(error) => format!("[delayd] {}", first_line(&delayd_core::error::chain(error))),
        };
        log.line(&ended).and_then(|()| log.finish()).map_err(io_error("writing", &path))?;
        self.prune(cycle);
        built
    }

    /// Whether the repository can be reached and knows the revision. Nothing of the
    /// state directory is touched.
    pub fn probe(&self) -> Result<String, PortError> {
        self.probe_in(&own_folder::system_temporary())
    }

    /// Whoever could write to the probe's folder could tell git which programs to run.
    fn probe_in(&self, parent: &Path) -> Result<String, PortError> {
        self.refuse_shared_state()?;
        let folder = own_folder::temporary(parent, "delayd-probe-")
            .map_err(io_error("creating a temporary folder in", parent))?;
        let folder = folder.path();
        let path = folder.join(LOG_FILE);
        let mut log = BuildLog::begin(&path, self.settings.maximum_log_bytes, compile::secrets(&self.settings))
            .map_err(io_error("writing", &path))?;
        let (control, mark) = (BuildControl::default(), folder.display().to_string());
        let fetch_timeout_secs = self.settings.fetch_timeout_secs.min(PROBE_LIMIT_SECS);
        let settings = SourceSettings { fetch_timeout_secs, ..self.settings.clone() };
        Repository::at(folder, &settings, &control, &mark).probe(&mut log)
    }

    /// cargo and rustup read settings in every folder above a source, and a setting may name a program to run.
    fn refuse_shared_state(&self) -> Result<(), PortError> {
        let Some(shared) = own_folder::shared_above(&self.builds) else { return Ok(()) };
        let message = format!(
            "anybody may write to {}, where build tools look for settings too; move daemon.state_dir elsewhere",
            shared.display()
        );
        let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, message);
        Err(io_error("building in", &self.builds)(source))
    }

    fn logged(
        &self,
        mark: &str,
        control: &BuildControl,
        progress: &dyn Fn(&str),
        log: &mut BuildLog,
    ) -> Result<FinishedBuild, PortError> {
        let settings = &self.settings;
        progress(&format!("fetching {} of {}", settings.revision, settings.repository));
        let repository = Repository::at(&self.sources, settings, control, mark);
        let commit = repository.fetch(log)?;
        let command_digest = compile::command_digest(settings);
        let cache = BuildCache::at(&self.builds.join("cache"));
        let key = Digest::of(format!("{commit}\n{command_digest}").as_bytes());
        if let Some(found) = cache.find(&key)? {
            progress(&format!("{commit:.12} was built before"));
            return Ok(finished(found, commit, command_digest, true));
        }
        progress(&format!("checking out {commit:.12}"));
        let tree = match repository.check_out(&commit, log) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                repository.forget(&error)?;
                repository.fetch(log)?;
                repository.check_out(&commit, log)?
            }
            tree => tree?,
        };
        let committed_at = repository.committed_at(&commit, log)?;
        let compilation = Compilation {
            settings,
            control,
            mark,
            commit: &commit,
            committed_at,
            dir: tree.join(&settings.subdirectory),
            target_dir: self.builds.join("target"),
            must_be_static: self.must_be_static,
        };
        let (binary, toolchain) = compilation.run(log, progress)?;
        let kept = cache.keep(&key, &binary, &commit, &toolchain)?;
        Ok(finished(kept, commit, command_digest, false))
    }

    fn lock(&self, control: &BuildControl) -> Result<File, PortError> {
        let path = self.builds.join(".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io_error("opening", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if control.is_stopped() => return Err(stopped()),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(io_error("locking", &path)(error)),
            }
        }
    }

    /// Removes the oldest logs and executables. One that cannot be removed is told
    /// and tried again after the next build.
    fn prune(&self, present: CycleId) {
        let keep = usize::try_from(self.settings.keep_builds).unwrap_or(usize::MAX);
        let pruned =
            builds::prune(&self.builds.join("cache"), keep).and_then(|()| prune_logs(&self.builds, keep, present));
        if let Err(error) = pruned {
            tracing::warn!(error = delayd_core::error::chain(&error), "old builds could not be removed");
        }
    }
}

fn finished(cached: CachedBuild, commit: String, command_digest: Digest, reused: bool) -> FinishedBuild {
    let CachedBuild { binary, digest, size_bytes, toolchain } = cached;
    FinishedBuild { binary, digest, size_bytes, commit, command_digest, toolchain, reused }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The folders `cycle_N` of the lowest numbers go.
fn prune_logs(builds: &Path, keep: usize, present: CycleId) -> Result<(), PortError> {
    let entries = fs::read_dir(builds).map_err(io_error("reading", builds))?;
    let mut cycles: Vec<CycleId> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    cycles.sort_by_key(|cycle| std::cmp::Reverse(cycle.0));
    for cycle in cycles.into_iter().filter(|cycle| *cycle != present).skip(keep.saturating_sub(1)) {
        let path = builds.join(cycle.to_string());
        fs::remove_dir_all(&path).map_err(io_error("removing", &path))?;
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PortError {
    let action = format!("{action} {}", path.display());
    move |error| PortError::io(action, error)
}

/// Removes a folder with all that is in it; one that is not there is no error.
fn remove_folder(path: &Path) -> Result<(), PortError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Somebody wanted the build to end.
fn stopped() -> PortError {
    PortError::new(ErrorKind::Cancelled, "building the service", "the build was stopped")
}

/// A program that did not come to its end; `log` is where its output went.
fn run_error<'a>(program: &'a str, log: &'a Path) -> impl FnOnce(RunError) -> PortError + 'a {
    move |error| match error {
        RunError::Start(error) => {
            // Another PATH or another package is needed: waiting does not help.
            let message = format!("it must be installed and in the daemon's PATH ({error})");
            PortError::new(ErrorKind::Invalid, format!("starting `{program}`"), message)
        }
        RunError::Output(error) => io_error("writing", log)(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    /// A folder like `/tmp`, and beside it a repository with one commit on `main`.
    fn place() -> (tempfile::TempDir, PathBuf, SourceSettings) {
        let place = tempfile::tempdir().unwrap();
        let (shared, repository) = (place.path().join("tmp"), place.path().join("service"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        git(place.path(), &["init", "--quiet", "--initial-branch", "main", "service"]);
        git(&repository, &["commit", "--quiet", "--allow-empty", "--message", "first"]);
        let repository = format!("file://{}", repository.display());
        (place, shared, SourceSettings { kind: SourceKind::Git, repository, ..SourceSettings::default() })
    }

    fn git(folder: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]).args(arguments).current_dir(folder);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        assert!(command.status().unwrap().success(), "git {arguments:?}");
    }

    /// Its state directory is not there, and nobody may write above it.
    fn builder(settings: &SourceSettings) -> SourceBuilder {
        SourceBuilder::new(settings, true, Path::new("/proc/self/no-such-state"))
    }

    #[test]
    fn a_probe_uses_nothing_that_others_put_where_its_folder_could_be_guessed() {
        let (place, shared, settings) = place();
        let victim = place.path().join("victim");
        fs::write(&victim, "as it was").unwrap();
        let guessed = shared.join(format!("delayd-probe-{}", std::process::id()));
        fs::create_dir(&guessed).unwrap();
        symlink(&victim, guessed.join(LOG_FILE)).unwrap();
        builder(&settings).probe_in(&shared).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
        assert!(fs::symlink_metadata(guessed.join(LOG_FILE)).unwrap().is_symlink(), "it is not ours to remove");
        let left: Vec<_> = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [guessed], "the probe's own folder is gone");
    }

    #[test]
    fn git_reads_no_repository_above_its_folder() {
        let (place, shared, settings) = place();
        let ran = place.path().join("ran");
        git(&shared, &["init", "--quiet"]);
        let remote = format!("remote.{}.uploadpack", settings.repository);
        git(&shared, &["config", &remote, &format!("touch {}; git-upload-pack", ran.display())]);
        builder(&settings).probe_in(&shared).unwrap();
        assert!(!ran.exists());
    }

    #[test]
    fn below_a_folder_of_all_nothing_is_built() {
        let (_place, shared, settings) = place();
        let state = shared.join("state");
        let builder = SourceBuilder::new(&settings, true, &state);
        let refused = [
            builder.build(CycleId(1), &BuildControl::default(), &|_| ()).unwrap_err(),
            builder.probe_in(&shared).unwrap_err(),
        ];
        for error in refused {
            let told = delayd_core::error::chain(&error);
            assert_eq!(error.kind(), ErrorKind::Denied, "{told}");
            assert!(told.contains(&shared.display().to_string()) && told.contains("daemon.state_dir"), "{told}");
        }
        assert!(!state.exists());
    }
}
