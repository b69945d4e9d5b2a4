//! The objects in the cluster: applying, reading, taking away, one call each; and whether the service's address leads to
//! the new pods and to no others, which is what verification and clients rely on after a rollout.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Endpoints, Event, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::KubernetesCluster;
use super::pods::{is_serving, name};
use super::rollout::Failure;
use super::settings::{DEPLOYMENT_LABEL, FIELD_MANAGER, MANAGED_BY_LABEL, Manifest};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::read_beginning;
use delayd_core::ports::Release;

/// Lines of a crashed container's log that go into an error.
const LOG_TAIL_LINES: i64 = 8;
/// Bytes of it, at most.
const LOG_TAIL_BYTES: i64 = 4096;

/// Whether an object carries our mark.
fn is_ours(live: &Value) -> bool {
    live["metadata"]["labels"][MANAGED_BY_LABEL] == FIELD_MANAGER
}

impl KubernetesCluster {
    /// Applies an object from our side (server-side apply): fields that it names
    /// become ours, whoever had them; fields that it does not name are left alone.
    /// With `dry_run` nothing changes and the answer tells what would be there.
    pub(super) async fn put(&self, manifest: &Manifest, release: &Release, dry_run: bool) -> Result<Value, PortError> {
        let verb = if dry_run { "comparing" } else { "applying" };
        let action = format!("{verb} {}", manifest.title());
        let body = manifest.marked(&self.owner.name().await?, release);
        let (resource, name) = (manifest.resource(), manifest.name().to_owned());
        let mut params = PatchParams::apply(FIELD_MANAGER).force();
        params.dry_run = dry_run;
        let put = self.client.call(&action, move |connection| {
            let (resource, name, body, params) = (resource.clone(), name.clone(), body.clone(), params.clone());
            async move {
                let api: Api<DynamicObject> = Api::namespaced_with(connection.client, &connection.namespace, &resource);
                api.patch(&name, &params, &Patch::Apply(&body)).await
            }
        });
        self.as_json(&action, put.await?)
    }

    /// The object as it is, if it is there.
    pub(super) async fn live(&self, manifest: &Manifest) -> Result<Option<Value>, PortError> {
        let action = format!("reading {}", manifest.title());
        let (resource, name) = (manifest.resource(), manifest.name().to_owned());
        let found = self.client.call(&action, move |connection| {
            let (resource, name) = (resource.clone(), name.clone());
            async move {
                let api: Api<DynamicObject> = Api::namespaced_with(connection.client, &connection.namespace, &resource);
                api.get_opt(&name).await
            }
        });
        found.await?.map(|object| self.as_json(&action, object)).transpose()
    }

    /// Refuses to continue when the object is there and somebody else made it.
    ///
    /// # Errors
    /// `Conflict`, naming the object.
    pub(super) async fn refuse_foreign(&self, manifest: &Manifest) -> Result<(), PortError> {
        match self.live(manifest).await? {
            Some(live) if !is_ours(&live) => {
                let message = "it is there already and delayd did not make it; delete it, or choose another \
                               cluster.kubernetes.name";
                Err(PortError::new(ErrorKind::Conflict, format!("applying {}", manifest.title()), message))
            }
            _ => Ok(()),
        }
    }

    /// Takes an object away, and what it made. One that is not there is no error,
    /// and one that somebody else made stays.
    pub(super) async fn remove_object(&self, manifest: &Manifest) -> Result<(), PortError> {
        match self.live(manifest).await? {
            None => return Ok(()),
            Some(live) if !is_ours(&live) => {
                tracing::warn!(object = manifest.title(), "it is not deleted: delayd did not make it");
                return Ok(());
            }
            Some(_) => {}
        }
        let action = format!("deleting {}", manifest.title());
        let (resource, name) = (manifest.resource(), manifest.name().to_owned());
        let deleted = self.client.call(&action, move |connection| {
            let (resource, name) = (resource.clone(), name.clone());
            async move {
                let api: Api<DynamicObject> = Api::namespaced_with(connection.client, &connection.namespace, &resource);
                api.delete(&name, &DeleteParams::background()).await.map(|_| ())
            }
        });
        match deleted.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn as_json(&self, action: &str, object: DynamicObject) -> Result<Value, PortError> {
        serde_json::to_value(object).map_err(|error| PortError::new(ErrorKind::Internal, action, error.to_string()))
    }

    /// Every pod of the service, those that are going away too.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>, PortError> {
        let which = ListParams::default().labels(&self.selector_text());
        self.client.list("listing the service's pods", &which).await
    }

    /// What the cluster noted about one pod, oldest first.
    pub(super) async fn events_of(&self, pod: &str) -> Result<Vec<Event>, PortError> {
        let which = ListParams::default().fields(&format!("involvedObject.kind=Pod,involvedObject.name={pod}"));
        let mut events: Vec<Event> = self.client.list("reading events", &which).await?;
        events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(events)
    }

    /// The last lines that a pod's container wrote; with `previous` those of the
    /// container before the present one.
    pub(super) async fn log_tail(&self, pod: &str, container: &str, previous: bool) -> Result<String, PortError> {
        let params = LogParams {
            container: Some(container.to_owned()),
            previous,
            tail_lines: Some(LOG_TAIL_LINES),
            limit_bytes: Some(LOG_TAIL_BYTES),
            ..LogParams::default()
        };
        let (action, pod) = (format!("reading the log of pod {pod}"), pod.to_owned());
        let log = self.client.call(&action, move |connection| {
            let (params, pod) = (params.clone(), pod.clone());
            async move {
                let api: Api<Pod> = Api::namespaced(connection.client, &connection.namespace);
                api.logs(&pod, &params).await
            }
        });
        log.await
    }
}

/// Endpoints reach every node within seconds; a rollout that became ready at the
/// last moment gets this long for it.
const LEAST_PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// Answers in a row from the new pods alone, for each of them: with three, two
/// pods of which one is old go unnoticed once in 64 times, and then three times more.
const ANSWERS_PER_REPLICA: usize = 3;
/// But so many at least, and no more than that.
const ANSWERS: (usize, usize) = (6, 30);

/// The part of the service's front page that is read.
#[derive(Deserialize)]
struct FrontPage {
    replica: String,
}

impl KubernetesCluster {
    /// Waits until endpoints and answers are those of the release's pods.
    pub(super) async fn await_service(&self, release: &Release, deadline: Instant) -> Result<(), Failure> {
        let deadline = deadline.max(Instant::now() + LEAST_PATIENCE);
        loop {
            let looked = self.service_fault(release).await;
            let late = Instant::now() >= deadline;
            match looked {
                Ok(None) => return Ok(()),
                Ok(Some(fault)) if late => {
                    let action = format!("the pods are ready, and the service {}", self.settings().name);
                    return Err(Failure::Broken(PortError::new(ErrorKind::Timeout, action, fault)));
                }
                Ok(Some(_)) => {}
                Err(error) if error.kind().is_outage() && !late => {
                    tracing::warn!(error = chain(&error), "the service cannot be checked at the moment");
                }
                Err(error) => return Err(Failure::of(error)),
            }
            sleep(self.poll_interval()).await;
        }
    }

    async fn service_fault(&self, release: &Release) -> Result<Option<String>, PortError> {
        let own = release.deployment.to_string();
        let pods = self.pods().await?;
        let serving = pods
            .iter()
            .filter(|pod| is_serving(pod))
            .filter(|pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(DEPLOYMENT_LABEL)) == Some(&own));
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for pod in serving {
            names.insert(name(pod).to_owned());
            addresses.extend(pod.status.as_ref().and_then(|status| status.pod_ip.clone()));
        }
        let endpoints = self.endpoint_addresses().await?;
        if endpoints != addresses {
            return Ok(Some(format!(
                "leads to {endpoints:?}; expected the new pods {addresses:?}: look at the Service's selector"
            )));
        }
        Ok(self.answering_fault(&names).await)
    }

    /// The addresses that the Service leads to.
    async fn endpoint_addresses(&self) -> Result<BTreeSet<String>, PortError> {
        let (action, name) = ("reading the service's endpoints", &self.settings().name);
        if self.versions().await?.has_endpoint_slices {
            let which = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
            let slices: Vec<EndpointSlice> = self.client.list(action, &which).await?;
            let ready = slices.into_iter().flat_map(|slice| slice.endpoints).filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
            return Ok(ready.flat_map(|endpoint| endpoint.addresses).collect());
        }
        let found: Option<Endpoints> = self.client.find(action, name).await?;
        let subsets = found.and_then(|endpoints| endpoints.subsets).unwrap_or_default();
        let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
        Ok(addresses.map(|address| address.ip).collect())
    }

    /// Asks the service's front page, each time over a new connection.
    async fn answering_fault(&self, names: &BTreeSet<String>) -> Option<String> {
        let url = format!("{}/", self.addresses.service_url());
        let needed = (ANSWERS_PER_REPLICA * names.len()).clamp(ANSWERS.0, ANSWERS.1);
        for _ in 0..needed {
            match self.front_page(&url).await {
                Ok(page) if names.contains(&page.replica) => {}
                Ok(page) => {
                    return Some(format!("is answered by {} still, which is not of this release", page.replica));
                }
                Err(fault) => return Some(fault),
            }
        }
        None
    }

    async fn front_page(&self, url: &str) -> Result<FrontPage, String> {
        let advice = "can the daemon reach the service? Otherwise set cluster.kubernetes.access = \"api_proxy\" or \
                      cluster.kubernetes.service_url";
        let failed = |error: reqwest::Error| format!("does not answer: {}; {advice}", chain(&error.without_url()));
        let request = self.unpooled.get(url).header("x-delayd-probe", "1").timeout(ANSWER_DEADLINE);
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = read_beginning(response).await;
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(format!("answers {status}: {said}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("answers with another page than delayd-serve's: {error}"))
    }
}
