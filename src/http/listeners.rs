//! Where the endpoint is reached: its address, with or without TLS, and the local socket.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::tls::{Tls, TlsError};
use crate::config::Settings;
use delayd_core::own_folder;

/// The local socket's mode: its owner and its group are operators.
const SOCKET_MODE: u32 = 0o660;

/// Why the endpoint cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be used.
    #[error("the status endpoint cannot listen on {address}; http.listen names another address")]
    Address {
        /// Which.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The local socket cannot be used.
    #[error("the local socket {} cannot be used; http.socket names another path, or `off`", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// The network's listener.
    pub tcp: TcpListener,
    /// Its certificate and key; plain HTTP without.
    pub tls: Option<Tls>,
    /// The local socket.
    pub local: Option<LocalSocket>,
}

impl Listeners {
    /// Opens what the configuration names. `inherited` is a listener that a service
    /// manager opened already; it takes the place of `http.listen`.
    ///
    /// # Errors
    /// When an address, a socket or a certificate cannot be used.
    pub fn open(settings: &Settings, inherited: Option<TcpListener>) -> Result<Self, ListenError> {
        let http = &settings.http;
        let tls = if http.tls() { Some(Tls::open(&http.tls_certificate, &http.tls_key)?) } else { None };
        let bind = || {
            TcpListener::bind(&http.listen)
                .map_err(|source| ListenError::Address { address: http.listen.clone(), source })
        };
        let tcp = inherited.map_or_else(bind, Ok)?;
        let local = http.socket_path(&settings.daemon.state_dir).map(|path| LocalSocket::bind(&path)).transpose()?;
        Ok(Self { tcp, tls, local })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// The local socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Socket { path: path.to_owned(), source };
        own_folder::check(path).map_err(failed)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it")));
        }
        // Nobody answers: what is there was left by a daemon that was killed.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the local socket's file stays at {}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(place: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.http.listen = "127.0.0.1:0".to_owned();
        settings.daemon.state_dir = place.to_owned();
        settings
    }

    #[test]
    fn a_socket_that_a_killed_daemon_left_is_taken_over_and_a_live_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let settings = settings(place.path());
        let path = place.path().join("delayd.sock");
        // std's listener leaves its file, as a killed daemon does.
        drop(UnixListener::bind(&path).unwrap());
        let first = Listeners::open(&settings, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = Listeners::open(&settings, None).unwrap_err();
        assert!(delayd_core::error::chain(&error).contains("another daemon answers on it"), "{error}");
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn an_address_that_is_taken_is_told_with_the_key_to_change() {
        let place = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut settings = settings(place.path());
        settings.http.listen = taken.local_addr().unwrap().to_string();
        let text = Listeners::open(&settings, None).unwrap_err().to_string();
        assert!(text.contains(&settings.http.listen) && text.contains("http.listen"), "{text}");
        // A listener that was inherited takes its place.
        assert!(Listeners::open(&settings, Some(taken)).is_ok());
    }
}
