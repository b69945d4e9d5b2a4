//! The objects of a release, made from templates. What an expression writes is
//! JSON, which is YAML: no value can break out of its place. What comes out is
//! checked for everything that the adapter relies on; nothing else is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, ErrorKind as TemplateFault, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use super::settings::{
    ApiVersions, DEPLOYMENT_LABEL, FIELD_MANAGER, KubernetesSettings, MANAGED_BY_LABEL, MODEL_LABEL, Manifest,
    SERVICE_LABEL, ServiceObject,
};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::Release;

/// Port of the container for clients; the image's command says so.
pub(super) const PUBLIC_PORT: u16 = 8080;
/// Port of the container for the administrative routes.
pub(super) const ADMIN_PORT: u16 = 9090;
/// Beyond delay and linger times: `delayd-serve` waits 20 s for unanswered requests, and a little for itself.
const GRACE_MARGIN_SECS: u64 = 25;

/// What templates are filled with besides the release.
#[derive(Debug, Clone)]
pub(super) struct Surroundings<'a> {
    /// `[cluster.kubernetes]`.
    pub(super) settings: &'a KubernetesSettings,
    pub(super) namespace: &'a str,
    /// `cluster.drain_linger_secs`.
    pub(super) drain_linger_secs: u64,
    /// `cluster.ready_deadline_secs`.
    pub(super) progress_deadline_secs: u64,
    pub(super) versions: ApiVersions,
}

impl Surroundings<'_> {
    /// How long leaving takes at most: accept on, wait for idle connections, for
    /// unanswered requests, and for the last counts to be fetched.
    pub(super) fn termination_grace_secs(&self) -> u64 {
        termination_grace_secs(self.settings, self.drain_linger_secs)
    }
}

/// See [`Surroundings::termination_grace_secs`].
pub(super) fn termination_grace_secs(settings: &KubernetesSettings, drain_linger_secs: u64) -> u64 {
    settings.drain_delay_secs + 2 * drain_linger_secs + GRACE_MARGIN_SECS
}

/// The variables; `k8s/service/README.md` documents them.
#[derive(Debug, Serialize)]
struct Variables<'a> {
    name: &'a str,
    namespace: &'a str,
    labels: BTreeMap<&'static str, String>,
    selector: BTreeMap<&'static str, String>,
    pod_labels: BTreeMap<&'static str, String>,
    image: &'a str,
    model: String,
    deployment: String,
    bundle: &'a str,
    replicas: u32,
    public_port: u16,
    admin_port: u16,
    service_port: u16,
    max_surge: u32,
    max_unavailable: u32,
    progress_deadline_secs: u64,
    drain_delay_secs: u64,
    drain_linger_secs: u64,
    termination_grace_secs: u64,
    cpu_request: &'a str,
    memory_request: &'a str,
    memory_limit: &'a str,
    image_pull_secrets: &'a [String],
    ingress_host: &'a str,
    ingress_class: &'a str,
    ingress_tls_secret: &'a str,
    min_replicas: u32,
    max_replicas: u32,
    cpu_percent: u32,
    api_version: &'static str,
}

/// Labels that tell this service's pods from all others.
pub(super) fn selector(name: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(SERVICE_LABEL, name.to_owned())])
}

impl<'a> Variables<'a> {
    fn of(release: &'a Release, around: &Surroundings<'a>, object: ServiceObject) -> Self {
        let settings = around.settings;
        let selector = selector(&settings.name);
        let own = [
            ("app.kubernetes.io/name", settings.name.clone()),
            ("app.kubernetes.io/component", "inference".to_owned()),
        ];
        let mut labels = selector.clone();
        labels.extend(own);
        let mut pod_labels = labels.clone();
        pod_labels.insert(MODEL_LABEL, release.model.to_string());
        pod_labels.insert(DEPLOYMENT_LABEL, release.deployment.to_string());
        labels.insert(MANAGED_BY_LABEL, FIELD_MANAGER.to_owned());
        Self {
            name: &settings.name,
            namespace: around.namespace,
            labels,
            selector,
            pod_labels,
            image: &release.image,
            model: release.model.to_string(),
            deployment: release.deployment.to_string(),
            bundle: release.bundle.as_str(),
            replicas: release.replicas,
            public_port: PUBLIC_PORT,
            admin_port: ADMIN_PORT,
            service_port: settings.service_port,
            max_surge: settings.max_surge,
            max_unavailable: settings.max_unavailable,
            progress_deadline_secs: around.progress_deadline_secs,
            drain_delay_secs: settings.drain_delay_secs,
            drain_linger_secs: around.drain_linger_secs,
            termination_grace_secs: around.termination_grace_secs(),
            cpu_request: &settings.cpu_request,
            memory_request: &settings.memory_request,
            memory_limit: &settings.memory_limit,
            image_pull_secrets: &settings.image_pull_secrets,
            ingress_host: &settings.ingress_host,
            ingress_class: &settings.ingress_class,
            ingress_tls_secret: &settings.ingress_tls_secret,
            min_replicas: release.replicas,
            max_replicas: settings.autoscaling_max_replicas.max(release.replicas),
            cpu_percent: settings.autoscaling_cpu_percent,
            api_version: around.versions.of(object),
        }
    }
}

/// The template's file name and built-in text.
fn built_in(object: ServiceObject) -> (&'static str, &'static str) {
    macro_rules! template {
        ($file:literal) => {
            ($file, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/service/", $file)))
        };
    }
    match object {
        ServiceObject::NetworkPolicy => template!("network_policy.yaml"),
        ServiceObject::Service => template!("service.yaml"),
        ServiceObject::PodDisruptionBudget => template!("pod_disruption_budget.yaml"),
        ServiceObject::Deployment => template!("deployment.yaml"),
        ServiceObject::HorizontalPodAutoscaler => template!("horizontal_pod_autoscaler.yaml"),
        ServiceObject::Ingress => template!("ingress.yaml"),
    }
}

/// A template, and where it is from.
struct Template {
    origin: String,
    text: String,
}

impl Template {
    fn read(folder: &Path, object: ServiceObject) -> Result<Self, PortError> {
        let (file, text) = built_in(object);
        let own = || Self { origin: format!("built-in template {file}"), text: text.to_owned() };
        if folder.as_os_str().is_empty() {
            return Ok(own());
        }
        let path: PathBuf = folder.join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { origin: format!("template {}", path.display()), text }),
            // Only what is changed needs to be there; a folder that is missing is a mistake.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && folder.is_dir() => Ok(own()),
            Err(error) => Err(PortError::io(format!("reading template {}", path.display()), error)),
        }
    }
}

/// Every object of a release, in the order in which they are applied.
///
/// # Errors
/// `Invalid`, naming the template, the place in it, and what was expected.
pub(super) fn render(release: &Release, around: &Surroundings<'_>) -> Result<Vec<Manifest>, PortError> {
    let mut objects = around.settings.objects.clone();
    objects.sort_unstable();
    objects.dedup();
    let environment = environment();
    objects
        .into_iter()
        .map(|object| {
            let template = Template::read(&around.settings.templates_dir, object)?;
            let fault = |message: String| PortError::new(ErrorKind::Invalid, template.origin.clone(), message);
            let variables = Variables::of(release, around, object);
            let yaml = environment.render_str(&template.text, &variables).map_err(|error| fault(chain(&error)))?;
            let body: Value = serde_saphyr::from_str(&yaml).map_err(|error| fault(format!("is not YAML: {error}")))?;
            let manifest = Manifest { object, body };
            match checked(&manifest, &variables) {
                Some(expected) => Err(fault(expected)),
                None => Ok(manifest),
            }
        })
        .collect()
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() {
            return Err(TemplateFault::UndefinedError.into());
        }
        let json = serde_json::to_string(value)
            .map_err(|error| minijinja::Error::new(TemplateFault::BadSerialization, error.to_string()))?;
        out.write_str(&json).map_err(minijinja::Error::from)
    });
    environment.add_filter("text", |value: minijinja::Value| value.to_string());
    environment
}

/// What is missing of what the adapter relies on.
fn checked(manifest: &Manifest, variables: &Variables<'_>) -> Option<String> {
    let body = &manifest.body;
    let at = |path: &str| body.pointer(path);
    let text = |path: &str| at(path).and_then(Value::as_str);
    let wants = |path: &str, expected: &str, variable: &str| {
        (text(path) != Some(expected)).then(|| format!("{path} is {:?}; expected {variable}", at(path)))
    };
    let labels = |path: &str, expected: &BTreeMap<&'static str, String>, variable: &str| {
        let found = at(path).and_then(Value::as_object);
        let complete = expected
            .iter()
            .all(|(label, value)| found.and_then(|map| map.get(*label)?.as_str()) == Some(value.as_str()));
        (!complete).then(|| format!("{path} lacks labels of the service; expected {{{{ {variable} }}}}"))
    };
    let common = wants("/kind", manifest.object.kind(), manifest.object.kind())
        .or_else(|| wants("/metadata/name", variables.name, "{{ name }}"))
        .or_else(|| wants("/metadata/namespace", variables.namespace, "{{ namespace }}"));
    let common = common.or_else(|| wants("/apiVersion", variables.api_version, variables.api_version));
    common.or_else(|| match manifest.object {
        ServiceObject::Service => labels("/spec/selector", &variables.selector, "selector"),
        ServiceObject::Deployment => labels("/spec/selector/matchLabels", &variables.selector, "selector")
            .or_else(|| labels("/spec/template/metadata/labels", &variables.pod_labels, "pod_labels"))
            .or_else(|| {
                let containers = at("/spec/template/spec/containers").and_then(Value::as_array);
                let serves = |container: &Value| container["image"] == variables.image;
                let found = containers.is_some_and(|list| list.iter().any(serves));
                (!found).then(|| "no container has the image {{ image }}".to_owned())
            }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use delayd_core::ids::{DeploymentId, Digest, ModelVersion};

    const OLD: ApiVersions =
        ApiVersions { disruption: "policy/v1beta1", autoscaling: "autoscaling/v1", has_endpoint_slices: false };
    const NEW: ApiVersions =
        ApiVersions { disruption: "policy/v1", autoscaling: "autoscaling/v2", has_endpoint_slices: true };

    fn release() -> Release {
        Release {
            deployment: DeploymentId(3),
            model: ModelVersion(2),
            bundle: Digest::of(b"bundle"),
            image: format!("registry.example/delay-ml@{}", Digest::of(b"image")),
            bundle_dir: "/bundles".into(),
            replicas: 2,
        }
    }

    fn rendered(settings: &KubernetesSettings, versions: ApiVersions) -> Result<Vec<Manifest>, PortError> {
        let around =
            Surroundings { settings, namespace: "flights", drain_linger_secs: 5, progress_deadline_secs: 60, versions };
        render(&release(), &around)
    }

    fn everything() -> KubernetesSettings {
        KubernetesSettings {
            objects: ServiceObject::ALL.to_vec(),
            image_pull_secrets: vec!["pull".to_owned(), "other".to_owned()],
            ingress_host: "delays.example".to_owned(),
            ingress_class: "nginx".to_owned(),
            ingress_tls_secret: "tls".to_owned(),
            ..KubernetesSettings::default()
        }
    }

    #[test]
    fn every_built_in_template_gives_the_object_expected() {
        let manifests = rendered(&everything(), NEW).unwrap();
        assert_eq!(manifests.len(), ServiceObject::ALL.len());
        insta::assert_json_snapshot!(manifests);
    }

    #[test]
    fn an_older_cluster_gets_the_versions_that_it_serves() {
        let manifests = rendered(&everything(), OLD).unwrap();
        let of = |object| manifests.iter().find(|manifest| manifest.object == object).unwrap();
        assert_eq!(of(ServiceObject::PodDisruptionBudget).api_version(), "policy/v1beta1");
        let autoscaler = of(ServiceObject::HorizontalPodAutoscaler);
        assert_eq!(autoscaler.api_version(), "autoscaling/v1");
        assert_eq!(autoscaler.body["spec"]["targetCPUUtilizationPercentage"], 70);
    }

    #[test]
    fn objects_that_are_switched_off_are_not_made() {
        let kinds: Vec<_> = rendered(&KubernetesSettings::default(), NEW).unwrap().iter().map(|m| m.object).collect();
        assert_eq!(kinds, [ServiceObject::Service, ServiceObject::PodDisruptionBudget, ServiceObject::Deployment]);
    }

    #[test]
    fn no_value_breaks_out_of_its_place() {
        let nasty = "x\"\n  evil: true # {{ name }}";
        let settings = KubernetesSettings { ingress_host: nasty.to_owned(), ..everything() };
        let manifests = rendered(&settings, NEW).unwrap();
        let ingress = manifests.iter().find(|manifest| manifest.object == ServiceObject::Ingress).unwrap();
        assert_eq!(ingress.body["spec"]["rules"][0]["host"], nasty);
        assert!(ingress.body["spec"].get("evil").is_none());
    }

    fn with_template(file: &str, text: &str) -> Result<Vec<Manifest>, PortError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), text).unwrap();
        let settings = KubernetesSettings { templates_dir: folder.path().to_owned(), ..KubernetesSettings::default() };
        rendered(&settings, NEW)
    }

    #[test]
    fn a_template_of_ones_own_replaces_one_file_and_leaves_the_others() {
        let text = built_in(ServiceObject::Service).1.replace("ClusterIP", "NodePort");
        let manifests = with_template("service.yaml", &text).unwrap();
        assert_eq!(manifests[0].body["spec"]["type"], "NodePort");
        assert_eq!(manifests.len(), 3);
    }

    #[test]
    fn faults_of_a_template_name_its_file_and_what_was_expected() {
        let deployment = built_in(ServiceObject::Deployment).1;
        for (file, text, expected) in [
            ("deployment.yaml", deployment.replace("{{ image }}", "busybox"), "no container has the image"),
            ("deployment.yaml", deployment.replace("{{ pod_labels }}", "{a: b}"), "{{ pod_labels }}"),
            ("deployment.yaml", deployment.replace("{{ replicas }}", "{{ replikas }}"), "undefined"),
            ("deployment.yaml", deployment.replace("kind: Deployment", "kind: DaemonSet"), "expected Deployment"),
            ("service.yaml", "a: [".to_owned(), "is not YAML"),
            ("service.yaml", "{% if".to_owned(), "syntax error"),
        ] {
            let error = with_template(file, &text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(file) && error.to_string().contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_folder_of_templates_that_is_missing_is_told() {
        let settings = KubernetesSettings { templates_dir: "/nowhere".into(), ..KubernetesSettings::default() };
        assert_eq!(rendered(&settings, NEW).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
