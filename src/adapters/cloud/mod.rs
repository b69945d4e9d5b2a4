//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

mod http_document;
mod limited_body;
mod open_meteo;

pub use http_document::{HttpDocument, HttpDocumentSettings};
pub use open_meteo::{OpenMeteo, OpenMeteoSettings};
