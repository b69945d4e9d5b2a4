//! Where the training worker is that tests start.

use std::path::{Path, PathBuf};

/// `delayd-train`: what `DELAYD_TRAIN_BIN` names, else beside `delayd`, where the daemon looks for it too.
///
/// # Errors
/// What is missing, and what to do.
pub fn training_program() -> Result<PathBuf, String> {
    let beside = Path::new(env!("CARGO_BIN_EXE_delayd")).with_file_name("delayd-train");
    let program = std::env::var_os("DELAYD_TRAIN_BIN").map_or(beside, PathBuf::from);
    program.canonicalize().map_err(|error| {
        let place = program.display();
        format!("no training worker at {place} ({error}); `make build` builds it, or name it in DELAYD_TRAIN_BIN")
    })
}
