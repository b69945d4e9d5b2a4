//! What the daemon needs of the outside, each as one small trait. No SDK's type
//! crosses a port; behaviour such as retry is added by wrapping one.

mod notifier;
mod release;
mod sources;

pub use notifier::{
    Alert, ChannelKind, Endpoint, Notice, NoticeKind, Notifier, Severity, Undelivered, UnknownChannel, topic_of,
};
pub use release::{Cluster, ImageRegistry, PushedImage, Release, Replica, ReplicaState, RolloutProgress, check_tag};
pub use sources::{
    DocumentSource, FetchedDocument, ObjectMeta, ObjectStore, ReferenceKind, Validators, WeatherAnswer,
    WeatherObservation, WeatherSource, check_key, check_prefix,
};

pub use crate::error::PortError;
