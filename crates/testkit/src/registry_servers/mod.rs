//! Registries for the tests: Debian's docker-registry as a process, and small
//! servers that stand before it or do what it does not. Each test file uses its
//! own part.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

pub mod ecr_api;
pub mod http;
pub mod layouts;
pub mod phase_proxy;
pub mod skopeo;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::subscriber::DefaultGuard;

use crate::contracts::flaky_proxy::TestCertificates;
pub use http::{KeepingRegistry, TokenServer};
pub use phase_proxy::{Phase, PhaseProxy, Trouble};

/// A server's process; ends with its value, also when a test panics.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts what `command` makes for a port, and waits until it listens. The port
    /// may be taken between our look and the server's: then another one is tried.
    pub fn start(name: &str, limit: Duration, command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(server) = Self::start_at(port, limit, &command) {
                return server;
            }
        }
        panic!("{name} did not start");
    }

    /// The same on one port; `None` when it ended or does not listen.
    pub fn start_at(port: u16, limit: Duration, command: impl Fn(u16) -> Command) -> Option<Self> {
        let mut command = command(port);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let began = Instant::now();
        while began.elapsed() < limit {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(server.address).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a program is installed; says SKIPPED where it is not.
pub fn has_program(test: &str, program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()));
    if !found {
        eprintln!("SKIPPED: {test}: {program} is missing (`scripts/setup/packages test`, Debian package {package})");
    }
    found
}

/// The programs that these tests need; otherwise the test says SKIPPED and ends.
#[macro_export]
macro_rules! needs_registry {
    ($test:literal) => {
        if !$crate::registry_servers::has_program($test, "docker-registry", "docker-registry")
            || !$crate::registry_servers::has_program($test, "skopeo", "skopeo")
        {
            return;
        }
    };
}

pub const USER: &str = "robot";
pub const PASSWORD: &str = "s3cret-of-the-robot";
/// `htpasswd -Bbn` of the two.
const HTPASSWD: &str = "robot:$2y$05$LdK6.cgBlqLX52pNPGnjkuatdIPxW2tbAEpQPUR5YFlS.LkdYLYyC\n";
/// `htpasswd -Bbn` of AWS and the password that moto hands out.
const HTPASSWD_ECR: &str = "AWS:$2y$05$QLZkYVP1XyZEulPxfC29WeVxralKD7LRJVYbcqa4C1F6kCztXoO/u\n";

/// Who is let in.
pub enum Access<'a> {
    Everybody,
    /// [`USER`] with [`PASSWORD`].
    Password,
    /// The same over TLS.
    PasswordAndTls,
    /// Who comes with ECR's login, as moto hands it out.
    EcrLogin,
    /// Who brings a token of this server.
    Token(&'a TokenServer),
}

#[derive(Debug)]
pub struct DockerRegistry {
    server: Server,
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    pub ca_path: PathBuf,
}

impl DockerRegistry {
    pub fn open() -> Self {
        Self::start(&Access::Everybody, true)
    }

    pub fn start(access: &Access<'_>, deletes: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::write(folder.path(), access, deletes);
        let server = Server::start("docker-registry", Duration::from_secs(20), |port| config.command(port));
        let (address, ca_path) = (server.address, folder.path().join("trust/ca.crt"));
        Self { server, folder, address, ca_path }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where it keeps what it has.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage/docker/registry/v2")
    }

    /// The file of a blob.
    pub fn blob_path(&self, digest: &delayd_core::ids::Digest) -> PathBuf {
        self.storage().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex()).join("data")
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, on the same port with the same storage.
    pub fn start_again(&mut self) {
        let config = Config { path: self.folder.path().join("config.yml") };
        for _ in 0..100 {
            let limit = Duration::from_secs(20);
            if let Some(server) = Server::start_at(self.address.port(), limit, |port| config.command(port)) {
                self.server = server;
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry did not start again on its port");
    }
}

struct Config {
    path: PathBuf,
}

impl Config {
    fn write(folder: &Path, access: &Access<'_>, deletes: bool) -> Self {
        let at = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            folder.join(name).display().to_string()
        };
        let (mut auth, mut tls) = (String::new(), String::new());
        match access {
            Access::Everybody => {}
            Access::PasswordAndTls => {
                let certificates = TestCertificates::new();
                // A folder of its own: skopeo reads every file beside it.
                std::fs::create_dir(folder.join("trust")).unwrap();
                at("trust/ca.crt", &certificates.ca_pem);
                let (certificate, key) =
                    (at("server.crt", &certificates.server_pem), at("server.key", &certificates.server_key_pem));
                tls = format!("  tls: {{certificate: {certificate}, key: {key}}}\n");
                auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd", HTPASSWD));
            }
            Access::Password => {
                auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd", HTPASSWD));
            }
            Access::EcrLogin => {
                auth = format!("auth: {{htpasswd: {{realm: ecr, path: {}}}}}\n", at("htpasswd", HTPASSWD_ECR));
            }
            Access::Token(server) => {
                let bundle = at("token.crt", &server.certificate_pem);
                auth = format!(
                    "auth: {{token: {{realm: \"{}\", service: {}, issuer: {}, rootcertbundle: {bundle}}}}}\n",
                    server.realm(),
                    http::SERVICE,
                    http::ISSUER,
                );
            }
        }
        let storage = folder.join("storage").display().to_string();
        // The secret lets an upload go on after a restart.
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: {deletes}}}}}\n{auth}\
             http:\n  addr: 127.0.0.1:0\n  secret: of-the-upload-states\n{tls}"
        );
        Self { path: PathBuf::from(at("config.yml", &text)) }
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&self.path).env("REGISTRY_HTTP_ADDR", format!("127.0.0.1:{port}"));
        command
    }
}

#[derive(Debug)]
pub struct Containerd {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Containerd {
    /// `None`, and SKIPPED said, where it is not installed or may not run.
    pub fn start(test: &str) -> Option<Self> {
        if !has_program(test, "containerd", "containerd") || !has_program(test, "ctr", "containerd") {
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

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens until the guard goes.
    pub fn listen(&self) -> DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
