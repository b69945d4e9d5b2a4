//! The HTTP server and what its handlers share.

use std::any::Any;
use std::sync::Arc;

use actix_web::dev::{Extensions, Server};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};

use super::access::{Access, Peer, guard};
use super::api::Streams;
use super::listeners::Listeners;
use super::{api, error, health, metrics, page};
use crate::config::Settings;
use crate::coordinator::CoordinatorActor;
use crate::env::Env;
use crate::supervision::{ActorRef, Supervision};

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    /// Clock, ledger and ports.
    pub env: Env,
    /// The configuration in force.
    pub settings: Arc<Settings>,
    /// Whom commands go to.
    pub coordinator: ActorRef<CoordinatorActor>,
    /// What the actors do.
    pub supervision: Supervision,
    /// The metrics.
    pub metrics: metrics::Metrics,
    /// Who may ask.
    pub access: Arc<Access>,
    /// The open event streams.
    pub streams: Streams,
}

/// Starts the server on open listeners, which must outlive it. It runs while the
/// answer is polled.
///
/// # Errors
/// When a listener cannot be used.
pub fn serve(state: ApiState, listeners: &mut Listeners) -> std::io::Result<Server> {
    let tls = listeners.tls.take();
    if let Some(tls) = &tls {
        state.metrics.watch_certificate(tls.certificate.clone());
    }
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .configure(error::refusals)
            .app_data(web::Data::new(state.metrics.clone()))
            .configure(health::routes)
            .configure(metrics::routes)
            .configure(api::routes)
            .configure(page::routes)
            .default_service(web::to(error::nothing_here))
            .wrap(from_fn(guard))
            // Outermost: what the guard refuses is counted too.
            .wrap(from_fn(metrics::count_requests))
    })
    .workers(1)
    .disable_signals()
    .on_connect(note_peer);
    let tcp = listeners.tcp.try_clone()?;
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(tcp, tls.config)?,
        None => server.listen(tcp)?,
    };
    let server = match &listeners.local {
        Some(local) => server.listen_uds(local.listener.try_clone()?)?,
        None => server,
    };
    Ok(server.run())
}

/// Notes which user's process is at the other end of the local socket. Of other
/// connections actix knows the address itself.
fn note_peer(connection: &dyn Any, noted: &mut Extensions) {
    let Some(socket) = connection.downcast_ref::<tokio::net::UnixStream>() else { return };
    match socket.peer_cred() {
        Ok(credentials) => {
            noted.insert(Peer::Local { uid: credentials.uid() });
        }
        // Without a peer the guard refuses the request and says so.
        Err(error) => tracing::warn!(%error, "the user at the local socket cannot be told"),
    }
}
