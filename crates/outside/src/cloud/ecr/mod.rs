//! Amazon ECR: repositories and logins by ECR's API, images by the OCI
//! distribution protocol. It connects at the first use. It deliberately does not
//! change a repository that it did not create, replicate, or read scan results.

mod repository;
mod settings;
mod token;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ecr::Client;
use tokio::sync::OnceCell;

pub use settings::EcrRegistrySettings;

use self::repository::Repository;
use self::token::EcrLogin;
use super::registry::{OciRegistry, TagMove, Target, full_name};
use delayd_core::error::PortError;
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};

/// A private registry of Amazon ECR.
#[derive(Debug)]
pub struct EcrRegistry {
    settings: EcrRegistrySettings,
    connected: OnceCell<Connected>,
}

#[derive(Debug)]
struct Connected {
    api: Client,
    registry: OciRegistry,
}

impl EcrRegistry {
    /// The registry that the settings name. Nothing is sent yet.
    #[must_use]
    pub fn new(settings: EcrRegistrySettings) -> Self {
        Self { settings, connected: OnceCell::new() }
    }

    async fn connected(&self, action: &str) -> Result<&Connected, PortError> {
        self.connected.get_or_try_init(|| self.connect(action)).await
    }

    async fn connect(&self, action: &str) -> Result<Connected, PortError> {
        let settings = &self.settings;
        let sdk = settings.access().sdk_config(action).await?;
        let mut config = aws_sdk_ecr::config::Builder::from(&sdk);
        // Amazon's own where none is named, whatever the environment says: the settings tell where images go.
        config.set_endpoint_url(Some(settings.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()));
        let api = Client::from_conf(config.build());
        let login = EcrLogin::new(api.clone());
        let host = if settings.registry_host.is_empty() {
            host_of(&login.host(action).await?, &settings.registry_id)
        } else {
            settings.registry_host.clone()
        };
        let target = Target {
            host,
            pull_host: settings.pull_host.clone(),
            repository_prefix: settings.repository_prefix.clone(),
            plain_http: settings.plain_http,
        };
        let registry = OciRegistry::with_login(target, &settings.upload, &settings.http, Arc::new(login))?;
        Ok(Connected { api, registry })
    }
}

/// The registry's host: what ECR names is that of the credentials' own account,
/// and hosts begin with the account (Amazon ECR, "Private registry").
fn host_of(named: &str, registry_id: &str) -> String {
    match named.split_once('.') {
        Some((_, rest)) if !registry_id.is_empty() => format!("{registry_id}.{rest}"),
        _ => named.to_owned(),
    }
}

#[async_trait]
impl ImageRegistry for EcrRegistry {
    async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<PushedImage, PortError> {
        let action = format!("pushing {repository}:{tag} to ECR");
        check_tag(&action, tag)?;
        let name = full_name(&action, &self.settings.repository_prefix, repository)?;
        let Connected { api, registry } = self.connected(&action).await?;
        let at_ecr = Repository { api, settings: &self.settings, name: &name };
        at_ecr.ensure().await?;
        at_ecr.keep_newest().await?;
        let moving = if self.settings.immutable_tags { TagMove::Refused } else { TagMove::Allowed };
        registry.push_image(layout, repository, tag, moving).await
    }

    async fn resolve(&self, repository: &str, tag: &str) -> Result<Option<Digest>, PortError> {
        let action = format!("resolving {repository}:{tag} at ECR");
        self.connected(&action).await?.registry.resolve(repository, tag).await
    }

    async fn remove_tag(&self, repository: &str, tag: &str) -> Result<(), PortError> {
        let action = format!("removing tag {repository}:{tag} at ECR");
        check_tag(&action, tag)?;
        let name = full_name(&action, &self.settings.repository_prefix, repository)?;
        let api = &self.connected(&action).await?.api;
        Repository { api, settings: &self.settings, name: &name }.remove_tag(tag).await
    }

    async fn probe(&self) -> Result<String, PortError> {
        let connected = self.connected("asking ECR").await?;
        Ok(format!("ECR: {}", connected.registry.probe().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_accounts_registry_has_its_own_host() {
        let named = "111111111111.dkr.ecr.eu-central-1.amazonaws.com";
        assert_eq!(host_of(named, ""), named);
        assert_eq!(host_of(named, "222222222222"), "222222222222.dkr.ecr.eu-central-1.amazonaws.com");
    }
}
