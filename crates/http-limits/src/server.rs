//! A listener's service: from an accepted connection to an HTTP application.
//!
//! It stands in the place of actix-web's `HttpServer`, which cannot refuse a connection,
//! gives no deadline to the second head on a connection, nor to a body or an answer, and
//! stops accepting anything while 256 clients are slow to finish a TLS handshake.

use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_server::{GracefulShutdownSignal, ServerBuilder};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::connections::{Client, Connections};
use crate::limits::Limits;
use crate::progress::RequestProgress;
use crate::stream::LimitedStream;

/// A client that was answered without having sent its whole request gets so long to read
/// the answer before the connection is closed.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// What the listeners of a server have in common.
#[derive(Debug, Clone)]
pub struct Guard {
    connections: Connections,
    keep_alive: Duration,
    shutdown: GracefulShutdownSignal,
}

impl Guard {
    /// Limits for the listeners of the server that `builder` makes; a client may keep an idle
    /// connection for `keep_alive`.
    pub fn new(connections: Connections, keep_alive: Duration, builder: &ServerBuilder) -> Self {
        Self { connections, keep_alive, shutdown: builder.graceful_shutdown_signal() }
    }
}

/// What connections are accepted as.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + 'static {
    fn client(&self) -> Client;
    /// The other end's address, where it has one.
    fn address(&self) -> Option<SocketAddr>;
    /// Sets the socket up, as far as the system lets us.
    fn prepare(&self, limits: &Limits);
}

impl Socket for TcpStream {
    fn client(&self) -> Client {
        self.peer_addr().map_or(Client::Unknown, |address| Client::at(address.ip()))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }

    fn prepare(&self, limits: &Limits) {
        // What the kernel took from us and cannot deliver holds the connection as well.
        let user_timeout = SockRef::from(self).set_tcp_user_timeout(Some(limits.answer_deadline));
        if let Err(error) = self.set_nodelay(true).and(user_timeout) {
            tracing::debug!(error = &error as &dyn std::error::Error, "a connection keeps the system's defaults");
        }
    }
}

impl Socket for UnixStream {
    fn client(&self) -> Client {
        match self.peer_cred() {
            Ok(credentials) => Client::User(credentials.uid()),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the user at a local socket cannot be identified"
                );
                Client::Unknown
            }
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }

    fn prepare(&self, _: &Limits) {}
}

/// For [`http_service`]: HTTP without TLS.
pub fn plain<Io>(stream: LimitedStream<Io>) -> Ready<io::Result<LimitedStream<Io>>> {
    ready(Ok(stream))
}

/// Serves `app` to the connections of one listener, within the limits. `over` makes HTTP's
/// stream of an accepted one: [`plain`], or a TLS handshake, whose time is part of the first
/// request's; `is_http` says whether HTTP can be written to the stream that it is given.
///
/// Handlers find the connection's [`Client`] with `HttpRequest::conn_data`.
pub fn http_service<Io, T, Over, Opening, App, S, B>(
    guard: &Guard,
    is_http: bool,
    over: Over,
    app: App,
) -> impl ServiceFactory<Io, Config = (), Response = (), Error = DispatchError, InitError = ()>
+ use<Io, T, Over, Opening, App, S, B>
where
    Io: Socket,
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    Over: Fn(LimitedStream<Io>) -> Opening + Clone + 'static,
    Opening: Future<Output = io::Result<T>> + 'static,
    App: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let shutdown = guard.shutdown.clone();
    let app = app.into_factory().map_err(|error| error.into().error_response());
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let shutdown = shutdown.clone();
            async move { shutdown.notified().await }
        })
        .keep_alive(guard.keep_alive)
        // The stream has the deadline of every head, not only of the first.
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(CLOSING_TIME)
        .on_connect_ext(|connection: &Connection<T>, noted| {
            noted.insert(Rc::clone(&connection.progress));
            noted.insert(connection.client);
        })
        .finish(map_config(app, |()| AppConfig::default()));
    let connections = guard.connections.clone();
    fn_service(move |io: Io| {
        let (connections, over) = (connections.clone(), over.clone());
        async move {
            let (client, address) = (io.client(), io.address());
            let refused = || DispatchError::Io(io::Error::new(io::ErrorKind::ConnectionRefused, "a limit is reached"));
            let slot = connections.admit(client).ok_or_else(refused)?;
            let limits = connections.limits();
            io.prepare(limits);
            let progress = Rc::new(RequestProgress::new(limits.request_deadline, Instant::now()));
            let io =
                over(LimitedStream::new(io, slot, Rc::clone(&progress), is_http)).await.map_err(DispatchError::Io)?;
            Ok::<_, DispatchError>((Connection { io, progress, client }, Protocol::Http1, address))
        }
    })
    .and_then(http)
}

/// HTTP's stream, and what handlers may know of it.
struct Connection<T> {
    io: T,
    progress: Rc<RequestProgress>,
    client: Client,
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
