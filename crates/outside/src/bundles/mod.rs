//! Model bundles: on this machine by digest, and to and from the object store.

mod store;
mod transfer;

pub use store::BundleStore;
pub use transfer::{bundle_prefix, download_bundle, upload_bundle};
