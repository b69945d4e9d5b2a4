//! Which libraries compute.

use std::collections::BTreeMap;

/// The version of the libtorch bindings, from `Cargo.lock`.
pub const TCH_VERSION: &str = env!("DELAYD_TCH_VERSION");
/// The libtorch that was built with, from its headers; `unknown` where `LIBTORCH` did not name it.
pub const LIBTORCH_VERSION: &str = match option_env!("DELAYD_LIBTORCH_VERSION") {
    Some(version) => version,
    None => "unknown",
};

pub fn library_versions() -> BTreeMap<String, String> {
    let named = [("tch", TCH_VERSION), ("libtorch", LIBTORCH_VERSION)];
    named.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}
