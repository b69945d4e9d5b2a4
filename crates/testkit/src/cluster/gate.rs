//! Stands between us and the API server, and can be shut: connections that stand
//! already go too, as they do when a server goes away.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of connections, those that stand and new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// They reach the server.
    Open,
    /// They are closed.
    Shut,
    /// They stand, and nothing is heard from the other side: as with a stopped process.
    Silent,
}

pub struct Gate {
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
}

impl Gate {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = watch::channel(State::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, receiver.clone()));
            }
        });
        Self { address, state: Arc::new(sender) }
    }

    pub fn set(&self, state: State) {
        self.state.send(state).unwrap();
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    if *state.borrow() == State::Silent {
        let _ = state.wait_for(|state| *state != State::Silent).await;
        return;
    }
    if *state.borrow() == State::Shut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let now = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        now = state.wait_for(|state| *state != State::Open) => now.map_or(State::Shut, |now| *now),
    };
    if now == State::Silent {
        let _ = state.wait_for(|state| *state != State::Silent).await;
    }
}
