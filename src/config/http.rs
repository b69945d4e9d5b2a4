//! `[http]`: who reaches the status endpoint, and what they may do there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use delayd_http_limits::Limits;
use serde::{Deserialize, Serialize};

use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::secret::Secret;

/// A token has at least as many characters: shorter ones are guessed by machines.
const TOKEN_CHARACTERS: usize = 16;

/// What a client may do.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything.
    #[default]
    Viewer,
    /// Look, and command: retrain, approve, roll back, pause, silence.
    Operator,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

/// A client of the endpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// Whose it is; what they do is noted under this name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The bearer token, 16 characters at least and random, best named by where it is kept.
    pub token: Secret,
}

impl TokenSettings {
    /// The token itself.
    pub fn reveal(&self) -> Result<String, PortError> {
        let action = format!("reading the token of `{}`", self.name);
        let token = self.token.reveal(&action)?;
        let characters = token.chars().count();
        if characters < TOKEN_CHARACTERS {
            let problem = format!(
                "it has {characters} characters, expected {TOKEN_CHARACTERS} or more; `openssl rand -hex 32` makes one"
            );
            return Err(PortError::new(ErrorKind::Denied, action, problem));
        }
        Ok(token)
    }
}

/// `[http]`: the status endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address of the endpoint.
    pub listen: String,
    /// Socket of the endpoint for commands on this machine; `<state_dir>/delayd.sock` when empty, none with `off`.
    /// Whoever may write to it is an operator: its file's mode is 0660.
    pub socket: PathBuf,
    /// Certificates in PEM, the endpoint's own first; without them the endpoint speaks plain HTTP.
    pub tls_certificate: PathBuf,
    /// The certificate's private key in PEM.
    pub tls_key: PathBuf,
    /// What clients of this machine may do without a token, where `listen` is a loopback address.
    pub loopback_role: Role,
    /// Whether `/metrics` is answered without a token.
    pub open_metrics: bool,
    /// Requests per second that one client may make in the long run.
    pub requests_per_second: u32,
    /// Requests that one client may make at once.
    pub request_burst: u32,
    /// Seconds in which a whole request must arrive; what comes later is answered 408 and the connection closed.
    pub request_deadline_secs: u64,
    /// Seconds in which a client must take an answer that it keeps waiting.
    pub answer_deadline_secs: u64,
    /// Open connections of one address, at most; a gateway that stands for many clients is one.
    pub connections_per_client: usize,
    /// Open connections of all addresses, at most; the local socket has room of its own.
    pub connections: usize,
    /// Who may use the endpoint from elsewhere.
    pub tokens: Vec<TokenSettings>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7070".to_owned(),
            socket: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            loopback_role: Role::Viewer,
            open_metrics: true,
            requests_per_second: 50,
            request_burst: 200,
            request_deadline_secs: 10,
            answer_deadline_secs: 30,
            connections_per_client: 512,
            connections: 4096,
            tokens: Vec::new(),
        }
    }
}

impl HttpSettings {
    /// The local socket's path; `None` where there shall be none.
    pub fn socket_path(&self, state_dir: &Path) -> Option<PathBuf> {
        if self.socket.as_os_str().is_empty() {
            Some(state_dir.join("delayd.sock"))
        } else if self.socket == Path::new("off") {
            None
        } else {
            Some(self.socket.clone())
        }
    }

    /// What clients of the network may cost.
    pub fn limits(&self) -> Limits {
        Limits {
            request_deadline: Duration::from_secs(self.request_deadline_secs),
            answer_deadline: Duration::from_secs(self.answer_deadline_secs),
            connections_per_client: self.connections_per_client,
            connections: self.connections,
        }
    }

    /// Whether the endpoint speaks TLS.
    pub fn tls(&self) -> bool {
        !self.tls_certificate.as_os_str().is_empty()
    }
}

impl HttpSettings {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: String, found: String, expected: &str| {
            if !holds {
                faults.push(Fault { key: format!("http.{key}"), found, expected: expected.to_owned() });
            }
        };
        let address: Result<std::net::SocketAddr, _> = self.listen.parse();
        let found = format!("`{}`", self.listen);
        check(address.is_ok(), "listen".to_owned(), found, "an address like 127.0.0.1:7070");
        let paired = self.tls_certificate.as_os_str().is_empty() == self.tls_key.as_os_str().is_empty();
        let found = format!("`{}`", self.tls_key.display());
        check(paired, "tls_key".to_owned(), found, "a key with a certificate (http.tls_certificate), or neither");
        for (key, value) in [("requests_per_second", self.requests_per_second), ("request_burst", self.request_burst)] {
            check((1..=100_000).contains(&value), key.to_owned(), value.to_string(), "1 to 100000");
        }
        for (key, value) in
            [("request_deadline_secs", self.request_deadline_secs), ("answer_deadline_secs", self.answer_deadline_secs)]
        {
            check((1..=3600).contains(&value), key.to_owned(), value.to_string(), "1 to 3600");
        }
        for (key, value) in [("connections_per_client", self.connections_per_client), ("connections", self.connections)]
        {
            check((2..=1_000_000).contains(&value), key.to_owned(), value.to_string(), "2 to 1000000");
        }
        for (index, token) in self.tokens.iter().enumerate() {
            let key = |name: &str| format!("tokens[{index}].{name}");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
            let named = !token.name.is_empty() && token.name.len() <= 64 && token.name.chars().all(plain);
            let found = format!("`{}`", token.name);
            check(named, key("name"), found, "a name of 1 to 64 letters, digits, `-`, `_`, `.`, `@`");
            let twice = self.tokens[..index].iter().any(|other| other.name == token.name);
            check(!twice, key("name"), format!("`{}` again", token.name), "each name once");
            check(token.token.is_set(), key("token"), "empty".to_owned(), "a secret, such as file:PATH or env:NAME");
            let short = token.token.written_here().is_some_and(|text| text.chars().count() < TOKEN_CHARACTERS);
            let expected = "16 characters or more, such as those of `openssl rand -hex 32`";
            check(!short || !token.token.is_set(), key("token"), "shorter".to_owned(), expected);
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_endpoint_is_reported_with_its_key() {
        let token = TokenSettings { name: "a b".to_owned(), ..TokenSettings::default() };
        let settings = HttpSettings {
            listen: "somewhere".to_owned(),
            tls_key: PathBuf::from("key.pem"),
            request_burst: 0,
            answer_deadline_secs: 0,
            connections: 1,
            tokens: vec![token],
            ..HttpSettings::default()
        };
        let keys: Vec<String> = settings.faults().into_iter().map(|fault| fault.key).collect();
        let expected = [
            "http.listen",
            "http.tls_key",
            "http.request_burst",
            "http.answer_deadline_secs",
            "http.connections",
            "http.tokens[0].name",
            "http.tokens[0].token",
        ];
        assert_eq!(keys, expected);
        assert_eq!(HttpSettings::default().faults(), []);
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused_where_it_is_written_and_where_it_is_read() {
        let of =
            |token: &str| TokenSettings { name: "ops".to_owned(), role: Role::Operator, token: Secret::new(token) };
        let faults = |token: &str| HttpSettings { tokens: vec![of(token)], ..HttpSettings::default() }.faults();
        assert_eq!(faults("fifteen-letters").len(), 1);
        assert_eq!(faults("sixteen-letters!"), []);
        // What is kept elsewhere is seen when it is read.
        let file = tempfile::NamedTempFile::new().unwrap();
        let kept = format!("file:{}", file.path().display());
        std::fs::write(file.path(), "short\n").unwrap();
        assert_eq!(faults(&kept), []);
        let told = delayd_core::error::chain(&of(&kept).reveal().unwrap_err());
        assert!(
            told.contains("`ops`") && told.contains("5 characters, expected 16") && !told.contains("short"),
            "{told}"
        );
        std::fs::write(file.path(), "a-token-of-some-length\n").unwrap();
        assert_eq!(of(&kept).reveal().unwrap(), "a-token-of-some-length");
    }

    #[test]
    fn the_socket_lies_in_the_state_directory_unless_it_is_named_or_off() {
        let path = |socket: &str| {
            let settings = HttpSettings { socket: PathBuf::from(socket), ..HttpSettings::default() };
            settings.socket_path(Path::new("/s"))
        };
        assert_eq!(path(""), Some(PathBuf::from("/s/delayd.sock")));
        assert_eq!(path("/run/delayd/api.sock"), Some(PathBuf::from("/run/delayd/api.sock")));
        assert_eq!(path("off"), None);
    }
}
