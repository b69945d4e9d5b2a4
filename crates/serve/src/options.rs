//! The command line; every option can come from the environment instead.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use delayd_http_limits::Limits;

/// Serves one model bundle over HTTP.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "delayd-serve", version, args_override_self = true)]
pub struct Options {
    /// Folder of the bundle to serve.
    #[arg(long, env = "DELAYD_SERVE_BUNDLE", default_value = "/bundle", value_name = "DIR")]
    pub bundle: PathBuf,

    /// Name of the model version, shown in answers, metrics and reports.
    #[arg(long, env = "DELAYD_SERVE_MODEL_VERSION", default_value = "unversioned", value_name = "NAME")]
    pub model_version: String,

    /// Name of this replica; by default the host's name and the process id.
    #[arg(long, env = "DELAYD_SERVE_REPLICA", value_name = "NAME")]
    pub replica: Option<String>,

    /// Public address, shared with other replicas by SO_REUSEPORT; `stdin` takes
    /// a listening socket inherited as standard input.
    #[arg(long, env = "DELAYD_SERVE_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDR:PORT")]
    pub listen: Listen,

    /// Administrative address, of this replica alone, with every route; port 0 takes any free one.
    #[arg(long, env = "DELAYD_SERVE_ADMIN_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub admin_listen: SocketAddr,

    /// File to write the administrative address to once the replica is ready.
    #[arg(long, env = "DELAYD_SERVE_ADMIN_PORT_FILE", value_name = "PATH")]
    pub admin_port_file: Option<PathBuf>,

    /// Worker threads; by default one per core.
    #[arg(long, env = "DELAYD_SERVE_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub workers: Option<u16>,

    /// Seconds to go on serving after being told to stop, no longer ready: the
    /// time that a load balancer (Kubernetes' endpoints) needs to notice.
    #[arg(long, env = "DELAYD_SERVE_DRAIN_DELAY_SECS", default_value_t = 0, value_name = "N")]
    pub drain_delay_secs: u64,

    /// Seconds to wait, when stopping, for idle connections, and then again for
    /// the last counts to be collected.
    #[arg(long, env = "DELAYD_SERVE_DRAIN_LINGER_SECS", default_value_t = 5, value_name = "N")]
    pub drain_linger_secs: u64,

    /// Flights in one request, at most.
    #[arg(long, env = "DELAYD_SERVE_MAX_BATCH", default_value_t = 4096, value_name = "N")]
    pub max_batch: usize,

    /// Bytes in one request's body, at most.
    #[arg(long, env = "DELAYD_SERVE_MAX_BODY_BYTES", default_value_t = 16 << 20, value_name = "N")]
    pub max_body_bytes: usize,

    /// Bytes of all bodies that are being received and read, at most; a request beyond it is answered 503.
    #[arg(long, env = "DELAYD_SERVE_MAX_BODIES_BYTES", default_value_t = 128 << 20, value_name = "N")]
    pub max_bodies_bytes: usize,

    /// Seconds in which a whole request must arrive, head and body; each MB of it adds one.
    #[arg(long, env = "DELAYD_SERVE_REQUEST_DEADLINE_SECS", default_value_t = 10, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub request_deadline_secs: u64,

    /// Seconds in which a client must take an answer that it keeps waiting.
    #[arg(long, env = "DELAYD_SERVE_ANSWER_DEADLINE_SECS", default_value_t = 30, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub answer_deadline_secs: u64,

    /// Open connections of one client address, at most. A gateway, or a node that
    /// Kubernetes lets stand for all outside clients, is one address.
    #[arg(long, env = "DELAYD_SERVE_CONNECTIONS_PER_CLIENT", default_value_t = 512, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_client: u32,

    /// Open connections of all clients, at most; fewer where the system's limit of
    /// open files is low.
    #[arg(long, env = "DELAYD_SERVE_CONNECTIONS", default_value_t = 8192, value_name = "N",
          value_parser = clap::value_parser!(u32).range(2..))]
    pub connections: u32,

    /// Predictions kept for the daemon to fetch.
    #[arg(long, env = "DELAYD_SERVE_KEPT_PREDICTIONS", default_value_t = 65_536, value_name = "N")]
    pub kept_predictions: usize,

    /// Format of the log on standard error.
    #[arg(long, env = "DELAYD_SERVE_LOG", default_value = "json")]
    pub log: LogFormat,
}

impl Options {
    /// What clients of the public address may cost.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            request_deadline: Duration::from_secs(self.request_deadline_secs),
            answer_deadline: Duration::from_secs(self.answer_deadline_secs),
            connections_per_client: self.connections_per_client as usize,
            connections: self.connections as usize,
        }
    }
}

/// Where the public requests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// An address bound by this replica.
    Address(SocketAddr),
    /// A listening socket inherited as standard input; all who hold it share one
    /// queue, so that none is lost when one of them goes.
    Stdin,
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "stdin" {
            return Ok(Self::Stdin);
        }
        let expected = |error| format!("{error}: expected an address and port like 0.0.0.0:8080, or `stdin`");
        text.parse().map(Self::Address).map_err(expected)
    }
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_defaults_are_those_of_a_container() {
        let options = Options::try_parse_from(["delayd-serve"]).unwrap();
        assert_eq!(options.bundle, PathBuf::from("/bundle"));
        assert_eq!(options.listen, Listen::Address("0.0.0.0:8080".parse().unwrap()));
        assert_eq!((options.max_batch, options.kept_predictions), (4096, 65_536));
        assert_eq!(options.limits(), Limits::default());
    }

    #[test]
    fn an_address_without_a_port_is_refused_with_an_example() {
        let error = Options::try_parse_from(["delayd-serve", "--listen", "localhost"]).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:8080"), "{error}");
        for (option, value) in [("--workers", "0"), ("--workers", "513"), ("--request-deadline-secs", "0")] {
            assert!(Options::try_parse_from(["delayd-serve", option, value]).is_err(), "{option} {value}");
        }
    }
}
