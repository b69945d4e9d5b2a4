//! Folders of this machine that nobody needs any more.

use std::fs;
use std::io;
use std::path::Path;

/// The folders directly in `root`, by name; none where there is no root.
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes folders of `root`; answers how many were there. The first failure is the
/// answer, after all were tried.
pub(super) fn remove(root: &Path, names: &[String]) -> io::Result<u64> {
    let mut removed = 0;
    let mut outcome = Ok(());
    for name in names {
        let folder = root.join(name);
        match fs::remove_dir_all(&folder) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!("removing {}: {error}", folder.display());
                outcome = outcome.and(Err(io::Error::new(error.kind(), text)));
            }
        }
    }
    outcome.map(|()| removed)
}
