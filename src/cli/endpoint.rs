//! The status endpoint beside a daemon: of `delayd run`, and of a replay that is watched.

use std::sync::Arc;
use std::time::Duration;

use super::commands::CliError;
use super::remote::Remote;
use crate::daemon::Daemon;
use crate::http::{Access, ApiState, Listeners, Metrics, Streams, serve};

/// How long requests under way may take when the daemon stops.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The running endpoint.
pub(super) struct Endpoint {
    listeners: Listeners,
    streams: Streams,
    server: actix_web::dev::ServerHandle,
}

impl Endpoint {
    /// Serves a daemon on open listeners.
    pub(super) fn start(daemon: &Daemon, metrics: Metrics, mut listeners: Listeners) -> std::io::Result<Self> {
        let streams = Streams::default();
        let state = ApiState {
            env: daemon.env.clone(),
            settings: daemon.settings.clone(),
            coordinator: daemon.coordinator.clone(),
            supervision: daemon.supervision().clone(),
            metrics,
            access: Arc::new(Access::new(daemon.settings.http.clone())),
            streams: streams.clone(),
        };
        let server = serve(state, &mut listeners)?;
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Ok(Self { listeners, streams, server: handle })
    }

    /// A client that asks this very endpoint.
    pub(super) fn client(&self, daemon: &Daemon) -> Result<Remote, CliError> {
        match &self.listeners.local {
            Some(socket) => Remote::on_socket(socket.path()),
            None => Remote::of_this_process(self.url(daemon)),
        }
    }

    /// Where a browser reaches it.
    pub(super) fn url(&self, daemon: &Daemon) -> String {
        let http = &daemon.settings.http;
        let scheme = if http.tls() { "https" } else { "http" };
        let address = self.listeners.address().map_or_else(|_| http.listen.clone(), |address| address.to_string());
        format!("{scheme}://{address}")
    }

    /// Says where it is reached, and what is unsafe about that.
    pub(super) fn tell(&self, daemon: &Daemon) {
        let http = &daemon.settings.http;
        let socket = self.listeners.local.as_ref().map(|socket| socket.path().display().to_string());
        tracing::info!(
            http.url = self.url(daemon),
            http.socket = socket.unwrap_or_default(),
            service.url = daemon.env.cluster.service_url(),
            "delayd is up"
        );
        let beyond_this_machine = self.listeners.address().is_ok_and(|address| !address.ip().is_loopback());
        if beyond_this_machine && !http.tls() && !http.tokens.is_empty() {
            tracing::warn!("tokens travel in the clear: set http.tls_certificate, or let a proxy speak TLS");
        }
        if beyond_this_machine && http.tokens.is_empty() {
            tracing::warn!(
                "http.listen is reached from elsewhere, and http.tokens is empty: the API refuses all there"
            );
        }
    }

    /// Ends streams and waits a little for requests under way.
    pub(super) async fn stop(self) {
        self.streams.close();
        // What is not through by then is cut off with the process.
        let _ = tokio::time::timeout(END_LIMIT, self.server.stop(true)).await;
    }
}
