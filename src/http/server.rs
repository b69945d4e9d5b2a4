//! The HTTP server and what its handlers share.

use std::net::TcpListener;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};

use super::{api, health, metrics};
use crate::coordinator::CoordinatorActor;
use crate::env::Env;
use crate::supervision::{ActorRef, Supervision};

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    /// Clock, ledger and ports.
    pub env: Env,
    /// Where the builds' logs are kept.
    pub state_dir: std::path::PathBuf,
    /// Whom commands go to.
    pub coordinator: ActorRef<CoordinatorActor>,
    /// What the actors do.
    pub supervision: Supervision,
    /// The metrics.
    pub metrics: metrics::Metrics,
}

/// Starts the server on a bound listener. It runs while the answer is polled.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(state: ApiState, listener: TcpListener) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .configure(health::routes)
            .configure(metrics::routes)
            .configure(api::routes)
    });
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}
