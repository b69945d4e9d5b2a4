//! The objects in the cluster: applying, reading, taking away. One call each;
//! what they mean together is the rollout's business.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams};
use serde_json::Value;

use super::KubernetesCluster;
use super::manifest::{FIELD_MANAGER, MANAGED_BY_LABEL, Manifest};
use delayd_core::error::ErrorKind;
use delayd_core::error::PortError;
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

    /// Refuses to go on when the object is there and somebody else made it.
    ///
    /// # Errors
    /// `Conflict`, naming the object.
    pub(super) async fn refuse_stranger(&self, manifest: &Manifest) -> Result<(), PortError> {
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
    pub(super) async fn take_away(&self, manifest: &Manifest) -> Result<(), PortError> {
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
        let labels = self.selector_text();
        let list = self.client.call("listing the service's pods", move |connection| {
            let params = ListParams::default().labels(&labels);
            async move {
                let api: Api<Pod> = Api::namespaced(connection.client, &connection.namespace);
                api.list(&params).await
            }
        });
        Ok(list.await?.items)
    }

    /// What the cluster noted about one pod, oldest first.
    pub(super) async fn events_of(&self, pod: &str) -> Result<Vec<Event>, PortError> {
        let fields = format!("involvedObject.kind=Pod,involvedObject.name={pod}");
        let list = self.client.call("reading events", move |connection| {
            let params = ListParams::default().fields(&fields);
            async move {
                let api: Api<Event> = Api::namespaced(connection.client, &connection.namespace);
                api.list(&params).await
            }
        });
        let mut events = list.await?.items;
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
