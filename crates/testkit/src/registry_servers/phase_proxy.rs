//! Stands before a registry, knows what each request is for, counts what is sent,
//! and makes trouble in the phase that a test names.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http::SERVICE;
use super::http::{Head, Reply, read_body, read_head, write_reply};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Ping,
    BlobCheck,
    UploadStart,
    Piece,
    UploadEnd,
    TagCheck,
    ManifestPut,
    ManifestGet,
    Delete,
    Other,
}

impl Phase {
    fn of(head: &Head) -> Self {
        let upload = head.path().contains("/blobs/uploads/");
        let manifest = head.path().contains("/manifests/");
        match head.method.as_str() {
            "GET" if head.path() == "/v2/" => Self::Ping,
            "HEAD" if manifest => Self::TagCheck,
            "HEAD" => Self::BlobCheck,
            "POST" if upload => Self::UploadStart,
            "PATCH" => Self::Piece,
            "PUT" if upload => Self::UploadEnd,
            "PUT" if manifest => Self::ManifestPut,
            "GET" if manifest => Self::ManifestGet,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// None this time.
    Nothing,
    /// The connection is closed without an answer.
    Close,
    /// The request is answered with this status.
    Refuse(u16),
    /// The same, with the wish to be left alone for so many seconds.
    RefuseFor(u16, u64),
    /// The request is refused until a password comes.
    Challenge,
    /// The request is refused until a token of the server there comes.
    ChallengeToken(SocketAddr),
    /// So many bytes of the request's body get through, then the connection is closed.
    CutBody(usize),
    /// The request is carried out, and its answer lost.
    LoseAnswer,
    /// So many bytes of the answer get through.
    CutAnswer(usize),
    /// The request is answered after this long.
    Stall(Duration),
}

/// A request that came by.
#[derive(Debug, Clone)]
pub struct Seen {
    pub phase: Phase,
    pub target: String,
    pub authorization: Option<String>,
    /// Bytes of its body that were passed on.
    pub body_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    planned: Vec<(Phase, Trouble, usize)>,
    seen: Vec<Seen>,
}

/// A proxy on a port of its own.
#[derive(Debug, Clone)]
pub struct PhaseProxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl PhaseProxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { address, state: Arc::default() };
        let running = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = running.clone();
                tokio::spawn(async move {
                    // What fails here fails on the adapter's side too, which is what is being tested.
                    let _ = proxy.carry(client, server).await;
                });
            }
        });
        proxy
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The next `times` requests of a phase meet trouble.
    pub fn plan(&self, phase: Phase, trouble: Trouble, times: usize) {
        self.state.lock().unwrap().planned.push((phase, trouble, times));
    }

    /// All is well from now on.
    pub fn calm(&self) {
        self.state.lock().unwrap().planned.clear();
    }

    /// What came by since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    /// Bytes of blobs that were passed on since the last call.
    pub fn take_blob_bytes(&self) -> usize {
        let uploads = |seen: &Seen| matches!(seen.phase, Phase::Piece | Phase::UploadEnd);
        self.take_seen().iter().filter(|seen| uploads(seen)).map(|seen| seen.body_bytes).sum()
    }

    fn trouble(&self, phase: Phase) -> Option<Trouble> {
        let mut state = self.state.lock().unwrap();
        let planned = state.planned.iter_mut().find(|(at, _, times)| *at == phase && *times > 0)?;
        planned.2 -= 1;
        Some(planned.1)
    }

    fn note(&self, head: &Head, body_bytes: usize) {
        let phase = Phase::of(head);
        let authorization = head.header("authorization").map(str::to_owned);
        self.state.lock().unwrap().seen.push(Seen { phase, target: head.target.clone(), authorization, body_bytes });
    }

    async fn carry(&self, mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let Some(head) = read_head(&mut client).await else { return Ok(()) };
        let trouble = self.trouble(Phase::of(&head));
        let head_only = head.method == "HEAD";
        let length = head.length();
        let (body_limit, answer_limit) = match trouble {
            Some(Trouble::Close) => {
                self.note(&head, 0);
                return Ok(());
            }
            Some(Trouble::Refuse(status)) => {
                self.note(&head, 0);
                read_body(&mut client, head).await;
                return write_reply(&mut client, head_only, &Reply::refusal(status, "PLANNED", "planned refusal"))
                    .await;
            }
            Some(challenge @ (Trouble::Challenge | Trouble::ChallengeToken(_))) => {
                self.note(&head, 0);
                let wanted = match challenge {
                    Trouble::ChallengeToken(server) => {
                        format!("Bearer realm=\"http://{server}/token\",service=\"{SERVICE}\"")
                    }
                    _ => "Basic realm=\"test\"".to_owned(),
                };
                let reply = Reply::refusal(401, "UNAUTHORIZED", "who are you?").header("www-authenticate", wanted);
                return write_reply(&mut client, head_only, &reply).await;
            }
            Some(Trouble::RefuseFor(status, secs)) => {
                self.note(&head, 0);
                read_body(&mut client, head).await;
                let reply =
                    Reply::refusal(status, "PLANNED", "planned refusal").header("retry-after", secs.to_string());
                return write_reply(&mut client, head_only, &reply).await;
            }
            Some(Trouble::Stall(pause)) => {
                tokio::time::sleep(pause).await;
                (usize::MAX, usize::MAX)
            }
            Some(Trouble::CutBody(bytes)) => (bytes, 0),
            Some(Trouble::LoseAnswer) => (usize::MAX, 0),
            Some(Trouble::CutAnswer(bytes)) => (usize::MAX, bytes),
            Some(Trouble::Nothing) | None => (usize::MAX, usize::MAX),
        };
        let mut upstream = TcpStream::connect(server).await?;
        upstream.write_all(format!("{}\r\nConnection: close\r\n\r\n", head.raw).as_bytes()).await?;
        let passed = pass_body(&head, &mut client, &mut upstream, length.min(body_limit)).await?;
        self.note(&head, passed);
        if passed < length {
            // What was passed on arrives before the end of the connection does.
            return upstream.shutdown().await;
        }
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).await?;
        answer.truncate(answer_limit);
        client.write_all(&answer).await?;
        client.shutdown().await
    }
}

async fn pass_body(
    head: &Head,
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    limit: usize,
) -> std::io::Result<usize> {
    let first = &head.rest[..head.rest.len().min(limit)];
    upstream.write_all(first).await?;
    let mut passed = first.len();
    let mut part = vec![0_u8; 64 * 1024];
    while passed < limit {
        let room = part.len().min(limit - passed);
        match client.read(&mut part[..room]).await? {
            0 => break,
            read => {
                upstream.write_all(&part[..read]).await?;
                passed += read;
            }
        }
    }
    Ok(passed)
}
