//! The embedded adapters: folders, an OCI layout, local processes and the log.
//! With these the daemon runs on one machine without any other service.

mod atomic_file;
mod folder_store;
mod log_notifier;
mod oci_builder;
mod oci_layout_registry;
mod process_cluster;
mod thread_trainer;
mod weather_csv;

pub(crate) use atomic_file::write_atomically;
pub use folder_store::FolderStore;
pub use log_notifier::LogNotifier;
pub use oci_builder::OciBuilder;
pub use oci_layout_registry::OciLayoutRegistry;
pub use process_cluster::{ProcessCluster, ProcessClusterConfig};
pub use thread_trainer::ThreadTrainer;
pub use weather_csv::WeatherCsv;

use crate::error::ErrorKind;
use crate::ports::PortError;

/// Runs blocking work on the blocking pool.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    match crate::telemetry::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PortError::new(ErrorKind::Internal, action, format!("the worker thread failed: {error}"))),
    }
}
