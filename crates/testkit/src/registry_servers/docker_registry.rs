//! Debian's docker-registry (distribution 2.8) in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Server;
use super::token_server::TokenServer;
use crate::contracts::flaky_proxy::TestCertificates;

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
                    super::token_server::SERVICE,
                    super::token_server::ISSUER,
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
