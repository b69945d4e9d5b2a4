//! The embedded adapters: folders, an OCI layout, local processes and the log.
//! With these the daemon runs on one machine without any other service.

mod oci_layout;
mod process_cluster;
mod process_pool;
mod weather_csv;

pub use crate::channels::LogNotifier;
pub use crate::object_store::FolderStore;
pub use oci_layout::{OciBuilder, OciLayoutRegistry};
pub use process_cluster::{ProcessCluster, ProcessClusterConfig};
pub use process_pool::ProcessPool;
pub use weather_csv::WeatherCsv;

/// The last bytes of a file, as text.
fn tail(path: &std::path::Path, bytes: u64) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut read = Vec::new();
    file.take(bytes).read_to_end(&mut read)?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}
