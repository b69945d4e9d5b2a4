//! The production adapters: S3, HTTP weather, image registries, Kubernetes, Slack
//! and mail. No type of an SDK leaves this folder.

pub mod s3;
mod mail;
mod mail_message;
mod mail_session;
mod mail_settings;
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
pub mod ecr;
pub mod registry;
mod docker_engine;

pub use docker_engine::{DockerEngine, DockerEngineSettings};
pub mod kubernetes;
pub mod kubernetes_trainer;
