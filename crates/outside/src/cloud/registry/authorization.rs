//! How a registry lets us in: Basic (RFC 7617), or a token of its token server
//! (the "Token Authentication Specification" of Docker's distribution). Which of
//! them is learned from its first refusal, then kept.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;

use super::client::{Answer, no_answer};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::secret::Secret;

/// How long a token holds whose server does not say (same specification).
const DEFAULT_TOKEN_SECS: u64 = 60;
/// A token is replaced this long before its end, or at three quarters of a shorter life.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// What a call needs to be allowed, in the token specification's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope(Vec<String>);

impl Scope {
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    pub(super) fn on(repository: &str, actions: &str) -> Self {
        Self(vec![format!("repository:{repository}:{actions}")])
    }

    /// These, and actions on another repository.
    pub(super) fn and(mut self, repository: &str, actions: &str) -> Self {
        self.0.push(format!("repository:{repository}:{actions}"));
        self
    }
}

/// Knows how to be let in.
#[derive(Debug)]
pub(super) struct Authorization {
    source: Arc<dyn LoginSource>,
    /// Whether token servers may be asked without TLS.
    plain_http: bool,
    known: Mutex<Known>,
}

/// What was learned so far.
#[derive(Default)]
struct Known {
    basic: bool,
    tokens: HashMap<Scope, Token>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("basic", &self.basic).field("tokens", &self.tokens.len()).finish()
    }
}

struct Token {
    header: HeaderValue,
    good_until: Instant,
}

impl Authorization {
    pub(super) fn new(source: Arc<dyn LoginSource>, plain_http: bool) -> Self {
        Self { source, plain_http, known: Mutex::default() }
    }

    /// The header for a call, as far as it is known what the registry wants.
    pub(super) async fn header(&self, action: &str, scope: &Scope) -> Result<Option<HeaderValue>, PortError> {
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = known.tokens.get(scope).filter(|token| Instant::now() < token.good_until) {
                return Ok(Some(token.header.clone()));
            }
            if !known.basic {
                return Ok(None);
            }
        }
        self.basic(action).await
    }

    /// The header to try again with, after the registry refused a call: what it
    /// challenges us to is done, and nothing is answered from memory.
    pub(super) async fn answer_challenge(
        &self,
        http: &reqwest::Client,
        action: &str,
        scope: &Scope,
        challenges: &[String],
    ) -> Result<Option<HeaderValue>, PortError> {
        self.source.forget();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).tokens.remove(scope);
        let challenge = challenges.iter().find_map(|text| Challenge::parse(text));
        let basic = self.known.lock().unwrap_or_else(PoisonError::into_inner).basic;
        match challenge {
            // ECR refuses an expired login without a challenge.
            None if basic => self.basic(action).await,
            Some(Challenge::Bearer(server)) => {
                let token = self.token(http, action, scope, &server).await?;
                let header = token.header.clone();
                self.known.lock().unwrap_or_else(PoisonError::into_inner).tokens.insert(scope.clone(), token);
                Ok(Some(header))
            }
            Some(Challenge::Basic) => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).basic = true;
                self.basic(action).await
            }
            None => Ok(None),
        }
    }

    /// Who logs in, for people.
    pub(super) async fn who(&self, action: &str) -> Result<String, PortError> {
        Ok(self
            .source
            .login(action)
            .await?
            .map_or_else(|| "no login".to_owned(), |login| format!("login {}", login.username)))
    }

    async fn basic(&self, action: &str) -> Result<Option<HeaderValue>, PortError> {
        self.source.login(action).await?.map(|login| secret_header(action, &login.basic())).transpose()
    }

    async fn token(
        &self,
        http: &reqwest::Client,
        action: &str,
        scope: &Scope,
        server: &TokenServer,
    ) -> Result<Token, PortError> {
        let action = format!("{action}: asking the token server");
        let invalid = |message: &str| PortError::new(ErrorKind::Invalid, &action, message);
        let mut url = reqwest::Url::parse(&server.realm)
            .map_err(|_| invalid("the registry names a token server whose address is not a URL"))?;
        if url.scheme() != "https" && !self.plain_http {
            return Err(invalid("the registry names a token server without TLS; only plain_http = true allows that"));
        }
        for scope in &scope.0 {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        if let Some(service) = &server.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let asked = Instant::now();
        let mut request = http.get(url);
        if let Some(header) = self.basic(&action).await? {
            request = request.header(AUTHORIZATION, header);
        }
        let response = request.send().await.map_err(|error| no_answer(&action, error))?;
        let answer = Answer::read(&action, response).await?.accepted(&action)?;
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| PortError::new(ErrorKind::Corrupt, &action, "the answer is not JSON with a token in it"))?;
        let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| PortError::new(ErrorKind::Corrupt, &action, "the answer holds no token"))?;
        Ok(Token {
            header: secret_header(&action, &format!("Bearer {token}"))?,
            good_until: asked + useful_life(granted.expires_in),
        })
    }
}

/// How long to use a token that holds for so many seconds.
fn useful_life(expires_in: Option<u64>) -> Duration {
    let life = Duration::from_secs(expires_in.unwrap_or(DEFAULT_TOKEN_SECS));
    (life * 3 / 4).max(life.saturating_sub(TOKEN_MARGIN))
}

fn secret_header(action: &str, value: &str) -> Result<HeaderValue, PortError> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| PortError::new(ErrorKind::Denied, action, "the login holds characters that HTTP cannot carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(TokenServer),
}

#[derive(Debug, PartialEq, Eq)]
struct TokenServer {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// The first challenge that can be met; tokens before passwords.
    fn parse(text: &str) -> Option<Self> {
        let challenges = http_auth::parse_challenges(text).ok()?;
        let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
        if let Some(bearer) = bearer {
            let param = |name: &str| {
                bearer
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            return Some(Self::Bearer(TokenServer { realm: param("realm")?, service: param("service") }));
        }
        challenges.iter().any(|challenge| challenge.scheme.eq_ignore_ascii_case("basic")).then_some(Self::Basic)
    }
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::cloud) struct Login {
    pub(in crate::cloud) username: String,
    pub(in crate::cloud) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"***").finish()
    }
}

impl Login {
    /// From `base64(user:password)`, as Docker's configuration and ECR write it.
    pub(in crate::cloud) fn from_base64(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
    }

    /// The value of an `Authorization` header of the scheme Basic.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

/// Where a login comes from. It is asked for each time one is needed, so that
/// logins may change and expire.
#[async_trait]
pub(in crate::cloud) trait LoginSource: Send + Sync + fmt::Debug {
    /// The login; `None` where nobody logs in.
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError>;
    /// The registry refused the last one: do not answer it from memory again.
    fn forget(&self);
}

/// What the configuration names.
#[derive(Debug)]
pub(super) enum ConfiguredLogin {
    Anonymous,
    /// A user and where its password is kept.
    User {
        username: String,
        password: Secret,
    },
    /// The entry of `host` in a `config.json` of Docker.
    DockerConfig {
        path: PathBuf,
        host: String,
    },
}

#[async_trait]
impl LoginSource for ConfiguredLogin {
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::User { username, password } => {
                Ok(Some(Login { username: username.clone(), password: password.reveal(action)? }))
            }
            Self::DockerConfig { path, host } => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|error| PortError::io(format!("{action}: reading {}", path.display()), error))?;
                login_of(&text, host).map(Some).map_err(|fault| unusable(action, path, &fault))
            }
        }
    }

    fn forget(&self) {}
}

fn unusable(action: &str, path: &Path, fault: &str) -> PortError {
    PortError::new(ErrorKind::Denied, action, format!("{} {fault}", path.display()))
}

/// The part of Docker's `config.json` that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
    #[serde(default)]
    cred_helpers: HashMap<String, serde::de::IgnoredAny>,
    creds_store: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The login of `host`. The fault never quotes the file: it is full of passwords.
fn login_of(text: &str, host: &str) -> Result<Login, String> {
    let config: DockerConfig = serde_json::from_str(text)
        .map_err(|error| format!("is not a Docker configuration (line {}, column {})", error.line(), error.column()))?;
    let named = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next() == Some(host)
    };
    let Some((_, entry)) = config.auths.iter().find(|(key, _)| named(key)) else {
        let helped = config.cred_helpers.contains_key(host) || config.creds_store.is_some();
        let hint = if helped { "; credential helpers are not asked" } else { "" };
        return Err(format!("holds no login for {host} under `auths`{hint}; run `docker login {host}`"));
    };
    if !entry.identitytoken.is_empty() {
        return Err(format!("holds an identity token for {host}; expected user name and password in `auth`"));
    }
    Login::from_base64(&entry.auth)
        .ok_or_else(|| format!("holds for {host} an `auth` that is not base64 of user:password (or a helper keeps it)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whatever_their_spelling() {
        let server = |service: Option<&str>| {
            let realm = "https://auth.example.com/token".to_owned();
            Some(Challenge::Bearer(TokenServer { realm, service: service.map(str::to_owned) }))
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.example.com/token",service="r",scope="repository:a:pull,push""#,
                server(Some("r")),
            ),
            (r#"bearer Realm="https://auth.example.com/token""#, server(None)),
            (r#"Basic realm="x", Bearer realm="https://auth.example.com/token""#, server(None)),
            (r#"Basic realm="basic-realm""#, Some(Challenge::Basic)),
            (r#"Bearer service="no realm""#, None),
            (r#"Negotiate abc="#, None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_token_is_replaced_before_it_ends() {
        for (expires_in, useful_secs) in [(None, 45.0), (Some(300), 270.0), (Some(4), 3.0), (Some(0), 0.0)] {
            assert_eq!(useful_life(expires_in).as_secs_f64(), useful_secs, "{expires_in:?}");
        }
    }
}

#[cfg(test)]
mod login_tests {
    use super::*;

    #[test]
    fn docker_writes_a_registrys_key_in_several_ways() {
        for key in
            ["registry.example.com:5000", "https://registry.example.com:5000", "http://registry.example.com:5000/v2/"]
        {
            let text = serde_json::json!({"auths": {key: {"auth": STANDARD.encode("ci:s3:cret")}}}).to_string();
            let login = login_of(&text, "registry.example.com:5000").unwrap();
            assert_eq!((login.username.as_str(), login.password.as_str()), ("ci", "s3:cret"), "{key}");
            assert!(!format!("{login:?}").contains("s3:cret"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_quoting_the_file() {
        let token = r#"{"auths":{"a":{"auth":"","identitytoken":"s3cret"}}}"#;
        let helper = r#"{"auths":{"b":{"auth":"czNjcmV0"}},"credHelpers":{"a":"ecr-login"}}"#;
        for (text, part) in [
            ("{\"auths\": s3cret", "is not a Docker configuration"),
            (token, "identity token"),
            (helper, "credential helpers are not asked"),
            (r#"{"auths":{"a":{"auth":"czNjcmV0"}}}"#, "not base64 of user:password"),
        ] {
            let fault = login_of(text, "a").unwrap_err();
            assert!(fault.contains(part) && !fault.contains("s3cret") && !fault.contains("czNjcmV0"), "{fault}");
        }
    }
}
