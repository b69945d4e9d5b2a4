//! A client of the daemon's endpoint: over its local socket, or at an address with a token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{ConnectArgs, ReasonArgs};
use super::commands::CliError;
use super::show::Shown;
use crate::config::Settings;
use crate::cycle::commands::{CommandAnswered, CommandKind};
use crate::http::{CommandBody, Listed};
use delayd_core::error::chain;
use delayd_core::secret::Secret;
use delayd_ledger::Page;

/// A command may take this long: a rollback replaces every replica.
const COMMAND_LIMIT: Duration = Duration::from_secs(330);
/// Whoever asks after the daemon's health does not wait for an answer.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);
/// Looking must not take long.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// A client of the daemon's endpoint.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    http: reqwest::Client,
    base: String,
    /// Where the daemon is, for people.
    place: String,
    token: Option<String>,
}

impl Remote {
    /// The daemon that `--url` names, or this machine's own: by its socket where there is one.
    pub(super) fn new(settings: &Settings, connect: &ConnectArgs) -> Result<Self, CliError> {
        if let Some(url) = &connect.url {
            return Self::at(checked_url(url)?, connect);
        }
        if let Some(path) = settings.http.socket_path(&settings.daemon.state_dir) {
            match path.try_exists() {
                Ok(true) => return Self::on_socket(&path),
                // At the address another state directory's daemon may answer: it must not get this one's commands.
                Ok(false) => {
                    return Err(CliError::NoDaemon(format!(
                        "no daemon answers: there is no socket {}; start one with `delayd run`, name its state directory \
                         with --state, or its address with --url",
                        path.display()
                    )));
                }
                // Somebody without rights to the directory may still look, by the address.
                Err(_) => {}
            }
        }
        let scheme = if settings.http.tls() { "https" } else { "http" };
        Self::at(format!("{scheme}://{}", settings.http.listen), connect)
    }

    fn at(base: String, connect: &ConnectArgs) -> Result<Self, CliError> {
        let mut builder = delayd_core::http_client::client_builder().no_proxy();
        if let Some(path) = &connect.ca_file {
            builder = builder.tls_certs_merge(authorities(path)?);
        }
        let token = token_of(connect)?;
        Ok(Self { http: built(builder)?, place: base.clone(), base, token })
    }

    /// The daemon that this process is, whatever its certificate says of whom it is for. No token is sent.
    pub(super) fn of_this_process(base: String) -> Result<Self, CliError> {
        let builder = delayd_core::http_client::client_builder().no_proxy().tls_danger_accept_invalid_certs(true);
        Ok(Self { http: built(builder)?, place: base.clone(), base, token: None })
    }

    /// The daemon at a local socket.
    pub(super) fn on_socket(path: &Path) -> Result<Self, CliError> {
        let builder = delayd_core::http_client::client_builder().no_proxy().unix_socket(path);
        let place = path.display().to_string();
        Ok(Self { http: built(builder)?, base: "http://localhost".to_owned(), place, token: None })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        CliError::NoDaemon(format!(
            "no daemon answers at {} ({}); start one with `delayd run`, or name another address with --url",
            self.place,
            chain(error)
        ))
    }

    /// Asks for a command.
    pub(super) async fn command(&self, kind: CommandKind, reason: &ReasonArgs) -> Result<CommandAnswered, CliError> {
        let body = CommandBody { by: reason.by.clone(), why: reason.why.clone() };
        self.ask(Method::POST, &kind.to_string(), &body).await
    }

    /// Asks for something below `/api/v1/`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = self.request(method, path).timeout(COMMAND_LIMIT).json(body);
        self.answer(request, path).await
    }

    /// Looks at something below `/api/v1/`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.answer(self.request(Method::GET, path).timeout(LOOK_LIMIT), path).await
    }

    /// A part of a list.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str, page: Page) -> Result<Vec<T>, CliError> {
        let listed: Listed<T> =
            self.get(&format!("{path}?limit={}&offset={}", page.limit.clamp(1, 1000), page.offset)).await?;
        Ok(listed.items)
    }

    /// A text below `/api/v1/`.
    pub(super) async fn text(&self, path: &str) -> Result<String, CliError> {
        self.text_of(self.request(Method::GET, path).timeout(LOOK_LIMIT)).await
    }

    /// A stream below `/api/v1/`; it ends when the daemon does.
    pub(super) async fn stream(&self, path: &str) -> Result<reqwest::Response, CliError> {
        let response = self.request(Method::GET, path).send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Err(refusal(status, &text))
    }

    /// Says that the daemon is alive and ready, or what it is instead.
    pub(super) async fn health(&self) -> Result<Shown, CliError> {
        for path in ["healthz", "readyz"] {
            let request = self.http.get(format!("{}/{path}", self.base)).timeout(HEALTH_LIMIT);
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            if !status.is_success() {
                let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
                let place = &self.place;
                return Err(CliError::NoDaemon(format!("the daemon at {place} answers {path} with {status}: {text}")));
            }
        }
        Shown::new(&serde_json::json!({ "alive": true, "ready": true }), "the daemon is alive and ready".to_owned())
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1/{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn text_of(&self, request: reqwest::RequestBuilder) -> Result<String, CliError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() { Ok(text) } else { Err(refusal(status, &text)) }
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder, path: &str) -> Result<T, CliError> {
        let text = self.text_of(request).await?;
        serde_json::from_str(&text).map_err(|error| {
            let place = &self.place;
            CliError::Failed(format!("{place} answered `{path}` in another form; is it another version? ({error})"))
        })
    }
}

fn refusal(status: StatusCode, text: &str) -> CliError {
    let problem: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let detail = problem.get("detail").and_then(|detail| detail.as_str()).unwrap_or(text).to_owned();
    match status {
        StatusCode::NOT_FOUND => CliError::NotFound(detail),
        StatusCode::UNAUTHORIZED => CliError::Denied(format!("{detail}; give one by --token-file or DELAYD_TOKEN")),
        StatusCode::FORBIDDEN => CliError::Denied(detail),
        _ => CliError::Refused(detail),
    }
}

/// The base URL without a slash at its end, where it is one.
fn checked_url(url: &str) -> Result<String, CliError> {
    let fits = reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if fits {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    Err(CliError::Usage(format!("--url {url}: expected the daemon's address, such as https://delayd.example:7070")))
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, CliError> {
    builder.build().map_err(|error| CliError::Failed(format!("HTTP client: {}", chain(&error))))
}

fn authorities(path: &PathBuf) -> Result<Vec<reqwest::Certificate>, CliError> {
    let wrong = |problem: String| CliError::Usage(format!("--ca-file {}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| wrong(format!("{}; expected certificates in PEM", chain(&error))))?;
    if found.is_empty() { Err(wrong("no certificate in it; expected PEM".to_owned())) } else { Ok(found) }
}

fn token_of(connect: &ConnectArgs) -> Result<Option<String>, CliError> {
    if let Some(path) = &connect.token_file {
        let secret = Secret::new(format!("file:{}", path.display()));
        return secret.reveal("--token-file").map(Some).map_err(|error| CliError::Usage(chain(&error)));
    }
    Ok(std::env::var("DELAYD_TOKEN").ok().filter(|token| !token.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_url_is_a_wrong_argument() {
        for url in ["notaurl", "ftp://delayd.example", "delayd.example:7070", "http://"] {
            let error = checked_url(url).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains("--url"), "{url}: {error}");
        }
        assert_eq!(checked_url("http://127.0.0.1:7070/").unwrap(), "http://127.0.0.1:7070");
    }
}
