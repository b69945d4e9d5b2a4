//! What the daemon needs of the outside, each as one small trait. No SDK's type
//! crosses a port; behaviour such as retry is added by wrapping one.

mod cluster;
mod document;
mod image_registry;
mod notifier;
mod object_store;
mod weather;

pub use cluster::{Cluster, Release, Replica, ReplicaState, RolloutProgress};
pub use document::{DocumentSource, FetchedDocument, ReferenceKind, Validators};
pub use image_registry::{ImageRegistry, PushedImage, check_tag};
pub use notifier::{
    Alert, ChannelKind, Endpoint, Notice, NoticeKind, Notifier, Severity, Undelivered, UnknownChannel, topic_of,
};
pub use object_store::{ObjectMeta, ObjectStore, check_key, check_prefix};
pub use weather::{WeatherAnswer, WeatherObservation, WeatherSource};

pub use crate::error::PortError;
