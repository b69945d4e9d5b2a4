//! Registries for the tests: Debian's docker-registry as a process, and small
//! servers that stand before it or do what it does not. Each test file uses its
//! own part.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

pub mod containerd;
pub mod docker_registry;
pub mod ecr_api;
pub mod http;
pub mod keeping_registry;
pub mod layouts;
pub mod log;
pub mod phase_proxy;
pub mod skopeo;
pub mod token_server;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub use docker_registry::{Access, DockerRegistry};
pub use keeping_registry::KeepingRegistry;
pub use log::Log;
pub use phase_proxy::{Phase, PhaseProxy, Trouble};
pub use token_server::TokenServer;

/// A server's process; ends with its value, also when a test panics.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts what `command` makes for a port, and waits until it listens. The port
    /// may be taken between our look and the server's: then another one is tried.
    pub fn start(name: &str, limit: Duration, command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(server) = Self::start_at(port, limit, &command) {
                return server;
            }
        }
        panic!("{name} did not start");
    }

    /// The same on one port; `None` when it ended or does not listen.
    pub fn start_at(port: u16, limit: Duration, command: impl Fn(u16) -> Command) -> Option<Self> {
        let mut command = command(port);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let began = Instant::now();
        while began.elapsed() < limit {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(server.address).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a program is installed; says SKIPPED where it is not.
pub fn has_program(test: &str, program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()));
    if !found {
        eprintln!("SKIPPED: {test}: {program} is missing (`scripts/setup/packages test`, Debian package {package})");
    }
    found
}

/// The programs that these tests need; otherwise the test says SKIPPED and ends.
#[macro_export]
macro_rules! needs_registry {
    ($test:literal) => {
        if !$crate::registry_servers::has_program($test, "docker-registry", "docker-registry")
            || !$crate::registry_servers::has_program($test, "skopeo", "skopeo")
        {
            return;
        }
    };
}
