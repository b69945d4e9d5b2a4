//! Builds images by a Docker Engine, for those whose rules say that only it may.
//!
//! The engine is sent a context that `packaging::docker` writes, and its
//! image is fetched back as an OCI layout, so that there is one way to push
//! whoever built. It is not asked to push, to run anything, or to talk to a
//! registry: `FROM scratch` needs none. Built images stay in it under their tag.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion, RemoveImageOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker, body_try_stream};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::packaging::docker::{self, DockerContext};
use crate::packaging::{self, ImageBuilder, PackageRequest, PackagedImage, PackagingError};
use delayd_core::blocking;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;

/// Where the engine listens unless something else is said (dockerd's default).
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";
/// A question that is not a build is answered within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 256 * 1024;
/// The newest lines of a failed build that go into its error.
const SHOWN_LINES: usize = 10;

/// `[packaging.docker]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerEngineSettings {
    /// `unix://<socket>`, or `tcp://host:port` without TLS, which is for an engine
    /// in the same pod; `DOCKER_HOST`, or the system's socket, when empty.
    pub host: String,
    /// Seconds that a build may take, sending and fetching included.
    pub timeout_secs: u64,
}

impl Default for DockerEngineSettings {
    fn default() -> Self {
        Self { host: String::new(), timeout_secs: 600 }
    }
}

impl DockerEngineSettings {
    /// Every value that cannot be.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let known = self.host.is_empty() || self.host.starts_with("unix:///") || self.host.starts_with("tcp://");
        if !known {
            faults.push(format!("host: unix:///path/of/the.sock or tcp://host:port; found `{}`", self.host));
        }
        if !(1..=6 * 3600).contains(&self.timeout_secs) {
            faults.push(format!("timeout_secs: 1 to 21600 seconds; found {}", self.timeout_secs));
        }
        faults
    }

    fn host(&self) -> String {
        let configured = Some(self.host.clone()).filter(|host| !host.is_empty());
        let from_environment = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        configured.or_else(from_environment).unwrap_or_else(|| DEFAULT_SOCKET.to_owned())
    }
}

/// A Docker Engine as image builder.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    host: String,
    timeout: Duration,
}

impl DockerEngine {
    /// The engine that the settings name. It is connected when it is used.
    #[must_use]
    pub fn new(settings: &DockerEngineSettings) -> Self {
        Self { host: settings.host(), timeout: Duration::from_secs(settings.timeout_secs) }
    }

    fn failed(&self, action: &str, error: &bollard::errors::Error) -> PortError {
        port_error(action, &self.host, error)
    }

    /// A connection that speaks a version of the API that the engine knows.
    async fn connect(&self, action: &str) -> Result<Docker, PortError> {
        let failed = |error| self.failed(action, &error);
        let seconds = self.timeout.as_secs();
        let docker = if self.host.starts_with("unix://") {
            Docker::connect_with_unix(&self.host, seconds, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_http(&self.host, seconds, API_DEFAULT_VERSION)
        };
        let docker = docker.map_err(failed)?;
        tokio::time::timeout(ANSWER_LIMIT, docker.negotiate_version())
            .await
            .map_err(|_| self.late(action, ANSWER_LIMIT))?
            .map_err(failed)
    }

    fn late(&self, action: &str, limit: Duration) -> PortError {
        let advice = if limit == self.timeout { "; packaging.docker.timeout_secs allows more" } else { "" };
        let message = format!("the Docker Engine at {} did not finish within {} s{advice}", self.host, limit.as_secs());
        PortError::new(ErrorKind::Timeout, action, message)
    }

    async fn built(&self, request: &PackageRequest, action: &str) -> Result<PackagedImage, PortError> {
        let context_dir = packaging::beside(&request.layout_dir, "context");
        let archive = packaging::beside(&request.layout_dir, "exported.tar");
        let building = self.build_in(request, action, &context_dir, &archive);
        let built = tokio::time::timeout(self.timeout, building).await;
        let outcome = built.unwrap_or_else(|_| Err(self.late(action, self.timeout)));
        let cleared = blocking(action, move || {
            packaging::remove_folder(&context_dir)?;
            match std::fs::remove_file(&archive) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(PackagingError::io("removing", &archive)(error))
                }
                _ => Ok(()),
            }
        });
        // What went wrong first is what is told.
        let cleared = cleared.await;
        let image = outcome?;
        cleared.map(|()| image)
    }

    async fn build_in(
        &self,
        request: &PackageRequest,
        action: &str,
        context_dir: &Path,
        archive: &Path,
    ) -> Result<PackagedImage, PortError> {
        let docker = self.connect(action).await?;
        let (wanted, folder) = (request.clone(), context_dir.to_owned());
        let context = blocking(action, move || docker::write_context(&wanted, &folder)).await?;
        let name = format!("{}:{}", request.repository, request.model);
        self.send(&docker, action, &name, &context).await?;
        self.fetch(&docker, action, &name, archive).await?;
        let (wanted, archive) = (request.clone(), archive.to_owned());
        blocking(action, move || docker::read_archive(&archive, &wanted)).await
    }

    /// Sends the context, and reads the build's output to its end.
    async fn send(&self, docker: &Docker, action: &str, name: &str, context: &DockerContext) -> Result<(), PortError> {
        let labels: HashMap<String, String> = context.labels.clone().into_iter().collect();
        // The classic builder: BuildKit wants a session of its own, and has nothing to gain here.
        let options = BuildImageOptionsBuilder::new().t(name).rm(true).forcerm(true).labels(&labels);
        let options = options.version(BuilderVersion::BuilderV1).build();
        let file = File::open(&context.archive)
            .await
            .map_err(|error| PortError::io(format!("{action}: opening {}", context.archive.display()), error))?;
        let mut output = Box::pin(docker.build_image(options, None, Some(body_try_stream(chunks(file)))));
        let mut lines: Vec<String> = Vec::new();
        while let Some(news) = output.next().await {
            match news {
                Ok(news) => {
                    let text = news.stream.or(news.status).unwrap_or_default();
                    lines.extend(text.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()));
                }
                Err(error) => {
                    let (kind, mut text) = told(&self.host, &error);
                    if !lines.is_empty() {
                        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
                        text.push_str(&format!("; before that:\n{last}"));
                    }
                    return Err(PortError::new(kind, action, text));
                }
            }
        }
        tracing::debug!(image.tag = name, "the Docker Engine built it");
        Ok(())
    }

    /// Fetches the image as `docker save` does.
    async fn fetch(&self, docker: &Docker, action: &str, name: &str, archive: &Path) -> Result<(), PortError> {
        let io = |error| PortError::io(format!("{action}: writing {}", archive.display()), error);
        let mut file = File::create(archive).await.map_err(io)?;
        let mut content = Box::pin(docker.export_image(name));
        while let Some(bytes) = content.next().await {
            let bytes = bytes.map_err(|error| self.failed(action, &error))?;
            file.write_all(&bytes).await.map_err(io)?;
        }
        file.sync_all().await.map_err(io)
    }
}

#[async_trait]
impl ImageBuilder for DockerEngine {
    async fn build(&self, request: &PackageRequest) -> Result<PackagedImage, PortError> {
        let action = format!("building {}:{} by Docker", request.repository, request.model);
        self.built(request, &action).await
    }

    async fn discard(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let action = format!("removing {repository}:{tag} from Docker");
        let docker = self.connect(&action).await?;
        let options = RemoveImageOptionsBuilder::new().build();
        let name = format!("{repository}:{tag}");
        let removed = docker.remove_image(&name, Some(options), None);
        match tokio::time::timeout(ANSWER_LIMIT, removed).await.map_err(|_| self.late(&action, ANSWER_LIMIT))? {
            Ok(_) => Ok(()),
            Err(error) => match self.failed(&action, &error) {
                gone if gone.kind() == ErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn probe(&self) -> Result<String, PortError> {
        let action = "asking the Docker Engine";
        let docker = self.connect(action).await?;
        let version = tokio::time::timeout(ANSWER_LIMIT, docker.version())
            .await
            .map_err(|_| self.late(action, ANSWER_LIMIT))?
            .map_err(|error| self.failed(action, &error))?;
        Ok(format!("Docker Engine {} at {}", version.version.unwrap_or_default(), self.host))
    }
}

fn chunks(file: File) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    futures::stream::try_unfold(file, |mut file| async move {
        let mut chunk = vec![0_u8; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(chunk), file)))
    })
}

pub(super) fn port_error(action: &str, host: &str, error: &Error) -> PortError {
    let (kind, text) = told(host, error);
    PortError::new(kind, action, text)
}

/// The kind, what the engine said, and what to do.
pub(super) fn told(host: &str, error: &Error) -> (ErrorKind, String) {
    let text = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        error => chain(error),
    };
    let kind = kind(error, &text);
    let advice = match kind {
        ErrorKind::Unavailable => {
            format!("; is the Docker Engine at {host} running? packaging.docker.host names another")
        }
        ErrorKind::Denied => {
            format!("; the daemon's user may not use {host}: add it to the socket's group, usually `docker`")
        }
        ErrorKind::Exhausted => {
            format!("; the engine at {host} has no room left: `docker system prune`, or a larger disk")
        }
        ErrorKind::Timeout => {
            format!("; the engine at {host} took too long: packaging.docker.timeout_secs allows more")
        }
        _ => String::new(),
    };
    (kind, format!("{text}{advice}"))
}

fn kind(error: &Error, text: &str) -> ErrorKind {
    if text.contains("no space left on device") || text.contains("disk quota exceeded") {
        return ErrorKind::Exhausted;
    }
    match error {
        // The engine answers 500 for what is wrong with a build and for what is wrong with itself.
        Error::DockerResponseServerError { status_code: 500, .. } => ErrorKind::Invalid,
        Error::DockerResponseServerError { status_code, .. } => kind_of_status(*status_code),
        Error::DockerStreamError { .. } | Error::UnsupportedURISchemeError { .. } => ErrorKind::Invalid,
        Error::RequestTimeoutError => ErrorKind::Timeout,
        Error::SocketNotFoundError(_) => ErrorKind::Unavailable,
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } | Error::APIVersionParseError {} => {
            ErrorKind::Invalid
        }
        error => io_kind(error).unwrap_or(ErrorKind::Unavailable),
    }
}

/// The kind of the system's error somewhere below. All else between us and the
/// engine is a connection that broke.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    // This one shows its cause's cause as its own.
    let mut cause: Option<&(dyn StdError + 'static)> = match error {
        Error::IOError { err } => Some(err),
        error => Some(error),
    };
    while let Some(present) = cause {
        if let Some(error) = present.downcast_ref::<io::Error>() {
            return match ErrorKind::of_io(error) {
                kind @ (ErrorKind::Denied | ErrorKind::Exhausted | ErrorKind::Timeout) => Some(kind),
                _ => None,
            };
        }
        cause = present.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_socket_or_a_plain_address() {
        for (host, valid) in [
            ("", true),
            ("unix:///run/docker.sock", true),
            ("tcp://127.0.0.1:2375", true),
            ("/run/docker.sock", false),
            ("ssh://ann@host", false),
        ] {
            let settings = DockerEngineSettings { host: host.to_owned(), ..DockerEngineSettings::default() };
            assert_eq!(settings.faults().is_empty(), valid, "{host}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let host = format!("unix://{}/none.sock", folder.path().display());
        let engine = DockerEngine::new(&DockerEngineSettings { host: host.clone(), timeout_secs: 5 });
        let error = engine.probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let text = error.to_string();
        assert!(text.contains(&host) && text.contains("packaging.docker.host"), "{text}");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_an_outage() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let host = format!("unix://{}", socket.display());
        let engine = DockerEngine::new(&DockerEngineSettings { host, timeout_secs: 5 });
        let error = engine.probe().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("dead.sock"), "{error}");
    }
}

#[cfg(test)]
mod errors_tests {
    use super::*;

    #[test]
    fn what_the_engine_answers_decides_whether_to_try_again() {
        let answered =
            |status_code, message: &str| Error::DockerResponseServerError { status_code, message: message.to_owned() };
        let streamed = |error: &str| Error::DockerStreamError { error: error.to_owned() };
        for (error, kind) in [
            (answered(404, "no such image"), ErrorKind::NotFound),
            (answered(409, "in use"), ErrorKind::Conflict),
            (answered(500, "dockerfile parse error"), ErrorKind::Invalid),
            (answered(500, "write /x: no space left on device"), ErrorKind::Exhausted),
            (answered(503, "shutting down"), ErrorKind::Unavailable),
            (streamed("ADD failed: file not found"), ErrorKind::Invalid),
            (streamed("write: no space left on device"), ErrorKind::Exhausted),
            (Error::RequestTimeoutError, ErrorKind::Timeout),
            (Error::from(io::Error::from(io::ErrorKind::PermissionDenied)), ErrorKind::Denied),
            (Error::from(io::Error::from(io::ErrorKind::ConnectionReset)), ErrorKind::Unavailable),
        ] {
            let text = error.to_string();
            assert_eq!(port_error("building", "unix:///x.sock", &error).kind(), kind, "{text}");
        }
    }
}
