//! Amazon ECR: repositories and logins by ECR's API, images by the OCI
//! distribution protocol. It connects at the first use. It deliberately does not
//! change a repository that it did not create, replicate, or read scan results.

mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_ecr::Client;
use aws_sdk_ecr::types::{
    AuthorizationData, ImageFailureCode, ImageIdentifier, ImageScanningConfiguration, ImageTagMutability, Tag,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::registry::{OciRegistry, TagMove, Target, full_name};
use crate::cloud::aws::port_error;
use crate::cloud::registry::authorization::{Login, LoginSource};
use delayd_core::clock::{Clock as _, SystemClock};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::Digest;
use delayd_core::ports::{ImageRegistry, PushedImage, check_tag};
pub use settings::EcrRegistrySettings;

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

/// By this the policies are known that are ours to change.
const OURS: &str = "delayd:";

pub(super) struct Repository<'a> {
    pub(super) api: &'a Client,
    pub(super) settings: &'a EcrRegistrySettings,
    pub(super) name: &'a str,
}

impl Repository<'_> {
    /// Creates the repository unless it is there or is not ours to create.
    pub(super) async fn ensure(&self) -> Result<(), PortError> {
        if !self.settings.create_repository {
            return Ok(());
        }
        let action = format!("looking for repository {} at ECR", self.name);
        let described = self
            .api
            .describe_repositories()
            .set_registry_id(self.settings.registry_id())
            .repository_names(self.name)
            .send()
            .await;
        match described {
            Ok(answer) => {
                let mutable = answer
                    .repositories()
                    .iter()
                    .any(|repository| repository.image_tag_mutability() == Some(&ImageTagMutability::Mutable));
                if mutable && self.settings.immutable_tags {
                    tracing::debug!(repository = self.name, "the repository lets tags be moved; delayd does not");
                }
                Ok(())
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_repository_not_found_exception()) => {
                self.create().await
            }
            Err(error) => Err(port_error(&action, error)),
        }
    }

    async fn create(&self) -> Result<(), PortError> {
        let settings = self.settings;
        let action = format!("creating repository {} at ECR", self.name);
        let mutability =
            if settings.immutable_tags { ImageTagMutability::Immutable } else { ImageTagMutability::Mutable };
        let ours = Tag::builder().key("created-by").value("delayd").build();
        let ours = ours.map_err(|error| PortError::new(ErrorKind::Internal, &action, error.to_string()))?;
        let created = self
            .api
            .create_repository()
            .set_registry_id(settings.registry_id())
            .repository_name(self.name)
            .image_tag_mutability(mutability)
            .image_scanning_configuration(
                ImageScanningConfiguration::builder().scan_on_push(settings.scan_on_push).build(),
            )
            .tags(ours)
            .send()
            .await;
        match created {
            Ok(_) => {
                tracing::info!(repository = self.name, "created a repository at ECR");
                Ok(())
            }
            // Somebody else did in the meantime.
            Err(error) if error.as_service_error().is_some_and(|e| e.is_repository_already_exists_exception()) => {
                Ok(())
            }
            Err(error) => Err(port_error(&action, error)),
        }
    }

    /// Sets the lifecycle policy where it is missing or ours and different.
    pub(super) async fn keep_newest(&self) -> Result<(), PortError> {
        if self.settings.keep_images == 0 {
            return Ok(());
        }
        let wanted = policy(self.settings.keep_images);
        let present = self.present_policy().await?;
        if present.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if present.is_some_and(|present| !is_ours(&present)) {
            tracing::warn!(repository = self.name, "the repository has a lifecycle policy of its owner's; it stays");
            return Ok(());
        }
        let action = format!("setting the lifecycle policy of {} at ECR", self.name);
        self.api
            .put_lifecycle_policy()
            .set_registry_id(self.settings.registry_id())
            .repository_name(self.name)
            .lifecycle_policy_text(wanted.to_string())
            .send()
            .await
            .map(|_| ())
            .map_err(|error| port_error(&action, error))
    }

    /// The policy as it is; text that is no JSON counts as somebody else's.
    async fn present_policy(&self) -> Result<Option<Value>, PortError> {
        let action = format!("reading the lifecycle policy of {} at ECR", self.name);
        let answer = self
            .api
            .get_lifecycle_policy()
            .set_registry_id(self.settings.registry_id())
            .repository_name(self.name)
            .send()
            .await;
        match answer {
            Ok(answer) => {
                let text = answer.lifecycle_policy_text().unwrap_or_default();
                Ok(Some(serde_json::from_str(text).unwrap_or(Value::Null)))
            }
            Err(error) if error.as_service_error().is_some_and(|e| e.is_lifecycle_policy_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(port_error(&action, error)),
        }
    }

    /// Takes a tag away; one that is not there is no error. ECR deletes an image with its last tag.
    pub(super) async fn remove_tag(&self, tag: &str) -> Result<(), PortError> {
        let action = format!("removing tag {}:{tag} at ECR", self.name);
        let answer = self
            .api
            .batch_delete_image()
            .set_registry_id(self.settings.registry_id())
            .repository_name(self.name)
            .image_ids(ImageIdentifier::builder().image_tag(tag).build())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_repository_not_found_exception()) => {
                return Ok(());
            }
            Err(error) => return Err(port_error(&action, error)),
        };
        let failure = answer.failures().iter().find(|f| f.failure_code() != Some(&ImageFailureCode::ImageNotFound));
        let Some(failure) = failure else { return Ok(()) };
        let code = failure.failure_code().map_or("no code", ImageFailureCode::as_str);
        let message = format!("refused with {code}: {}", failure.failure_reason().unwrap_or("no reason"));
        let kind = match failure.failure_code() {
            Some(ImageFailureCode::ImageReferencedByManifestList) => ErrorKind::Conflict,
            _ => ErrorKind::Invalid,
        };
        Err(PortError::new(kind, action, message))
    }
}

/// Expires all but the newest images (Amazon ECR, "Lifecycle policy properties").
fn policy(keep_images: u32) -> Value {
    json!({"rules": [{
        "rulePriority": 1,
        "description": format!("{OURS} keep the newest {keep_images} images"),
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": keep_images},
        "action": {"type": "expire"},
    }]})
}

/// Whether every rule of a policy was written by [`policy`].
fn is_ours(policy: &Value) -> bool {
    policy["rules"].as_array().is_some_and(|rules| {
        rules.iter().all(|rule| rule["description"].as_str().is_some_and(|text| text.starts_with(OURS)))
    })
}

/// A login is replaced this long before it expires: longer than any push takes.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Asks ECR for logins and keeps the last one while it holds.
#[derive(Debug)]
pub(super) struct EcrLogin {
    api: Client,
    kept: Mutex<Option<Kept>>,
    /// The registry refused the one that is kept.
    refused: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Kept {
    login: Login,
    good_until: Instant,
}

/// What ECR answers.
struct Granted {
    login: Login,
    life: Duration,
    host: String,
}

impl EcrLogin {
    pub(super) fn new(api: Client) -> Self {
        Self { api, kept: Mutex::default(), refused: std::sync::atomic::AtomicBool::new(false) }
    }

    /// The host that ECR names; the login that comes with it is kept.
    pub(super) async fn host(&self, action: &str) -> Result<String, PortError> {
        let mut kept = self.kept.lock().await;
        let granted = self.ask(action).await?;
        let host = granted.host.clone();
        *kept = Some(Kept::of(granted));
        Ok(host)
    }

    async fn ask(&self, action: &str) -> Result<Granted, PortError> {
        let action = format!("{action}: asking ECR for a login");
        // The SDK writes answers into the log at its lowest level, and this one is a password.
        let answer = self.api.get_authorization_token().send().with_subscriber(NoSubscriber::default()).await;
        let answer = answer.map_err(|error| port_error(&action, error))?;
        // A token's expiry is told in the world's time, whatever a replay's clock shows.
        let granted = answer.authorization_data().first().and_then(|data| Granted::read(data, SystemClock.now()));
        granted.ok_or_else(|| {
            let message = "the answer holds no login; expected a token of user and password, and a registry's address";
            PortError::new(ErrorKind::Corrupt, action, message)
        })
    }
}

impl Granted {
    fn read(data: &AuthorizationData, now: DateTime<Utc>) -> Option<Self> {
        let login = Login::from_base64(data.authorization_token()?)?;
        let host = data.proxy_endpoint()?.split_once("://").map(|(_, host)| host.trim_end_matches('/').to_owned())?;
        let secs = data.expires_at().map_or(0, |at| at.secs().saturating_sub(now.timestamp()));
        Some(Self { login, host, life: Duration::from_secs(secs.try_into().unwrap_or(0)) })
    }
}

impl Kept {
    fn of(granted: Granted) -> Self {
        Self { login: granted.login, good_until: Instant::now() + granted.life.saturating_sub(MARGIN) }
    }
}

#[async_trait]
impl LoginSource for EcrLogin {
    async fn login(&self, action: &str) -> Result<Option<Login>, PortError> {
        let mut kept = self.kept.lock().await;
        let refused = self.refused.swap(false, std::sync::atomic::Ordering::SeqCst);
        if let Some(kept) = kept.as_ref().filter(|kept| !refused && Instant::now() < kept.good_until) {
            return Ok(Some(kept.login.clone()));
        }
        let fresh = Kept::of(self.ask(action).await?);
        let login = fresh.login.clone();
        *kept = Some(fresh);
        Ok(Some(login))
    }

    fn forget(&self) {
        self.refused.store(true, std::sync::atomic::Ordering::SeqCst);
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

#[cfg(test)]
mod repository_tests {
    use super::*;

    #[test]
    fn only_our_own_policies_may_be_replaced() {
        assert!(is_ours(&policy(10)));
        let mut mixed = policy(10);
        mixed["rules"].as_array_mut().unwrap().push(json!({"rulePriority": 2}));
        assert!(!is_ours(&mixed));
        assert!(!is_ours(&Value::Null));
    }
}

#[cfg(test)]
mod token_tests {
    use super::*;
    use aws_sdk_ecr::primitives::DateTime as AwsDateTime;
    use base64::Engine as _;

    fn data(token: &str, expires_at: i64) -> AuthorizationData {
        AuthorizationData::builder()
            .authorization_token(base64::engine::general_purpose::STANDARD.encode(token))
            .expires_at(AwsDateTime::from_secs(expires_at))
            .proxy_endpoint("https://123456789012.dkr.ecr.eu-central-1.amazonaws.com")
            .build()
    }

    #[test]
    fn a_login_is_kept_until_shortly_before_it_expires() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let granted = Granted::read(&data("AWS:s3cret", 1_000_000 + 12 * 3600), now).unwrap();
        assert_eq!((granted.login.username.as_str(), granted.life.as_secs()), ("AWS", 12 * 3600));
        assert_eq!(granted.host, "123456789012.dkr.ecr.eu-central-1.amazonaws.com");
        let left = Kept::of(granted).good_until - Instant::now();
        assert!(left > Duration::from_secs(11 * 3600) && left < Duration::from_secs(12 * 3600), "{left:?}");
        assert_eq!(Granted::read(&data("AWS:s3cret", 5), now).unwrap().life, Duration::ZERO);
        assert!(Granted::read(&data("no colon", 5), now).is_none());
    }
}
