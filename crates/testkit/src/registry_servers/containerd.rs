//! A containerd of the test's own, to pull as a node does.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Containerd {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Containerd {
    /// `None`, and SKIPPED said, where it is not installed or may not run.
    pub fn start(test: &str) -> Option<Self> {
        if !super::has_program(test, "containerd", "containerd") || !super::has_program(test, "ctr", "containerd") {
            return None;
        }
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("SKIPPED: {test}: containerd runs as root alone");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n",
            at("root"),
            at("state"),
            at("grpc.sock"),
            at("ttrpc.sock")
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(folder.path().join("config.toml"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let containerd = Self { child, socket: folder.path().join("grpc.sock"), _folder: folder };
        let began = Instant::now();
        while !containerd.ctr(&["version"]).output().unwrap().status.success() {
            assert!(began.elapsed() < Duration::from_secs(30), "containerd did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(arguments);
        command
    }

    /// Fetches an image with all its blobs, every digest checked.
    pub fn fetch(&self, reference: &str, options: &[&str]) {
        let output = self.ctr(&["content", "fetch"]).args(options).arg(reference).output().unwrap();
        assert!(output.status.success(), "{reference}: {}", String::from_utf8_lossy(&output.stderr));
        let listed = self.ctr(&["images", "ls", "-q"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.lines().any(|line| line == reference), "{reference} is not among {listed}");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
