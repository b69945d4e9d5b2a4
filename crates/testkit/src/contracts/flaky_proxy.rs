//! Stands between an adapter and the real server, and misbehaves on demand; and
//! speaks TLS for a server that does not, with a certificate of its own authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It reaches the server.
    Pass,
    /// It is closed at once.
    Down,
    /// One request is read and answered with this HTTP status.
    Refuse(u16),
    /// It reaches the server after this long.
    Slow(Duration),
    /// So many bytes of the answer come through, then it is closed.
    CutAfter(usize),
}

/// A proxy on a port of its own.
#[derive(Debug, Clone)]
pub struct FlakyProxy {
    address: SocketAddr,
    mood: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct Plan {
    mood: Mood,
    /// Connections until it passes again; for ever without.
    left: Option<usize>,
    connections: usize,
}

impl FlakyProxy {
    /// In front of `server`, passing everything on.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(Mutex::new(Plan { mood: Mood::Pass, left: None, connections: 0 }));
        let proxy = Self { address, mood };
        let running = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mood = running.next_mood();
                tokio::spawn(async move {
                    // What fails here fails on the adapter's side too, which is what is being tested.
                    let _ = carry(client, server, mood).await;
                });
            }
        });
        proxy
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on. Connections that stand already are left alone.
    pub fn set(&self, mood: Mood) {
        let mut plan = self.mood.lock().unwrap();
        (plan.mood, plan.left) = (mood, None);
    }

    /// For the next `connections`, then all is well again.
    pub fn set_for(&self, mood: Mood, connections: usize) {
        let mut plan = self.mood.lock().unwrap();
        (plan.mood, plan.left) = (mood, Some(connections));
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.mood.lock().unwrap().connections
    }

    fn next_mood(&self) -> Mood {
        let mut plan = self.mood.lock().unwrap();
        plan.connections += 1;
        match plan.left.as_mut() {
            Some(0) => {
                (plan.mood, plan.left) = (Mood::Pass, None);
                Mood::Pass
            }
            Some(left) => {
                *left -= 1;
                plan.mood
            }
            None => plan.mood,
        }
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mood: Mood) -> std::io::Result<()> {
    let limit = match mood {
        Mood::Pass => usize::MAX,
        Mood::Down => return Ok(()),
        Mood::Refuse(status) => return refuse(client, status).await,
        Mood::Slow(pause) => {
            tokio::time::sleep(pause).await;
            usize::MAX
        }
        Mood::CutAfter(bytes) => bytes,
    };
    let mut server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut answer = from_server.take(limit as u64);
    let upward = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    tokio::select! {
        done = tokio::io::copy(&mut answer, &mut to_client) => done.map(|_| ()),
        Err(error) = upward => Err(error),
    }
}

async fn refuse(mut client: TcpStream, status: u16) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut part = [0_u8; 4096];
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut part).await? {
            0 => return Ok(()),
            read => seen.extend_from_slice(&part[..read]),
        }
    }
    let body = format!("planned refusal {status}");
    let answer = format!(
        "HTTP/1.1 {status} Planned\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    // Taking the rest of the body keeps the kernel from resetting the connection before the answer is read.
    let drained = tokio::time::timeout(Duration::from_secs(5), async {
        while client.read(&mut part).await? > 0 {}
        Ok(())
    });
    drained.await.unwrap_or(Ok(()))
}

/// A TLS server in front of a plain one.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens; its certificate is for `localhost` and `127.0.0.1`.
    pub address: SocketAddr,
    /// PEM file of the authority that signed its certificate.
    pub ca_path: PathBuf,
    _folder: tempfile::TempDir,
}

impl TlsFront {
    pub async fn before(server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = TestCertificates::new();
        let ca_path = folder.path().join("ca.pem");
        std::fs::write(&ca_path, &certificates.ca_pem).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(certificates.server_config()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust the certificate hangs up: that is a test.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address, ca_path, _folder: folder }
    }
}

/// An authority, and a server's certificate for `localhost` and `127.0.0.1`, in PEM.
pub struct TestCertificates {
    pub ca_pem: String,
    pub server_pem: String,
    pub server_key_pem: String,
    server_der: Vec<u8>,
    server_key_der: Vec<u8>,
}

impl Default for TestCertificates {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCertificates {
    pub fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "delayd test authority");
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let server_key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&server_key, &issuer).unwrap();
        Self {
            ca_pem,
            server_pem: server.pem(),
            server_key_pem: server_key.serialize_pem(),
            server_der: server.der().to_vec(),
            server_key_der: server_key.serialize_der(),
        }
    }

    fn server_config(&self) -> ServerConfig {
        delayd_core::http_client::install_tls();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.server_key_der.clone()));
        let chain = vec![CertificateDer::from(self.server_der.clone())];
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()
    }
}
