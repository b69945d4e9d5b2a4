//! The HTTP server and what its handlers share.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use delayd_http_limits::{Connections, Guard, Limits, http_service, plain, raise_open_file_limit, receive_in_time};
use tokio_rustls::TlsAcceptor;

use super::access::{Access, guard};
use super::api::Streams;
use super::listeners::Listeners;
use super::{api, error, health, metrics, page};
use crate::config::Settings;
use crate::cycle::coordinator::CoordinatorStage;
use crate::env::Env;
use crate::supervision::{StageRef, Supervision};

/// Idle clients keep their connection for so long.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Connections to the local socket: whatever the network does, operators of this machine are answered.
const LOCAL_CONNECTIONS: usize = 128;

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    /// Clock, ledger and ports.
    pub env: Env,
    /// The configuration in force.
    pub settings: Arc<Settings>,
    /// Whom commands go to.
    pub coordinator: StageRef<CoordinatorStage>,
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
    // The other half of the descriptors is for the ledger, the store and requests of the daemon's own.
    let network = Connections::new(state.settings.http.limits().within(raise_open_file_limit() / 2));
    let one_user =
        Limits { connections_per_client: LOCAL_CONNECTIONS, connections: LOCAL_CONNECTIONS, ..*network.limits() };
    let local = Connections::new(one_user);
    state.metrics.watch_connections(network.clone(), local.clone());
    let service_health = web::Data::new(health::ServiceHealth::default());
    let app = move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .configure(error::refusals)
            .app_data(web::Data::new(state.metrics.clone()))
            .app_data(service_health.clone())
            .configure(health::routes)
            .configure(metrics::routes)
            .configure(api::routes)
            .configure(page::routes)
            .default_service(web::to(error::nothing_here))
            .wrap(from_fn(guard))
            // Around the guard: what it refuses is counted too, and is a whole request as well.
            .wrap(from_fn(metrics::count_requests))
            .wrap(from_fn(receive_in_time))
    };
    let server = Server::build()
        .workers(1)
        .disable_signals()
        // More than are ever admitted: a worker that is full would not even refuse.
        .max_concurrent_connections(2 * network.limits().connections);
    let limits = Guard::new(network, KEEP_ALIVE, &server);
    let local_limits = Guard::new(local, KEEP_ALIVE, &server);
    let tcp = listeners.tcp.try_clone()?;
    let network_app = app.clone();
    let server = match tls {
        Some(tls) => {
            let mut config = tls.config;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            server.listen("https", tcp, move || {
                let acceptor = acceptor.clone();
                http_service(&limits, false, move |stream| acceptor.accept(stream), network_app())
            })?
        }
        None => server.listen("http", tcp, move || http_service(&limits, true, plain, network_app()))?,
    };
    let server = match &listeners.local {
        Some(socket) => server.listen_uds("local", socket.listener.try_clone()?, move || {
            http_service(&local_limits, true, plain, app())
        })?,
        None => server,
    };
    Ok(server.run())
}
