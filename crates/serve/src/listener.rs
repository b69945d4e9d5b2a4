//! The public listening socket, and how a replica leaves it without losing a
//! connection.
//!
//! Replicas on one machine share a port by `SO_REUSEPORT`: the kernel deals new
//! connections out to their sockets, and resets those that wait in the queue of a
//! socket that is closed. So a leaving replica first stops taking *new* ones, by
//! a socket filter that drops SYN packets (the client sends another a second
//! later, which reaches another replica), goes on accepting until every
//! handshake under way has ended, and only then closes the socket.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::error::StartError;
use crate::options::Listen;

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

/// The host's name, where the system tells it.
pub(crate) fn host_name() -> Option<String> {
    let mut name = String::new();
    std::fs::File::open(Path::new("/proc/sys/kernel/hostname")).ok()?.read_to_string(&mut name).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
