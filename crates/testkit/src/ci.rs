//! A service's repository, made by the test with the real git; servers that hand
//! it out; and what is left of processes. Each test file uses its own part.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use delayd_outside::packaging::{SourceKind, SourceSettings};

/// How long anything here may take before a test gives up.
pub const SOON: Duration = Duration::from_secs(60);

/// Whether a program is there; says loudly when it is not.
pub fn has(test: &str, program: &str, package: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: {test}: {program} is not installed; `apt-get install {package}` brings it");
    }
    there
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A folder below none that anybody may write to: in others nothing is built from source.
pub fn private_folder() -> tempfile::TempDir {
    tempfile::tempdir_in(crate::programs::temporary_folder("private")).unwrap()
}

/// A repository whose service is a tiny cargo workspace, or a script.
pub struct ServiceRepository {
    pub dir: PathBuf,
}

const MANIFEST: &str = r#"[workspace]
members = ["serve"]
resolver = "3"

[profile.image]
inherits = "release"
opt-level = 0
"#;

const SERVE_MANIFEST: &str = r#"[package]
name = "delayd-serve"
version = "0.1.0"
edition = "2024"
"#;

const LOCK: &str = r#"version = 4

[[package]]
name = "delayd-serve"
version = "0.1.0"
"#;

impl ServiceRepository {
    /// An empty repository with the branch `main`.
    fn empty(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let repository = Self { dir: dir.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch", "main", "."]);
        repository
    }

    /// A cargo workspace without dependencies, so that it builds without a network.
    pub fn cargo(dir: &Path, says: &str) -> (Self, String) {
        let repository = Self::empty(dir);
        repository.write("Cargo.toml", MANIFEST);
        repository.write("Cargo.lock", LOCK);
        repository.write("serve/Cargo.toml", SERVE_MANIFEST);
        let commit = repository.says(says);
        (repository, commit)
    }

    /// Another version of the cargo workspace.
    pub fn says(&self, what: &str) -> String {
        self.write("serve/src/main.rs", &format!("fn main() {{\n    println!({what:?});\n}}\n"));
        self.commit(what)
    }

    /// A repository that is built by `build.sh`, which is quicker than a compiler.
    pub fn script(dir: &Path, script: &str) -> (Self, String) {
        let repository = Self::empty(dir);
        repository.write("build.sh", script);
        let commit = repository.commit("first");
        (repository, commit)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(&self.dir).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Ann").env(format!("GIT_{role}_EMAIL"), "ann@example.com");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }
}

/// Settings that build `repository` with cargo, the one that built this test.
pub fn cargo_settings(repository: &str) -> SourceSettings {
    let folder = Path::new(env!("CARGO")).parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let mut settings =
        SourceSettings { kind: SourceKind::Git, repository: repository.to_owned(), ..SourceSettings::default() };
    settings.environment.insert("PATH".to_owned(), path);
    settings
}

/// Settings that build `repository` by its script into `serve`.
pub fn script_settings(repository: &str) -> SourceSettings {
    SourceSettings {
        kind: SourceKind::Git,
        repository: repository.to_owned(),
        build_command: ["sh", "build.sh"].map(str::to_owned).to_vec(),
        binary: "serve".to_owned(),
        ..SourceSettings::default()
    }
}

/// A script's line that makes a static executable, or what passes for one here,
/// with `content` in it.
pub fn makes_a_binary(content: &str) -> String {
    // The header of a static amd64 executable without program headers (ELF-64 object file format).
    let mut header = [0_u8; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[16] = 2;
    header[18] = 62;
    header[54] = 56;
    let octal: String = header.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}{content}' > serve\n")
}

/// Whether the process is there and no zombie.
pub fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until `look` answers something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every file under `folder` that holds `text`; all of them for an empty one.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && (text.is_empty() || bytes.windows(text.len()).any(|part| part == text.as_bytes()))
            {
                found.push(path);
            }
        }
    }
    found
}

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
        if !is_root() {
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

/// A server process with its children; dropping it ends them.
pub struct ServerProcess {
    child: Child,
    pub address: SocketAddr,
}

impl ServerProcess {
    /// Starts a server and waits until it accepts connections.
    fn start(mut command: Command, address: SocketAddr) -> Self {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().unwrap(), address };
        wait_for("the git server answers", || std::net::TcpStream::connect(address).ok());
        server
    }

    /// `git daemon` for the repositories under `root`.
    pub fn git_daemon(root: &Path) -> Self {
        let address = free_address();
        let mut command = Command::new("git");
        command.args(["daemon", "--reuseaddr", "--export-all", "--informative-errors", "--listen=127.0.0.1"]);
        command.arg(format!("--port={}", address.port())).arg(format!("--base-path={}", root.display())).arg(root);
        Self::start(command, address)
    }

    /// sshd with a host key of its own that lets this user in by `key`.
    pub fn sshd(folder: &Path) -> SshServer {
        let file = |name: &str| folder.join(name);
        for name in ["host_key", "user_key", "other_key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(name));
            assert!(keygen.status().unwrap().success());
        }
        std::fs::copy(file("user_key.pub"), file("authorized_keys")).unwrap();
        let address = free_address();
        let config = format!(
            "ListenAddress {address}\nHostKey \"{}\"\nAuthorizedKeysFile \"{}\"\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            file("host_key").display(),
            file("authorized_keys").display()
        );
        std::fs::write(file("sshd_config"), config).unwrap();
        // Where a system's sshd was never started its privilege separation has no folder yet.
        let _ = std::fs::create_dir_all("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-f"]).arg(file("sshd_config"));
        let process = Self::start(command, address);
        let host_key = std::fs::read_to_string(file("host_key.pub")).unwrap();
        std::fs::write(file("known_hosts"), format!("[127.0.0.1]:{} {host_key}", address.port())).unwrap();
        SshServer { process, key: file("user_key"), other_key: file("other_key"), known_hosts: file("known_hosts") }
    }
}

/// A running sshd, and what lets somebody in.
pub struct SshServer {
    pub process: ServerProcess,
    pub key: PathBuf,
    /// One that it does not know.
    pub other_key: PathBuf,
    pub known_hosts: PathBuf,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What the web server hands out, and to whom.
#[derive(Clone)]
struct Site {
    root: PathBuf,
    /// The `Authorization` header that lets somebody in; everybody without it.
    wanted: Option<String>,
}

/// Repositories under `root` by HTTP; with `login` (user and password) only to whom
/// has them. It ends with the test's process.
pub fn http(root: &Path, login: Option<(&str, &str)>) -> SocketAddr {
    let basic = |(user, password): (&str, &str)| {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
    };
    let site = Site { root: root.to_owned(), wanted: login.map(basic) };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let server = move || {
            let app = App::new().app_data(web::Data::new(site.clone()));
            app.app_data(web::PayloadConfig::new(64 << 20)).default_service(web::to(answer))
        };
        actix_web::rt::System::new()
            .block_on(HttpServer::new(server).workers(1).disable_signals().listen(listener).unwrap().run())
            .unwrap();
    });
    address
}

async fn answer(site: web::Data<Site>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    if site.wanted.as_ref().is_some_and(|wanted| *wanted != header("authorization")) {
        return HttpResponse::Unauthorized().insert_header(("www-authenticate", "Basic realm=\"git\"")).finish();
    }
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", &site.root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REQUEST_METHOD", request.method().as_str()).env("PATH_INFO", request.path());
    command.env("QUERY_STRING", request.query_string()).env("CONTENT_TYPE", header("content-type"));
    command.env("CONTENT_LENGTH", body.len().to_string()).env("GIT_PROTOCOL", header("git-protocol"));
    command.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = web::block(move || {
        let mut backend = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        backend.stdin.take().unwrap().write_all(&body).unwrap();
        backend.wait_with_output().unwrap().stdout
    });
    let output = output.await.unwrap();
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let mut response = HttpResponse::Ok();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => {
                let code: u16 = status.split(' ').next().unwrap().parse().unwrap();
                response.status(StatusCode::from_u16(code).unwrap());
            }
            Some((name, value)) => drop(response.insert_header((name, value))),
            None => {}
        }
    }
    response.body(output[end + 4..].to_vec())
}
