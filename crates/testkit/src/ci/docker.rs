//! A Docker Engine that the test starts itself, with folders, socket and storage
//! of its own, and stops.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A private engine.
pub struct Dockerd {
    child: Child,
    folder: TempDir,
}

impl Dockerd {
    /// Starts an engine; `None` after saying loudly why there is none.
    pub fn start(test: &str) -> Option<Self> {
        let skipped = |why: &str| {
            eprintln!("SKIPPED: {test}: {why}");
            None
        };
        if !super::is_root() {
            return skipped("dockerd starts only as root; run the tests as root for this one");
        }
        // Short, because the path of a socket has an end.
        let folder = tempfile::Builder::new().prefix("dd").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        command.arg("-H").arg(format!("unix://{}", at("x.sock").display()));
        // Neither the machine's network nor its file systems are touched.
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let Ok(child) = command.spawn() else {
            return skipped("dockerd is not installed; `apt-get install docker.io` brings it");
        };
        let mut engine = Self { child, folder };
        let begun = Instant::now();
        while !engine.docker(&["version"]).status.success() {
            let ended = engine.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(engine.folder.path().join("log")).unwrap();
                let last = log.lines().last().unwrap_or_default();
                return skipped(&format!("dockerd does not start here ({ended:?}): {last}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(engine)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("x.sock")
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The `docker` command against this engine.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        // An engine that says nothing must not hold the test for ever.
        let mut command = Command::new("timeout");
        command
            .args(["60", "docker"])
            .args(arguments)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.folder.path());
        command.output().unwrap()
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Ends the engine and starts it again over the same data.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // A test that failed may have left it stopped.
        let _ = kill(self.pid(), Signal::SIGCONT);
        let containers = String::from_utf8_lossy(&self.docker(&["ps", "--all", "--quiet"]).stdout).into_owned();
        for container in containers.split_whitespace() {
            self.docker(&["rm", "--force", container]);
        }
        // It ends its containerd with it.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        unmount_under(self.folder.path());
    }
}

/// What an engine that was killed leaves mounted keeps its folder from being removed.
fn unmount_under(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let under =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(folder));
    for path in under.collect::<Vec<_>>().into_iter().rev() {
        let _ = Command::new("umount").arg("--lazy").arg(path).status();
    }
}
