//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The clone.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder of this build's programs: two above a test's own.
fn folder() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().to_owned()
}

/// `delayd`, as cargo built it for these tests.
pub fn delayd() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| folder().join("delayd"))
}

/// `delayd-train`: what `DELAYD_TRAIN_BIN` names, else beside `delayd`, where the daemon looks for it too.
///
/// # Errors
/// What is missing, and what to do.
pub fn training_program() -> Result<PathBuf, String> {
    let beside = delayd().with_file_name("delayd-train");
    let program = std::env::var_os("DELAYD_TRAIN_BIN").map_or(beside, PathBuf::from);
    program.canonicalize().map_err(|error| {
        let place = program.display();
        format!("no training worker at {place} ({error}); `make build` builds it, or name it in DELAYD_TRAIN_BIN")
    })
}

/// A folder under the build's own for files that tests leave to be looked at.
pub fn temporary_folder(name: &str) -> PathBuf {
    let folder = folder().join("../tmp").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
