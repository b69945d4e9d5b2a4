//! ECR's repositories: created where missing, their old images expired by a
//! lifecycle policy, tags taken away. What exists already keeps its own settings.

use aws_sdk_ecr::Client;
use aws_sdk_ecr::types::{ImageFailureCode, ImageIdentifier, ImageScanningConfiguration, ImageTagMutability, Tag};
use serde_json::{Value, json};

use super::EcrRegistrySettings;
use crate::cloud::aws::port_error;
use delayd_core::error::{ErrorKind, PortError};

/// By this the policies are known that are ours to change.
const OURS: &str = "delayd:";

/// One repository of the registry.
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

#[cfg(test)]
mod tests {
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
