//! What is read where it is at each scrape: replicas, actors, files, the process.

use std::path::Path;

use delayd_http_limits::{CloseReason, Connections};

use super::catalogue as names;
use super::page::Page;
use crate::http::tls::ServedCertificate;
use crate::stages::live_service::LiveService;
use crate::supervision::{ActorState, ActorStatus};
use delayd_core::ports::{Replica, ReplicaState};

const REPLICA_STATES: [(&str, ReplicaState); 4] = [
    ("starting", ReplicaState::Starting),
    ("ready", ReplicaState::Ready),
    ("draining", ReplicaState::Draining),
    ("failed", ReplicaState::Failed),
];

pub(super) fn replicas(page: &mut Page, replicas: &[Replica]) {
    for (name, wanted) in REPLICA_STATES {
        let count = replicas.iter().filter(|replica| replica.state == wanted).count();
        page.put(&names::REPLICAS, &[name], count as f64);
    }
    let restarts: u64 = replicas.iter().map(|replica| u64::from(replica.restarts)).sum();
    page.put(&names::REPLICA_RESTARTS, &[], restarts as f64);
    let largest = replicas.iter().filter_map(|replica| replica.memory_bytes).max();
    page.put_some(&names::REPLICA_MEMORY, &[], largest.map(|bytes| bytes as f64));
}

/// Whether the live model is what serves; nothing where that cannot be said.
pub(super) fn served(page: &mut Page, found: Option<&LiveService>) {
    page.put_some(&names::LIVE_MODEL_SERVED, &[], found.map(|found| f64::from(u8::from(found.served))));
}

pub(super) fn actors(page: &mut Page, statuses: &[ActorStatus]) {
    for actor in statuses {
        let name = actor.name.as_str();
        let state = match actor.state {
            ActorState::Running => "running",
            ActorState::Restarting => "restarting",
            ActorState::Hung => "hung",
            ActorState::Dead => "dead",
        };
        page.put_state(&names::ACTOR_STATE, &[name], &["running", "restarting", "hung", "dead"], state);
        page.put(&names::ACTOR_RESTARTS, &[name], actor.restarts as f64);
        page.put(&names::ACTOR_BEAT, &[name], actor.last_beat_secs);
        page.put(&names::ACTOR_WAITING, &[name], actor.waiting_senders as f64);
        page.put(&names::ACTOR_WORKING, &[name], f64::from(u8::from(actor.current_work.is_some())));
    }
}

/// The ledger's files, backups, and the room that is left. Blocks for some system calls.
pub(super) fn files(state_dir: &Path) -> std::io::Result<Page> {
    let mut page = Page::default();
    for (label, name) in [("main", "ledger.sqlite"), ("wal", "ledger.sqlite-wal")] {
        match std::fs::metadata(state_dir.join(name)) {
            Ok(file) => page.put(&names::LEDGER_SIZE, &[label], file.len() as f64),
            // Without writers there is no write-ahead log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && label == "wal" => {
                page.put(&names::LEDGER_SIZE, &[label], 0.0);
            }
            Err(error) => return Err(error),
        }
    }
    page.put_some(&names::LEDGER_BACKUP, &[], newest_file(&state_dir.join("backups"))?);
    let room = nix::sys::statvfs::statvfs(state_dir).map_err(std::io::Error::from)?;
    let block = room.fragment_size() as f64;
    page.put(&names::STATE_FREE, &[], room.blocks_available() as f64 * block);
    page.put(&names::STATE_SIZE, &[], room.blocks() as f64 * block);
    Ok(page)
}

/// When the newest file of a folder was written, in seconds since 1970.
fn newest_file(folder: &Path) -> std::io::Result<Option<f64>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut newest = None;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let file = entry.metadata()?;
        if !file.is_file() || Path::new(&name).extension().is_some_and(|ending| ending == "partial") {
            continue;
        }
        newest = newest.max(Some(file.modified()?));
    }
    Ok(newest.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map(|since| since.as_secs_f64()))
}

/// What the kernel says of this process, from `/proc/self`.
pub(super) fn process() -> std::io::Result<Page> {
    /// Clock ticks in a second: `USER_HZ`, 100 on every Linux of our targets.
    const TICKS: f64 = 100.0;
    const PAGE_BYTES: f64 = 4096.0;
    let mut page = Page::default();
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command's name may hold anything; what follows its closing bracket is numbers.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // proc(5) counts from 1, and the bracket closes field 2.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    page.put_some(&names::PROCESS_CPU, &[], field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS));
    page.put_some(&names::PROCESS_THREADS, &[], field(20));
    page.put_some(&names::PROCESS_VIRTUAL, &[], field(23));
    page.put_some(&names::PROCESS_MEMORY, &[], field(24).map(|pages| pages * PAGE_BYTES));
    let booted = std::fs::read_to_string("/proc/stat")?;
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    page.put_some(&names::PROCESS_START, &[], booted.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS));
    // One of them is the folder being read.
    let open = std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
    page.put(&names::PROCESS_FDS, &[], open as f64);
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    page.put_some(&names::PROCESS_MAX_FDS, &[], files.and_then(|text| text.parse().ok()));
    Ok(page)
}

/// When the endpoint's certificate expires.
pub(super) fn certificate(served: Option<&ServedCertificate>) -> Result<Page, String> {
    let mut page = Page::default();
    let expires_at = served.map(ServedCertificate::expires_at).transpose()?;
    page.put_some(&names::CERTIFICATE_EXPIRY, &[], expires_at.map(super::counted::seconds));
    Ok(page)
}

/// Connections to the endpoint, and those that its limits closed.
pub(super) fn connections(page: &mut Page, listener: &str, connections: &Connections) {
    page.put(&names::HTTP_CONNECTIONS, &[listener], connections.open() as f64);
    for reason in CloseReason::ALL {
        let count = connections.closed(reason) as f64;
        page.put(&names::HTTP_CONNECTIONS_CLOSED, &[listener, reason.label()], count);
    }
}

/// What the cycles' own logs lack.
pub(super) fn logs(page: &mut Page) {
    page.put(&names::CYCLE_LOG_LOST, &[], crate::telemetry::lost_lines() as f64);
}

/// Which build this is.
pub(super) fn build(page: &mut Page) {
    let commit = delayd_core::build::commit().unwrap_or("unknown");
    let labels = [env!("CARGO_PKG_VERSION"), commit];
    page.put(&names::BUILD_INFO, &labels, 1.0);
}
