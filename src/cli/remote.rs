//! Commands that a running daemon carries out.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::ReasonArgs;
use super::commands::CliError;
use crate::config::Settings;
use crate::coordinator::messages::{CommandAnswered, CommandKind};
use crate::http::CommandBody;

/// A client of the daemon's endpoint.
pub(super) struct Remote {
    http: reqwest::Client,
    base: String,
}

impl Remote {
    pub(super) fn new(settings: &Settings, url: Option<&str>) -> Result<Self, CliError> {
        let http = crate::http_client::client_builder().timeout(Duration::from_secs(330)).no_proxy().build();
        let http = http.map_err(|error| CliError::Failed(format!("HTTP client: {error}")))?;
        let base = url.map_or_else(
            || format!("http://{}", settings.daemon.http_listen),
            |url| url.trim_end_matches('/').to_owned(),
        );
        Ok(Self { http, base })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        CliError::NoDaemon(format!(
            "no daemon answers at {} ({error}); start one with `delayd run`, or name another address with --url",
            self.base
        ))
    }

    /// Asks for a command.
    pub(super) async fn command(&self, kind: CommandKind, reason: &ReasonArgs) -> Result<CommandAnswered, CliError> {
        let body = CommandBody { by: reason.by.clone(), why: reason.why.clone() };
        self.ask(reqwest::Method::POST, &kind.to_string(), &body).await
    }

    /// Asks for something below `/api/v1/`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let url = format!("{}/api/v1/{path}", self.base);
        let request = self.http.request(method, &url).json(body);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|error| CliError::Failed(format!("{url} answered something else: {error}")));
        }
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let detail = problem.get("detail").and_then(|detail| detail.as_str()).unwrap_or(&text).to_owned();
        Err(if status == reqwest::StatusCode::NOT_FOUND {
            CliError::NotFound(detail)
        } else {
            CliError::Refused(detail)
        })
    }

    /// The daemon's status, if one answers.
    pub(super) async fn status(&self) -> Option<serde_json::Value> {
        let request = self.http.get(format!("{}/api/v1/status", self.base)).timeout(Duration::from_secs(3));
        request.send().await.ok()?.json().await.ok()
    }
}
