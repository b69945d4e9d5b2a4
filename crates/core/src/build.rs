//! Which build this is. The commit is known to the program alone (`delayd-commit` says
//! why), so `main` tells it; what uses the library without it has none.

use std::sync::OnceLock;

static COMMIT: OnceLock<&'static str> = OnceLock::new();

/// Tells the commit that the program was built of; the first word stands.
pub fn tell_commit(commit: Option<&'static str>) {
    if let Some(commit) = commit {
        COMMIT.get_or_init(|| commit);
    }
}

/// The commit that the program was built of, `-dirty` where its sources differed from it.
pub fn commit() -> Option<&'static str> {
    COMMIT.get().copied()
}

/// `0.1.0 (0123456789ab)`, as `--version` has it.
pub fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    commit().map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"))
}
