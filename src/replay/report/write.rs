//! Writing whole files: either the old one or the new one is there, never a half.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::model::Report;
use delayd_core::error::ErrorKind;

/// A file of the report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The disk or the folder refused.
    #[error("writing {}: check that its folder exists, is writable and has room", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The report could not be put into JSON.
    #[error("writing {}: the report does not fit into JSON", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where it failed.
        #[source]
        source: serde_json::Error,
    },
    /// The table could not be put into Parquet.
    #[error("writing {}: the predictions do not fit into Parquet", path.display())]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// What Polars said.
        #[source]
        source: polars::error::PolarsError,
    },
}

impl ReportError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Json { source, .. } => {
                source.io_error_kind().map_or(ErrorKind::Internal, |k| ErrorKind::of_io(&k.into()))
            }
            Self::Parquet { .. } => ErrorKind::Internal,
        }
    }
}

/// Writes `report.json`.
///
/// # Errors
/// When the file cannot be written; an earlier one is then untouched.
pub fn write_json(report: &Report, path: &Path) -> Result<(), ReportError> {
    let mut bytes =
        serde_json::to_vec_pretty(report).map_err(|source| ReportError::Json { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    atomically(path, |file| file.write_all(&bytes).map_err(|source| ReportError::Io { path: path.to_owned(), source }))
}

/// Fills a file beside `path` and renames it into place when it is whole and on disk.
pub(super) fn atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let io = |source| ReportError::Io { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| io(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".partial-");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A new file of a name that nobody guesses; where writing fails it goes. The umask takes its share of the mode.
    let mode = Permissions::from_mode(0o644);
    let partial = tempfile::Builder::new().prefix(&prefix).permissions(mode).tempfile_in(folder).map_err(io)?;
    let (file, partial) = partial.into_parts();
    let mut writer = BufWriter::new(file);
    fill(&mut writer)?;
    let file = writer.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    partial.persist(path).map_err(|error| io(error.error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::replay::report::fixture;
    use delayd_core::error::chain;

    #[test]
    fn the_json_reads_back_as_the_same_report_and_has_the_documented_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = fixture::report();
        write_json(&report, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        // Only what holds computed fractions may differ, by their last bit.
        assert_eq!((&back.detection_secs, &back.dataset), (&report.detection_secs, &report.dataset));
        let models = |r: &Report| r.models.iter().map(|m| (m.version, m.live_from, m.live_until)).collect::<Vec<_>>();
        assert_eq!(models(&back), models(&report));
        let cycles = |r: &Report| {
            r.cycles.iter().map(|c| (c.id, c.seconds_by_step.0.iter().map(|s| s.0.clone()).collect())).collect()
        };
        let (found, expected): (Vec<(_, Vec<_>)>, Vec<(_, Vec<_>)>) = (cycles(&back), cycles(&report));
        assert_eq!(found, expected);
        assert_eq!(back.over_time.len(), report.over_time.len());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let documented = include_str!("../../../docs/report.md");
        for key in value.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{key}`")), "docs/report.md does not tell of `{key}`");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written is left behind");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_with_the_file_and_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/report.json");
        let error = write_json(&fixture::report(), &path).unwrap_err();
        assert!(chain(&error).contains("missing/report.json"), "{error}");
        assert!(chain(&error).contains("No such file"), "{}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_link_beside_the_report_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "as it was").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(".report.json.partial")).unwrap();
        write_json(&fixture::report(), &folder.path().join("report.json")).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_the_earlier_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, "earlier").unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = atomically(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(ReportError::Io { path: path.clone(), source: full() })
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
