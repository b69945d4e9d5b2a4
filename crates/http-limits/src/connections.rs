//! Open connections, counted by client, and why some were closed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Limits;

/// Who holds a connection, as far as the system knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// A network address. Of an IPv6 address the first 64 bits: a host
    /// commonly has all addresses that begin with them.
    Address(IpAddr),
    /// A process of this machine, by its user.
    User(u32),
    /// Unknown to the system.
    Unknown,
}

impl Client {
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let [a, b, c, d, ..] = address.segments();
                Self::Address(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address => Self::Address(address),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum CloseReason {
    /// Its client has as many connections as one may have.
    ClientLimit,
    /// All clients together have as many as there may be.
    TotalLimit,
    /// Its request did not arrive whole in time.
    SlowRequest,
    /// Its answer was not taken in time.
    SlowAnswer,
}

impl CloseReason {
    pub const ALL: [Self; 4] = [Self::ClientLimit, Self::TotalLimit, Self::SlowRequest, Self::SlowAnswer];

    pub fn label(self) -> &'static str {
        match self {
            Self::ClientLimit => "client_limit",
            Self::TotalLimit => "total_limit",
            Self::SlowRequest => "slow_request",
            Self::SlowAnswer => "slow_answer",
        }
    }
}

/// The open connections of one listener, or of several that share their limits.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    open: Mutex<Open>,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_client: HashMap<Client, usize>,
}

impl Connections {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner { limits, open: Mutex::default(), closed: Default::default() }))
    }

    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub fn open(&self) -> usize {
        self.lock().total
    }

    /// How many were closed for a reason since the start.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.0.closed[reason as usize].load(Ordering::Relaxed)
    }

    /// Room for one more connection of a client, until the slot is dropped; `None`, and
    /// counted, where a limit is reached.
    pub fn admit(&self, client: Client) -> Option<Slot> {
        let mut open = self.lock();
        let held = open.by_client.get(&client).copied().unwrap_or(0);
        let refused = if held >= self.0.limits.connections_per_client {
            Some(CloseReason::ClientLimit)
        } else if open.total >= self.0.limits.connections {
            Some(CloseReason::TotalLimit)
        } else {
            None
        };
        if let Some(reason) = refused {
            drop(open);
            self.count(reason);
            return None;
        }
        open.by_client.insert(client, held + 1);
        open.total += 1;
        drop(open);
        Some(Slot { connections: self.clone(), client })
    }

    pub(crate) fn count(&self, reason: CloseReason) {
        self.0.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, client: Client) {
        let mut open = self.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(held) = open.by_client.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                open.by_client.remove(&client);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Counts are sound even when another holder panicked.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection; it is counted until this is dropped.
#[derive(Debug)]
pub struct Slot {
    connections: Connections,
    client: Client,
}

impl Slot {
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Client {
        Client::at(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_refused_at_its_limit_and_others_are_not() {
        let limits = Limits { connections_per_client: 2, connections: 3, ..Limits::default() };
        let connections = Connections::new(limits);
        let (first, other) = (at("192.0.2.1"), at("192.0.2.2"));
        let held: Vec<Slot> = (0..2).map(|_| connections.admit(first).unwrap()).collect();
        assert!(connections.admit(first).is_none());
        let others = connections.admit(other).unwrap();
        assert!(connections.admit(other).is_none(), "all have three");
        assert_eq!(connections.open(), 3);
        drop(held);
        assert!(connections.admit(first).is_some());
        drop(others);
        assert_eq!(connections.open(), 0);
        let counted = CloseReason::ALL.map(|reason| connections.closed(reason));
        assert_eq!(counted, [1, 1, 0, 0]);
        assert!(connections.lock().by_client.is_empty(), "clients that are gone are forgotten");
    }

    #[test]
    fn addresses_of_one_host_are_one_client() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::1", "::2", false),
        ] {
            assert_eq!(at(one) == at(other), same, "{one} {other}");
        }
    }
}
