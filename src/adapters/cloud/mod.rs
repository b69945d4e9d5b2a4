//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

mod mail;
mod mail_message;
mod mail_session;
mod mail_settings;
pub mod s3;
mod slack;
mod slack_message;
mod webhook;

pub use mail::{MailNotifier, MailSettings, MailTls};
pub use slack::{SlackNotifier, SlackSettings};
pub use webhook::{WebhookNotifier, WebhookSettings};
mod http_document;
mod limited_body;
mod open_meteo;

pub use http_document::{HttpDocument, HttpDocumentSettings};
pub use open_meteo::{OpenMeteo, OpenMeteoSettings};
mod aws;
mod docker_engine;
pub mod ecr;
pub mod registry;

pub use docker_engine::{DockerEngine, DockerEngineSettings};
pub mod kubernetes;
pub mod kubernetes_trainer;
