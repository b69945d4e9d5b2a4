//! Whether the service's address leads to the new pods and to no others: what
//! verification and clients rely on after a rollout.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use tokio::time::sleep;

use super::KubernetesCluster;
use super::manifest::DEPLOYMENT_LABEL;
use super::pods::is_serving;
use super::rollout::Failure;
use super::standing::name;
use delayd_core::error::PortError;
use delayd_core::error::{ErrorKind, chain};
use delayd_core::http_client::read_beginning;
use delayd_core::ports::Release;

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
                    tracing::warn!(error = chain(&error), "the service cannot be looked at at the moment");
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
        let name = self.settings().name.clone();
        if self.versions().await?.has_endpoint_slices {
            let labels = format!("kubernetes.io/service-name={name}");
            let list = self.client.call("reading the service's endpoints", move |connection| {
                let params = ListParams::default().labels(&labels);
                async move {
                    let api: Api<EndpointSlice> = Api::namespaced(connection.client, &connection.namespace);
                    api.list(&params).await
                }
            });
            let endpoints = list.await?.items.into_iter().flat_map(|slice| slice.endpoints);
            let ready = endpoints.filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
            return Ok(ready.flat_map(|endpoint| endpoint.addresses).collect());
        }
        let found = self.client.call("reading the service's endpoints", move |connection| {
            let name = name.clone();
            async move {
                let api: Api<Endpoints> = Api::namespaced(connection.client, &connection.namespace);
                api.get_opt(&name).await
            }
        });
        let subsets = found.await?.and_then(|endpoints| endpoints.subsets).unwrap_or_default();
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
