//! git's own servers on free ports: `git daemon`, `git http-backend` behind a small
//! web server that may want a password, and sshd.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::wait_for;

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
