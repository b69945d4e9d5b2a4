//! HTTP/1.1 by hand, one request per connection, so that tests can stop anywhere in it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
