//! A replica's life: load, listen, answer, and leave without losing anything.
//!
//! Replicas on one machine share a port by `SO_REUSEPORT`: the kernel deals new
//! connections out to their sockets, and resets those that wait in the queue of a
//! socket that is closed. So a leaving replica first stops taking *new* ones, by
//! a socket filter that drops SYN packets (the client sends another a second
//! later, which reaches another replica), continues accepting until every
//! handshake under way has ended, and only then closes the socket.

use std::fs::Permissions;
use std::future::Future;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle, Service as _};
use actix_web::middleware::from_fn;
use actix_web::rt::task::JoinHandle;
use actix_web::rt::time::sleep;
use actix_web::web::Data;
use actix_web::{App, rt};
use delayd_http_limits::{Guard, http_service, plain, raise_open_file_limit, receive_in_time};
use delayd_model::admin::ReplicaPhase;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::error::StartError;
use crate::http::{configure, track};
use crate::inference_protocol;
use crate::options::{Listen, Options};
use crate::replica::{LoadedModel, Replica, Worker};

/// How often the drain checks whether the last connection has closed.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// Requests still unanswered so long after the linger time are given up:
/// Kubernetes and the local cluster would kill the process soon after.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(20);
/// Idle clients keep their connection for this long; longer than the pools of
/// common clients, so that it is the client that closes it.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// As many as actix starts for one server.
const MOST_WORKERS: usize = 512;

#[derive(Debug)]
pub struct Service {
    replica: Arc<Replica>,
    listener: PublicListener,
    public: (ServerHandle, JoinHandle<io::Result<()>>),
    admin: (ServerHandle, JoinHandle<io::Result<()>>),
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    delay: Duration,
    linger: Duration,
}

/// Loads the bundle, listens, and writes the administrative address to its file.
/// Must be called on a Tokio runtime with local tasks (`actix_web::rt::System`).
pub async fn start(options: Options) -> Result<Service, StartError> {
    let begun = Instant::now();
    let model = LoadedModel::load(&options.bundle, &options.model_version)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let workers = options.workers.map_or(cores, usize::from);
    let name = options.replica.clone().unwrap_or_else(|| {
        let host = host_name().unwrap_or_else(|| "replica".to_owned());
        format!("{host}-{}", std::process::id())
    });
    let descriptors = raise_open_file_limit();
    let replica = Arc::new(Replica::new(name, model, workers + 1, descriptors, &options));

    let address = options.admin_listen;
    let refused = |source| StartError::Listen { address: address.to_string(), purpose: "administrative", source };
    let admin_socket = TcpListener::bind(address).map_err(refused)?;
    let admin_addr = admin_socket.local_addr().map_err(refused)?;
    let (listener, public_socket) = PublicListener::open(options.listen)?;
    let public_addr = public_socket.local_addr().map_err(StartError::Stopped)?;

    let admin = spawn(serve(&replica, admin_socket, 1, true).map_err(refused)?);
    let public = spawn(serve(&replica, public_socket, workers, false).map_err(StartError::Stopped)?);
    if let Some(path) = &options.admin_port_file {
        write_atomically(path, &format!("{admin_addr}\n"))
            .map_err(|source| StartError::AdminPortFile { path: path.clone(), source })?;
    }
    tracing::info!(
        replica = %replica.name,
        model.version = %replica.model.version,
        bundle.digest = %replica.model.bundle,
        public = %public_addr,
        admin = %admin_addr,
        workers,
        connections = replica.public_connections.limits().connections,
        connections_per_client = replica.public_connections.limits().connections_per_client,
        duration_ms = begun.elapsed().as_millis() as u64,
        "ready"
    );
    let (delay, linger) =
        (Duration::from_secs(options.drain_delay_secs), Duration::from_secs(options.drain_linger_secs));
    Ok(Service { replica, listener, public, admin, public_addr, admin_addr, delay, linger })
}

impl Service {
    /// Where clients send their flights.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where this replica alone answers, with every route.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Serves until `told_to_stop` ends, then leaves: finishes every request,
    /// waits until the last counts were collected or the linger time has passed.
    pub async fn run_until(mut self, told_to_stop: impl Future<Output = ()>) -> Result<(), StartError> {
        tokio::select! {
            () = told_to_stop => {}
            ended = &mut self.public.1 => return Err(StartError::Stopped(stopped(ended))),
            ended = &mut self.admin.1 => return Err(StartError::Stopped(stopped(ended))),
        }
        self.leave().await;
        Ok(())
    }

    async fn leave(self) {
        let begun = Instant::now();
        self.replica.enter(ReplicaPhase::Draining);
        tracing::info!(replica = %self.replica.name, "draining");
        sleep(self.delay).await;
        self.listener.refuse_new();
        sleep(HANDSHAKE_GRACE).await;
        // Pausing keeps what was accepted; stopping the server now would drop it.
        self.public.0.pause().await;
        sleep(DRAIN_POLL).await;
        self.listener.close();
        sleep(DRAIN_POLL).await;
        let unanswered = self.wait_for_connections().await;
        self.replica.enter(ReplicaPhase::Drained);
        tracing::info!(
            replica = %self.replica.name,
            unanswered,
            duration_ms = begun.elapsed().as_millis() as u64,
            "drained; waiting for the last counts to be collected"
        );
        tokio::select! {
            () = self.replica.collected.notified() => {
                // The answer to that very request is still being written.
                sleep(DRAIN_POLL * 2).await;
            }
            () = sleep(self.linger) => tracing::warn!(replica = %self.replica.name, "the last counts were not collected"),
        }
        self.public.0.stop(false).await;
        self.admin.0.stop(false).await;
    }

    /// Waits for the last public connection to close, which every answer now
    /// asks for. Idle ones get the linger time; a request in flight is waited for.
    async fn wait_for_connections(&self) -> u64 {
        let counters = &self.replica.counters;
        let begun = Instant::now();
        loop {
            let connections = self.replica.public_connections.open();
            let in_flight = counters.public_in_flight.load(Ordering::SeqCst);
            let waited = begun.elapsed();
            let idle_for_long = in_flight == 0 && waited >= self.linger;
            if connections == 0 || idle_for_long || waited >= self.linger + UNANSWERED_LIMIT {
                return in_flight;
            }
            sleep(DRAIN_POLL).await;
        }
    }
}

fn serve(replica: &Arc<Replica>, socket: TcpListener, workers: usize, admin: bool) -> io::Result<Server> {
    let shared = Arc::clone(replica);
    let app = move || {
        let (replica, shard) = (Arc::clone(&shared), shared.counters.assign());
        let worker = Data::new(Worker { replica, shard, buffers: Default::default(), admin });
        let tracked = worker.clone();
        App::new()
            .app_data(worker)
            .wrap(from_fn(receive_in_time))
            .wrap_fn(move |request, service| track(tracked.clone(), service.call(request)))
            .configure(inference_protocol::configure)
            .configure(|config| configure(config, admin))
    };
    let (purpose, connections) = match admin {
        true => ("administrative", &replica.admin_connections),
        false => ("public", &replica.public_connections),
    };
    let server = Server::build()
        .workers(workers)
        .worker_max_blocking_threads(1)
        // More than are ever admitted: a worker that is full would not even refuse.
        .max_concurrent_connections(2 * connections.limits().connections)
        .disable_signals()
        .shutdown_timeout(1);
    let guard = Guard::new(connections.clone(), KEEP_ALIVE, &server);
    Ok(server.listen(purpose, socket, move || http_service(&guard, true, plain, app()))?.run())
}

fn spawn(server: Server) -> (ServerHandle, JoinHandle<io::Result<()>>) {
    (server.handle(), rt::spawn(server))
}

fn stopped(ended: Result<io::Result<()>, impl std::error::Error + Send + Sync + 'static>) -> io::Error {
    match ended {
        Ok(Ok(())) => io::Error::other("it ended"),
        Ok(Err(error)) => error,
        Err(panicked) => io::Error::other(panicked),
    }
}

/// A reader sees the old content or the new, never half of it.
fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A new file of a name that nobody guesses: no link is followed. The umask takes its share of the mode.
    let mode = Permissions::from_mode(0o644);
    let mut partial = tempfile::Builder::new().prefix(".admin-port-").permissions(mode).tempfile_in(folder)?;
    partial.write_all(content.as_bytes())?;
    partial.persist(path).map(drop).map_err(|error| error.error)
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long a handshake that began before the leaving may take. Longer than most
/// round trips, and well under the second after which a client that met the
/// filter sends its next SYN.
pub(crate) const HANDSHAKE_GRACE: Duration = Duration::from_millis(200);

/// The public socket, kept beside the server's own handle of it.
#[derive(Debug)]
pub(crate) struct PublicListener {
    socket: Socket,
    shared: bool,
}

impl PublicListener {
    /// Listens; answers the socket for the server too.
    pub(crate) fn open(listen: Listen) -> Result<(Self, TcpListener), StartError> {
        let (address, opened) = match listen {
            Listen::Address(address) => (address.to_string(), bind_shared(address)),
            Listen::Stdin => ("stdin".to_owned(), inherited()),
        };
        let failed = |source| StartError::Listen { address: address.clone(), purpose: "public", source };
        let socket = opened.map_err(failed)?;
        let server = TcpListener::from(socket.try_clone().map_err(failed)?);
        Ok((Self { socket, shared: listen == Listen::Stdin }, server))
    }

    /// Takes no new connections from now on; handshakes under way still end.
    pub(crate) fn refuse_new(&self) {
        if self.shared {
            // Others accept from the very same socket: it must stay as it is.
            return;
        }
        if let Err(error) = self.socket.attach_filter(&drop_syn_packets()) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the system has no socket filters: connections made in this moment may be reset"
            );
        }
    }

    /// Closes the socket for all who hold it; connections live on.
    pub(crate) fn close(&self) {
        if self.shared {
            return;
        }
        if let Err(error) = self.socket.shutdown(Shutdown::Both) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the public socket cannot be closed");
        }
    }
}

fn bind_shared(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn inherited() -> io::Result<Socket> {
    let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    if !socket.is_listener().unwrap_or(false) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "standard input is not a listening socket"));
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Classic BPF over the TCP header: drops what has SYN and not ACK, keeps the rest.
fn drop_syn_packets() -> [SockFilter; 5] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_OFFSET),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// The host's name, where the system knows it.
pub(crate) fn host_name() -> Option<String> {
    let mut name = String::new();
    std::fs::File::open(Path::new("/proc/sys/kernel/hostname")).ok()?.read_to_string(&mut name).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_file_is_whole_and_no_link_that_could_be_guessed_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("port"), folder.path().join("victim"));
        std::fs::write(&victim, "as it was").unwrap();
        let guessed = folder.path().join(format!("port.partial-{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, guessed).unwrap();
        write_atomically(&path, "127.0.0.1:1\n").unwrap();
        write_atomically(&path, "127.0.0.1:2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:2\n");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "as it was");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
