//! Socket activation: the sockets that the service manager has opened and listens on
//! for us (`sd_listen_fds(3)`). Connections wait in them while the daemon restarts.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

/// Passed sockets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedSocketError {
    /// One is something else.
    #[error("the service manager passed a socket (number {index}) that is neither TCP nor Unix, or does not stream")]
    Unusable {
        /// Which of them, from 0.
        index: usize,
        /// What was found.
        #[source]
        source: std::io::Error,
    },
    /// There are others than the endpoint takes.
    #[error("the service manager passed {tcp} TCP and {unix} Unix sockets; the status endpoint takes one TCP socket")]
    NotOne {
        /// How many TCP sockets.
        tcp: usize,
        /// How many Unix sockets.
        unix: usize,
    },
}

/// What was passed.
#[derive(Debug, Default)]
pub(crate) struct PassedSockets {
    /// Listening TCP sockets, in the order of the unit.
    pub(crate) tcp: Vec<TcpListener>,
    /// Listening Unix sockets, in the order of the unit.
    pub(crate) unix: Vec<UnixListener>,
}

impl PassedSockets {
    /// Takes them, once: the environment that told of them (`LISTEN_FDS`) is cleared, and
    /// processes that we start inherit none. To be called before threads are started.
    pub(crate) fn take() -> Result<Self, PassedSocketError> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..passed.len() {
            // One of the wrong family stays where it is, for the next question.
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                sockets.tcp.push(listener);
                continue;
            }
            let unix = passed.take_unix_listener(index);
            sockets.unix.extend(unix.map_err(|source| PassedSocketError::Unusable { index, source })?);
        }
        Ok(sockets)
    }

    /// Takes the one that the status endpoint listens on, if one was passed.
    pub(crate) fn take_one() -> Result<Option<TcpListener>, PassedSocketError> {
        let Self { mut tcp, unix } = Self::take()?;
        if tcp.len() > 1 || !unix.is_empty() {
            return Err(PassedSocketError::NotOne { tcp: tcp.len(), unix: unix.len() });
        }
        Ok(tcp.pop())
    }
}
