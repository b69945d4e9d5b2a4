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

use delayd_core::fault::Fault;

/// Gathers the faults of one section of the configuration.
struct Faults<'a> {
    section: &'a str,
    found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    fn of(section: &'a str) -> Self {
        Self { section, found: Vec::new() }
    }

    fn check(&mut self, holds: bool, key: &str, found: impl std::fmt::Display, expected: &str) {
        if !holds {
            let key = format!("{}.{key}", self.section);
            let found = found.to_string();
            let found = if found.is_empty() { "not set".to_owned() } else { format!("`{found}`") };
            self.found.push(Fault { key, found, expected: expected.to_owned() });
        }
    }
}
