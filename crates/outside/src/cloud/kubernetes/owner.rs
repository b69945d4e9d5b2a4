//! Who we are towards other daemons: a name that is made once and lies beside the
//! ledger, because the ledger is what makes a daemon the same after a restart.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use delayd_core::atomic_file::write_atomically;
use delayd_core::blocking;
use delayd_core::error::PortError;

const FILE: &str = "kubernetes-owner";

/// The name, read or made when it is needed.
#[derive(Debug)]
pub(super) struct Owner {
    configured: String,
    path: PathBuf,
    made: OnceCell<String>,
}

impl Owner {
    /// As configured, or the one kept in `state_dir`. Reads nothing yet.
    pub(super) fn new(configured: &str, state_dir: &Path) -> Self {
        Self { configured: configured.to_owned(), path: state_dir.join(FILE), made: OnceCell::new() }
    }

    /// The name, if there is one yet.
    pub(super) async fn known(&self) -> Result<Option<String>, PortError> {
        if !self.configured.is_empty() {
            return Ok(Some(self.configured.clone()));
        }
        if let Some(made) = self.made.get() {
            return Ok(Some(made.clone()));
        }
        let path = self.path.clone();
        blocking(action(&self.path), move || read(&path)).await
    }

    /// The name, made now if there is none.
    pub(super) async fn name(&self) -> Result<String, PortError> {
        if !self.configured.is_empty() {
            return Ok(self.configured.clone());
        }
        let make = || async {
            let path = self.path.clone();
            blocking(action(&self.path), move || make(&path)).await
        };
        self.made.get_or_try_init(make).await.cloned()
    }
}

fn action(path: &Path) -> String {
    format!("the daemon's name for Kubernetes in {}", path.display())
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make(path: &Path) -> io::Result<String> {
    if let Some(name) = read(path)? {
        return Ok(name);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let name = format!("{}-{}", if host.is_empty() { "delayd" } else { &host }, random_hex(6)?);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Whole or not at all: half a name would make us a stranger to our own service.
    write_atomically(path, format!("{name}\n").as_bytes())?;
    Ok(name)
}

/// So many random bytes in hex, unguessable.
pub(super) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0_u8; bytes];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut random).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_name_is_made_once_and_stays_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Owner::new("", &state);
        assert_eq!(first.known().await.unwrap(), None);
        assert!(!state.exists(), "asking makes nothing");
        let name = first.name().await.unwrap();
        let restarted = Owner::new("", &state);
        assert_eq!(restarted.known().await.unwrap(), Some(name.clone()));
        assert_eq!(restarted.name().await.unwrap(), name);
        assert_ne!(Owner::new("", folder.path()).name().await.unwrap(), name);
    }

    #[tokio::test]
    async fn a_link_beside_the_name_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "as it was").unwrap();
        let guessed = folder.path().join(format!("{FILE}.staged-{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, guessed).unwrap();
        Owner::new("", folder.path()).name().await.unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "as it was");
    }

    #[tokio::test]
    async fn a_configured_name_needs_no_file() {
        let owner = Owner::new("loop-1", Path::new("/nowhere"));
        assert_eq!(
            (owner.known().await.unwrap(), owner.name().await.unwrap()),
            (Some("loop-1".into()), "loop-1".into())
        );
    }
}
