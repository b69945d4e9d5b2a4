//! A small HTTP server, and what the tests make of it: a token server, and a registry that keeps to the letter of the
//! distribution spec where Debian's docker-registry 2.8 does not (pieces must fit `Content-Range`, and a smallest piece can
//! be asked for); it holds one repository in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{PASSWORD, USER};
use delayd_core::clock::{Clock as _, SystemClock};
use delayd_core::ids::Digest;

/// A request's head, and what of its body came along with it.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// The head as it came, without the empty line.
    pub raw: String,
    pub rest: Vec<u8>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn length(&self) -> usize {
        self.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Every value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://host{}", self.target)).unwrap();
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// Reads up to the empty line; `None` when the connection ends before.
pub async fn read_head(stream: &mut TcpStream) -> Option<Head> {
    let mut seen = Vec::new();
    let mut part = [0_u8; 16 * 1024];
    let end = loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&part[..read]),
            _ => return None,
        }
    };
    let rest = seen.split_off(end + 4);
    let raw = String::from_utf8(seen[..end].to_vec()).ok()?;
    let mut lines = raw.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Head { method, target, headers, raw: raw.clone(), rest })
}

/// A request with as much of its body as came.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Request {
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.head.length()
    }
}

/// Reads the body, or what there is of it.
pub async fn read_body(stream: &mut TcpStream, mut head: Head) -> Request {
    let mut body = std::mem::take(&mut head.rest);
    let mut part = vec![0_u8; 64 * 1024];
    while body.len() < head.length() {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => body.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    Request { head, body }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A refusal in the words of the distribution spec.
    pub fn refusal(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message, "detail": null}]});
        Self::new(status).header("content-type", "application/json").body(body.to_string())
    }
}

pub async fn write_reply(stream: &mut TcpStream, head_only: bool, reply: &Reply) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Test\r\nconnection: close\r\n", reply.status);
    if reply.status != 204 {
        text.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await?;
    if !head_only {
        stream.write_all(&reply.body).await?;
    }
    stream.shutdown().await
}

/// Answers every request by `answer`, on a port of its own, as long as the test's runtime runs.
pub async fn serve<F, Fut>(answer: F) -> SocketAddr
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let Some(head) = read_head(&mut stream).await else { return };
                let request = read_body(&mut stream, head).await;
                let head_only = request.head.method == "HEAD";
                let reply = answer(request).await;
                // Who does not wait for the answer has hung up: that is a test.
                let _ = write_reply(&mut stream, head_only, &reply).await;
            });
        }
    });
    address
}

pub const SERVICE: &str = "registry.test";
pub const ISSUER: &str = "token-server.test";

#[derive(Debug, Clone)]
pub struct Policy {
    /// Seconds that a token holds.
    pub lifetime_secs: i64,
    /// Actions that are granted, of those asked for.
    pub granted: Vec<&'static str>,
    /// Answer with this status instead.
    pub refuse: Option<u16>,
}

#[derive(Clone)]
pub struct TokenServer {
    pub address: SocketAddr,
    /// What docker-registry must trust.
    pub certificate_pem: String,
    pub policy: Arc<Mutex<Policy>>,
    /// The scopes asked for, call by call.
    pub asked: Arc<Mutex<Vec<Vec<String>>>>,
}

struct Signer {
    key: KeyPair,
    certificate: String,
}

impl TokenServer {
    pub async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["token-server.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let certificate_pem = certificate.pem();
        let signer = Arc::new(Signer { key, certificate: STANDARD.encode(certificate.der()) });
        let granted = vec!["pull", "push", "delete"];
        let policy = Arc::new(Mutex::new(Policy { lifetime_secs: 300, granted, refuse: None }));
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (now_policy, now_asked) = (policy.clone(), asked.clone());
        let address = serve(move |request| {
            let policy = now_policy.lock().unwrap().clone();
            now_asked.lock().unwrap().push(request.head.query("scope"));
            let reply = token_answer(&signer, &policy, &request);
            async move { reply }
        })
        .await;
        Self { address, certificate_pem, policy, asked }
    }

    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    pub fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn token_answer(signer: &Signer, policy: &Policy, request: &Request) -> Reply {
    if let Some(status) = policy.refuse {
        return Reply::refusal(status, "PLANNED", "planned refusal of the token server");
    }
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if request.head.header("authorization") != Some(&expected) {
        return Reply::refusal(401, "UNAUTHORIZED", "who are you?");
    }
    let access: Vec<_> = request
        .head
        .query("scope")
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.splitn(3, ':').collect();
            let granted: Vec<&str> = parts[2].split(',').filter(|action| policy.granted.contains(action)).collect();
            json!({"type": parts[0], "name": parts[1], "actions": granted})
        })
        .collect();
    let now = SystemClock.now().timestamp();
    let claims = json!({
        "iss": ISSUER, "sub": USER, "aud": request.head.query("service").first(), "jti": "1",
        "iat": now, "nbf": now - 5, "exp": now + policy.lifetime_secs, "access": access,
    });
    let body = json!({"token": signer.token(&claims), "expires_in": policy.lifetime_secs.max(0)});
    Reply::new(200).header("content-type", "application/json").body(body.to_string())
}

impl Signer {
    fn token(&self, claims: &serde_json::Value) -> String {
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = fixed_width(&self.key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// From ASN.1 (`SEQUENCE { INTEGER r, INTEGER s }`) to the two numbers of 32 bytes
/// that RFC 7518, section 3.4, wants.
fn fixed_width(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut out = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number: Vec<u8> = rest[2..2 + length].iter().copied().skip_while(|byte| *byte == 0).collect();
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend(number);
        rest = &rest[2 + length..];
    }
    out
}

#[derive(Debug, Default)]
pub struct State {
    pub uploads: HashMap<String, Vec<u8>>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifests: HashMap<String, Vec<u8>>,
    next: usize,
}

#[derive(Debug, Clone)]
pub struct KeepingRegistry {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Every piece but the last must have so many bytes.
    pub min_chunk_bytes: usize,
    /// Uploads go to this address instead of the registry's own.
    pub upload_host: Option<SocketAddr>,
}

impl KeepingRegistry {
    pub async fn start(manners: Manners) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let kept = state.clone();
        let address = serve(move |request| {
            let reply = answer(&mut kept.lock().unwrap(), &manners, &request);
            async move { reply }
        })
        .await;
        Self { address, state }
    }
}

fn answer(state: &mut State, manners: &Manners, request: &Request) -> Reply {
    let path = request.head.path();
    if let Some((_, id)) = path.split_once("/blobs/uploads/") {
        return upload(state, manners, request, id);
    }
    if let Some((_, digest)) = path.split_once("/blobs/") {
        return Reply::new(if state.blobs.contains_key(digest) { 200 } else { 404 });
    }
    let Some((_, reference)) = path.split_once("/manifests/") else { return Reply::new(200) };
    match (request.head.method.as_str(), state.manifests.get(reference)) {
        ("PUT", _) => {
            let digest = Digest::of(&request.body).to_string();
            state.manifests.insert(reference.to_owned(), request.body.clone());
            state.manifests.insert(digest.clone(), request.body.clone());
            Reply::new(201).header("docker-content-digest", digest)
        }
        // No digest in the header: the client has to look for itself.
        ("GET" | "HEAD", Some(manifest)) => Reply::new(200).body(manifest.clone()),
        ("DELETE", Some(_)) => {
            state.manifests.remove(reference);
            Reply::new(202)
        }
        _ => Reply::refusal(404, "MANIFEST_UNKNOWN", "unknown"),
    }
}

fn upload(state: &mut State, manners: &Manners, request: &Request, id: &str) -> Reply {
    let host = manners.upload_host.map(|host| format!("http://{host}")).unwrap_or_default();
    let at = |id: &str| format!("{host}/v2/delay-ml/blobs/uploads/{id}");
    if request.head.method == "POST" {
        state.next += 1;
        let id = format!("upload-{}", state.next);
        state.uploads.insert(id.clone(), Vec::new());
        let reply = Reply::new(202).header("location", at(&id));
        return match manners.min_chunk_bytes {
            0 => reply,
            least => reply.header("oci-chunk-min-length", least.to_string()),
        };
    }
    let Some(received) = state.uploads.get_mut(id) else {
        return Reply::refusal(404, "BLOB_UPLOAD_UNKNOWN", "unknown");
    };
    let standing = |received: &[u8]| format!("0-{}", received.len().saturating_sub(1));
    match request.head.method.as_str() {
        "PATCH" => {
            let range = request.head.header("content-range").unwrap_or_default();
            if range.split('-').next() != Some(&received.len().to_string()) {
                return Reply::refusal(416, "RANGE_INVALID", "out of order").header("range", standing(received));
            }
            received.extend_from_slice(&request.body);
            Reply::new(202).header("location", at(id)).header("range", standing(received))
        }
        "PUT" => {
            received.extend_from_slice(&request.body);
            let blob = std::mem::take(received);
            state.uploads.remove(id);
            let digest = request.head.query("digest").remove(0);
            if !request.is_whole() || Digest::of(&blob).as_str() != digest {
                return Reply::refusal(400, "DIGEST_INVALID", "not what was said");
            }
            state.blobs.insert(digest, blob);
            Reply::new(201)
        }
        _ => Reply::new(405),
    }
}
