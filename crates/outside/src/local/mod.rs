//! The embedded adapters: folders, an OCI layout, local processes and the log.
//! With these the daemon runs on one machine without any other service.

mod folder_store;
mod log_notifier;
mod oci_builder;
mod oci_layout_registry;
mod process_cluster;
mod process_pool;
mod weather_csv;

pub use folder_store::FolderStore;
pub use log_notifier::LogNotifier;
pub use oci_builder::OciBuilder;
pub use oci_layout_registry::OciLayoutRegistry;
pub use process_cluster::{ProcessCluster, ProcessClusterConfig};
pub use process_pool::ProcessPool;
pub use weather_csv::WeatherCsv;

use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;

/// Runs blocking work on the blocking pool.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    match delayd_core::spans::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PortError::new(ErrorKind::Internal, action, format!("the worker thread failed: {error}"))),
    }
}
