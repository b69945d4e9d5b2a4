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
