//! What a client may cost, and how many files and connections this process may have open.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors left for everything that is not a client connection: listeners, event
/// queues of the workers, logs, the ledger, outgoing requests.
const RESERVED_DESCRIPTORS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for a whole request, head and body, from its first byte on; for the first
    /// request of a connection, from the connection on. Each received MB adds a second,
    /// so that a large body over a slow line is not mistaken for a slow client.
    pub request_deadline: Duration,
    /// Time for a client to take an answer that it keeps waiting.
    pub answer_deadline: Duration,
    /// Open connections of one client, at most.
    pub connections_per_client: usize,
    /// Open connections of all clients together, at most.
    pub connections: usize,
}

impl Default for Limits {
    /// 512 connections for one client: with one request at a time on each, that is more than
    /// a server of this kind answers at once, so more connections bring nobody more answers.
    /// A gateway or a node that stands for many clients stays below it by keeping connections
    /// alive.
    fn default() -> Self {
        Self {
            request_deadline: Duration::from_secs(10),
            answer_deadline: Duration::from_secs(30),
            connections_per_client: 512,
            connections: 8192,
        }
    }
}

impl Limits {
    /// The limits that a process with so many descriptors can keep: connections stay below
    /// them, and no client alone can hold more than half of the connections.
    pub fn within(self, descriptors: usize) -> Self {
        let connections = self.connections.min(descriptors.saturating_sub(RESERVED_DESCRIPTORS)).max(2);
        Self { connections, connections_per_client: self.connections_per_client.min(connections / 2), ..self }
    }
}

/// Asked for where the hard limit is infinite: the usual `fs.nr_open`, above which the kernel refuses.
const LARGEST_LIMIT: u64 = 1 << 20;

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) to the hard one, and answers the
/// limit that is in force then. Processes that are started later inherit it. The soft limit
/// is low for the sake of programs that use `select(2)`; none of ours does.
pub fn raise_open_file_limit() -> usize {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.unwrap_or(LARGEST_LIMIT);
    let current = match before.current {
        Some(current) if current < wanted => {
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: before.maximum }) {
                Ok(()) => wanted,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        limit = current,
                        "the limit of open files stays as it is; raise it where the process is started"
                    );
                    current
                }
            }
        }
        Some(current) => current,
        None => LARGEST_LIMIT,
    };
    usize::try_from(current).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_below_the_descriptors_and_no_client_has_more_than_half() {
        for (descriptors, connections, per_client, why) in [
            (1 << 20, 8192, 512, "plenty: as configured"),
            (4096, 3968, 512, "fewer: all clients share what there is"),
            (1024, 896, 448, "few: a client keeps to half"),
            (100, 2, 1, "hardly any: two clients are still answered"),
        ] {
            let limits = Limits::default().within(descriptors);
            assert_eq!((limits.connections, limits.connections_per_client), (connections, per_client), "{why}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: hard }).unwrap();
        let raised = raise_open_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(raised as u64));
        assert_eq!(raised as u64, hard.unwrap_or(LARGEST_LIMIT));
    }
}
