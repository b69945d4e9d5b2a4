//! What the daemon may do in its namespace, asked of the API server right by
//! right. Nothing is changed.

use futures::StreamExt;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, PostParams};

use super::KubernetesCluster;
use super::settings::{Access, KubernetesSettings};
use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;

/// Questions asked at the same time.
const CONCURRENCY: usize = 8;

/// One right, as roles name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Right {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// Every right that these settings need; `k8s/rbac/role.yaml` grants them.
fn needed(settings: &KubernetesSettings) -> Vec<Right> {
    let mut rights = Vec::new();
    let mut add = |group, resource, subresource, verbs: &[&'static str]| {
        rights.extend(verbs.iter().map(|verb| Right { group, resource, subresource, verb }));
    };
    for object in &settings.objects {
        add(object.group(), object.plural(), "", &["get", "create", "patch", "delete"]);
    }
    add("", "configmaps", "", &["get", "list", "create", "update", "delete"]);
    add("", "pods", "", &["list"]);
    add("", "pods", "log", &["get"]);
    add("", "events", "", &["list"]);
    if settings.access == Access::ApiProxy {
        add("", "pods", "proxy", &["get", "create"]);
        add("", "services", "proxy", &["get", "create"]);
    }
    rights
}

impl KubernetesCluster {
    /// Whether the API server answers, the namespace is there, and every right is granted.
    pub(super) async fn examined(&self) -> Result<String, PortError> {
        let version = self.client.call("asking for the API server's version", |connection| async move {
            connection.client.apiserver_version().await.map(|info| info.git_version)
        });
        let version = version.await?;
        let namespace = self.client.connection("looking for the namespace").await?.namespace;
        let mut rights = needed(self.settings());
        rights.push(match self.versions().await?.has_endpoint_slices {
            true => Right { group: "discovery.k8s.io", resource: "endpointslices", subresource: "", verb: "list" },
            false => Right { group: "", resource: "endpoints", subresource: "", verb: "get" },
        });
        let missing = self.missing(rights).await?;
        if !missing.is_empty() {
            let message = format!(
                "in namespace {namespace} these rights are missing: {}; k8s/rbac/role.yaml grants them",
                missing.join(", ")
            );
            return Err(PortError::new(ErrorKind::Denied, "asking for our rights", message));
        }
        self.find_namespace(&namespace).await?;
        let name = &self.settings().name;
        let runs = match self.own_record().await?.and_then(|record| record.applied) {
            Some(release) => format!("{name} runs {} ({})", release.model, release.deployment),
            None => format!("{name} is not deployed yet"),
        };
        Ok(format!("Kubernetes {version}, namespace {namespace}, every right is granted; {runs}"))
    }

    async fn missing(&self, rights: Vec<Right>) -> Result<Vec<String>, PortError> {
        let asked = rights.into_iter().map(|right| async move {
            let allowed = self.is_allowed(right).await?;
            Ok((!allowed).then(|| right.to_string()))
        });
        let answers: Vec<Result<Option<String>, PortError>> =
            futures::stream::iter(asked).buffered(CONCURRENCY).collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    async fn is_allowed(&self, right: Right) -> Result<bool, PortError> {
        let review = self.client.call("asking for our rights", move |connection| {
            let attributes = ResourceAttributes {
                namespace: Some(connection.namespace.clone()),
                group: Some(right.group.to_owned()),
                resource: Some(right.resource.to_owned()),
                subresource: Some(right.subresource.to_owned()).filter(|name| !name.is_empty()),
                verb: Some(right.verb.to_owned()),
                ..ResourceAttributes::default()
            };
            let review = SelfSubjectAccessReview {
                metadata: ObjectMeta::default(),
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                status: None,
            };
            async move {
                let api: Api<SelfSubjectAccessReview> = Api::all(connection.client);
                api.create(&PostParams::default(), &review).await
            }
        });
        Ok(review.await?.status.is_some_and(|status| status.allowed))
    }

    async fn find_namespace(&self, namespace: &str) -> Result<(), PortError> {
        let (action, name) = (format!("looking for namespace {namespace}"), namespace.to_owned());
        let found = self.client.call(&action, move |connection| {
            let name = name.clone();
            async move { Api::<Namespace>::all(connection.client).get_opt(&name).await }
        });
        match found.await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let message = format!("it does not exist; make it with `kubectl create namespace {namespace}`");
                Err(PortError::new(ErrorKind::NotFound, action, message))
            }
            // Looking at it is a right of its own, which nothing else needs.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::kubernetes::ServiceObject;

    #[test]
    fn the_role_that_is_shipped_grants_every_right_that_any_settings_need() {
        let role = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/rbac/role.yaml"));
        let role: serde_json::Value = serde_saphyr::from_str(role).unwrap();
        let rules = role["rules"].as_array().unwrap();
        let has = |list: &serde_json::Value, text: &str| list.as_array().unwrap().iter().any(|entry| entry == text);
        let everything = KubernetesSettings {
            objects: ServiceObject::ALL.to_vec(),
            access: Access::ApiProxy,
            ..KubernetesSettings::default()
        };
        for right in needed(&everything) {
            let resource = match right.subresource {
                "" => right.resource.to_owned(),
                sub => format!("{}/{sub}", right.resource),
            };
            let grants = |rule: &&serde_json::Value| {
                has(&rule["apiGroups"], right.group)
                    && has(&rule["resources"], &resource)
                    && has(&rule["verbs"], right.verb)
            };
            assert!(rules.iter().any(|rule| grants(&rule)), "{right} is not granted");
        }
        let is_wild = |rule: &serde_json::Value| has(&rule["resources"], "*") || has(&rule["verbs"], "*");
        assert!(!rules.iter().any(is_wild), "no right is given by a star");
    }

    #[test]
    fn a_right_is_named_as_in_a_role() {
        let right = Right { group: "apps", resource: "deployments", subresource: "", verb: "patch" };
        assert_eq!(right.to_string(), "patch deployments.apps");
        let log = Right { group: "", resource: "pods", subresource: "log", verb: "get" };
        assert_eq!(log.to_string(), "get pods/log");
    }
}
