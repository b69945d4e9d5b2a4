//! The production adapters: S3, HTTP weather and documents, image registries, the
//! Docker Engine, Kubernetes, Slack and mail. No type of an SDK leaves this folder.

mod aws;
mod docker_engine;
pub mod ecr;
mod http_document;
pub mod kubernetes;
pub mod kubernetes_trainer;
mod mail;
mod mail_session;
mod open_meteo;
pub mod registry;
pub mod s3;
mod slack;
mod webhook;

pub use docker_engine::{DockerEngine, DockerEngineSettings};
pub use http_document::{HttpDocument, HttpDocumentSettings};
pub use mail::{MailNotifier, MailSettings, MailTls};
pub use open_meteo::{OpenMeteo, OpenMeteoSettings};
pub use slack::{SlackNotifier, SlackSettings};
pub use webhook::{WebhookNotifier, WebhookSettings};
