//! Reads mails by somebody else's eyes: Python's `email` package.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::Deserialize;

const READER: &str = r"
import email, email.policy, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
parts = [[part.get_content_type(), part.get_content()] for part in message.walk() if not part.is_multipart()]
headers = {name.lower(): str(value) for name, value in message.items()}
json.dump({'headers': headers, 'parts': parts, 'type': message.get_content_type()}, sys.stdout)
";

/// A mail as a reader shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    headers: std::collections::BTreeMap<String, String>,
    /// Content type and decoded text.
    pub parts: Vec<(String, String)>,
    #[serde(rename = "type")]
    pub kind: String,
}

impl Mail {
    pub fn read(raw: &[u8]) -> Self {
        let mut python =
            Command::new("python3").args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        python.stdin.take().unwrap().write_all(raw).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(&name.to_lowercase()).map_or("", String::as_str)
    }
}
