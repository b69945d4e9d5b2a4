//! An HTTP receiver that answers as Slack's incoming webhook does: `ok` for a good
//! message; 400 for what it cannot read, for blocks over its limits and for an
//! empty message; 403, 404, 410, 429 and 500 when it is told to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const SECRET_PATH: &str = "/services/T0001/B0001/s3cret-hook";

/// One request that came.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Answers to the next requests: status, body, further header line.
    planned: VecDeque<(u16, String, String)>,
    received: Vec<Received>,
    /// The messages that were taken.
    messages: Vec<Received>,
}

#[derive(Debug, Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), inner: Arc::default() };
        let running = receiver.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let receiver = running.clone();
                // What fails here fails at the client too, which is what is being tested.
                tokio::spawn(async move { drop(receiver.answer(client).await) });
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        url_at(self.address)
    }

    /// How the next request is answered.
    pub fn plan(&self, status: u16, body: &str) {
        self.plan_with(status, body, "");
    }

    pub fn plan_with(&self, status: u16, body: &str, header: &str) {
        self.inner.lock().unwrap().planned.push_back((status, body.to_owned(), header.to_owned()));
    }

    /// The messages that were taken.
    pub fn messages(&self) -> Vec<Received> {
        self.inner.lock().unwrap().messages.clone()
    }

    pub fn requests(&self) -> Vec<Received> {
        self.inner.lock().unwrap().received.clone()
    }

    async fn answer(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(request) = read_request(&mut client).await? else { return Ok(()) };
        let (status, body, header) = {
            let mut inner = self.inner.lock().unwrap();
            inner.received.push(request.clone());
            let planned = inner.planned.pop_front();
            let answer = planned.unwrap_or_else(|| {
                let (status, body) = as_slack_does(&request);
                (status, body.to_owned(), String::new())
            });
            if (200..300).contains(&answer.0) && request.method == "POST" {
                inner.messages.push(request);
            }
            answer
        };
        let header = if header.is_empty() { header } else { format!("{header}\r\n") };
        let answer = format!(
            "HTTP/1.1 {status} Planned\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{header}connection: close\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await
    }
}

pub fn url_at(address: SocketAddr) -> String {
    format!("http://{address}{SECRET_PATH}")
}

async fn read_request(client: &mut TcpStream) -> std::io::Result<Option<Received>> {
    let mut seen = Vec::new();
    let mut part = [0_u8; 65_536];
    let end = loop {
        if let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut part).await? {
            0 => return Ok(None),
            read => seen.extend_from_slice(&part[..read]),
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let mut body = seen.split_off(end + 4);
    let (first, lines) = head.split_once("\r\n").unwrap_or((&head, ""));
    let lines: String = lines
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}: {}\n", name.to_lowercase(), value.trim()))
        .collect();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let request = Received { method, path, head: lines, body: Vec::new() };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        match client.read(&mut part).await? {
            0 => return Ok(None),
            read => body.extend_from_slice(&part[..read]),
        }
    }
    Ok(Some(Received { body, ..request }))
}

fn as_slack_does(request: &Received) -> (u16, &'static str) {
    if request.path != SECRET_PATH {
        return (404, "no_service");
    }
    let Ok(Value::Object(message)) = serde_json::from_slice::<Value>(&request.body) else {
        return (400, "invalid_payload");
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, |text| text.chars().count());
    let blocks = message.get("blocks").and_then(Value::as_array).cloned().unwrap_or_default();
    if text(message.get("text")) == 0 && blocks.is_empty() {
        return (400, "no_text");
    }
    let mut all = 0;
    let good = |block: &Value| {
        let length = text(block.pointer("/text/text")).max(text(block.pointer("/elements/0/text")));
        let limit = if block["type"] == "header" { 150 } else { 3000 };
        all += length;
        (1..=limit).contains(&length)
    };
    if !blocks.iter().all(good) {
        return (400, "invalid_blocks");
    }
    if blocks.len() > 50 || all > 13_200 {
        return (400, "msg_blocks_too_long");
    }
    (200, "ok")
}
