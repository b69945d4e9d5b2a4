//! Reconciliation: what somebody changed or took away is noticed, told and put
//! right; a rollout that nobody continues is ended.
//!
//! An object is compared with what applying it would make of it (a dry run by the
//! API server), so defaults and the fields of others are no difference.

use std::time::Instant;

use serde_json::Value;

use super::KubernetesCluster;
use super::record::{Record, release_of};
use super::rollout::{Failure, Planned};
use super::settings::{Manifest, ServiceObject};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::Release;

/// Differences told of one object.
const SHOWN_DIFFERENCES: usize = 5;
/// Fields that the API server keeps for itself.
const BOOKKEEPING: [&str; 6] =
    ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];

impl KubernetesCluster {
    /// Puts right what is not as it was applied; one line for each such thing.
    pub(super) async fn restore_wanted_state(&self) -> Result<Vec<String>, PortError> {
        let mut repairs = Vec::new();
        let Some(mut record) = self.recover_record(&mut repairs).await? else { return Ok(repairs) };
        if record.rolling.is_some() {
            self.settle(&mut record).await?;
        }
        if record.rolling.is_some() {
            return Ok(repairs);
        }
        let Some(release) = record.applied.clone() else { return Ok(repairs) };
        let manifests = match self.kept_manifests(&release).await? {
            Some(manifests) => manifests,
            None => {
                let manifests = self.rendered(&release).await?;
                self.keep_manifests(&release, &manifests).await?;
                repairs.push(format!("the manifests kept of {} were gone and were made again", release.deployment));
                manifests
            }
        };
        for manifest in &manifests {
            let manifest = self.scaled(manifest, &manifests).await?;
            repairs.extend(self.repair(&manifest, &release).await?);
        }
        self.remember(Some(release));
        Ok(repairs)
    }

    /// The record; where it is gone, made again from the Deployment or from memory.
    async fn recover_record(&self, repairs: &mut Vec<String>) -> Result<Option<Record>, PortError> {
        if let Some(record) = self.own_record().await? {
            return Ok(Some(record));
        }
        let lost = match self.lost_release().await {
            // A stranger's Deployment is none of our business as long as we do not deploy.
            Err(error) if error.kind() == ErrorKind::Conflict && self.remembered().is_none() => return Ok(None),
            lost => lost?.or_else(|| self.remembered()),
        };
        let Some(release) = lost else { return Ok(None) };
        let mut record = self.claim().await?;
        record.applied = Some(release);
        self.write_record(&mut record).await?;
        repairs.push(format!("the record of service {} was gone and was made again", self.settings().name));
        Ok(Some(record))
    }

    /// Ends a rollout that an earlier daemon began: it is done, broken, or left
    /// alone while it makes progress.
    async fn settle(&self, record: &mut Record) -> Result<(), PortError> {
        let Some(release) = record.rolling.clone() else { return Ok(()) };
        let before = self.plan_before(record).await?;
        let manifests = match self.kept_manifests(&release).await? {
            Some(manifests) => manifests,
            None => self.rendered(&release).await?,
        };
        let planned = Planned { release: release.clone(), manifests };
        self.learn_address(&planned.manifests).await?;
        let begun = self.live_deployment().await?.as_ref().and_then(release_of) == Some(release.clone());
        let standing = match begun {
            true => Some(self.check_rollout(&release).await?),
            // Recorded, and not applied any further.
            false => None,
        };
        let reason = match standing {
            None => "it had not been applied yet".to_owned(),
            Some(standing) if standing.done => match self.await_service(&release, Instant::now()).await {
                Ok(()) => {
                    tracing::info!(deployment.id = %release.deployment, "a rollout that was interrupted has become ready");
                    let earlier = before.map(|before| before.manifests).unwrap_or_default();
                    return self.finish(record, &planned, &earlier).await;
                }
                Err(Failure::Outage(error)) => return Err(error),
                Err(Failure::Broken(error)) => chain(&error),
            },
            Some(standing) if standing.is_broken() || standing.given_up => {
                chain(&self.explained(standing, &release, None).await)
            }
            Some(_) => return Ok(()),
        };
        let outcome = self.roll_back_reporting(record, &planned, before).await;
        tracing::warn!(deployment.id = %release.deployment, reason, outcome, "a rollout that was interrupted is undone");
        Ok(())
    }

    /// A new daemon does not know the Service's address yet.
    async fn learn_address(&self, manifests: &[Manifest]) -> Result<(), PortError> {
        let Some(service) = manifests.iter().find(|manifest| manifest.object == ServiceObject::Service) else {
            return Ok(());
        };
        if let Some(live) = self.live(service).await? {
            self.addresses.note_service(&live);
        }
        Ok(())
    }

    async fn repair(&self, manifest: &Manifest, release: &Release) -> Result<Option<String>, PortError> {
        let Some(live) = self.live(manifest).await? else {
            self.restore_object(manifest, release).await?;
            return Ok(Some(format!("{} was gone and was made again", manifest.title())));
        };
        if manifest.object == ServiceObject::Service {
            self.addresses.note_service(&live);
        }
        let version = live.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        if self.is_verified(&manifest.title(), version) {
            return Ok(None);
        }
        let wanted = self.put(manifest, release, true).await?;
        let differences = differences(&live, &wanted);
        if differences.is_empty() {
            self.note_verified(manifest.title(), version.to_owned());
            return Ok(None);
        }
        self.restore_object(manifest, release).await?;
        let by = last_other_manager(&live).map(|manager| format!(" by {manager}")).unwrap_or_default();
        Ok(Some(format!("{} was changed{by} and was put right: {}", manifest.title(), listed(&differences))))
    }

    async fn restore_object(&self, manifest: &Manifest, release: &Release) -> Result<(), PortError> {
        let live = self.put(manifest, release, false).await?;
        if manifest.object == ServiceObject::Service {
            self.addresses.note_service(&live);
        }
        Ok(())
    }
}

fn listed(differences: &[String]) -> String {
    let mut text = differences.iter().take(SHOWN_DIFFERENCES).cloned().collect::<Vec<_>>().join(", ");
    if differences.len() > SHOWN_DIFFERENCES {
        text.push_str(&format!(" and {} more", differences.len() - SHOWN_DIFFERENCES));
    }
    text
}

/// Where an object is not as it should be. Values are told only where they cannot
/// be secrets: numbers, booleans, and images.
fn differences(live: &Value, wanted: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", live, wanted, &mut found);
    found
}

fn compare(path: &str, live: &Value, wanted: &Value, found: &mut Vec<String>) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let mut keys: Vec<&String> = live.keys().chain(wanted.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let skipped = match path {
                    "" => key == "status",
                    "metadata" => BOOKKEEPING.contains(&key.as_str()),
                    _ => false,
                };
                if !skipped {
                    let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                    compare(&below, &of(live), &of(wanted), found);
                }
            }
        }
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => {
            for (index, (live, wanted)) in live.iter().zip(wanted).enumerate() {
                compare(&format!("{path}[{index}]"), live, wanted, found);
            }
        }
        (live, wanted) if live == wanted => {}
        (live, wanted) => {
            let is_plain = |value: &Value| value.is_number() || value.is_boolean() || path.ends_with(".image");
            found.push(match is_plain(live) && is_plain(wanted) {
                true => format!("{path} ({live}, is {wanted} again)"),
                false => path.to_owned(),
            });
        }
    }
}

/// Who wrote to the object last, other than us and the cluster itself.
fn last_other_manager(live: &Value) -> Option<String> {
    let fields = live.pointer("/metadata/managedFields")?.as_array()?;
    let others = fields.iter().filter(|entry| {
        let manager = entry["manager"].as_str().unwrap_or_default();
        !manager.starts_with("delayd") && !manager.starts_with("kube-controller-manager") && manager != "kubelet"
    });
    let last = others.max_by_key(|entry| entry["time"].as_str().unwrap_or_default().to_owned())?;
    last["manager"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_keeps_for_itself_is_no_difference() {
        let live =
            json!({"metadata": {"name": "a", "resourceVersion": "1", "generation": 3}, "status": {"replicas": 1}});
        let wanted = json!({"metadata": {"name": "a", "resourceVersion": "2", "generation": 4}, "status": {}});
        assert_eq!(differences(&live, &wanted), Vec::<String>::new());
    }

    #[test]
    fn differences_are_told_by_their_place_and_values_only_where_they_cannot_be_secret() {
        let spec = |replicas: u32, image: &str, value: &str| json!({"spec": {"replicas": replicas, "containers": [{"image": image, "env": [{"value": value}]}]}});
        let found = differences(&spec(5, "evil", "s3cret"), &spec(2, "good", "other"));
        assert_eq!(
            found,
            [
                "spec.containers[0].env[0].value",
                "spec.containers[0].image (\"evil\", is \"good\" again)",
                "spec.replicas (5, is 2 again)",
            ]
        );
        let many: Vec<String> = (0..7).map(|number| number.to_string()).collect();
        assert_eq!(listed(&many), "0, 1, 2, 3, 4 and 2 more");
    }

    #[test]
    fn a_key_or_entry_that_is_missing_is_a_difference() {
        let found = differences(&json!({"spec": {"ports": [1]}}), &json!({"spec": {"ports": [1, 2], "type": "x"}}));
        assert_eq!(found, ["spec.ports", "spec.type"]);
    }

    #[test]
    fn the_last_stranger_who_wrote_is_named() {
        let entry = |manager: &str, time: &str| json!({"manager": manager, "time": time});
        let live = json!({"metadata": {"managedFields": [
            entry("kubectl-edit", "2026-01-02T00:00:00Z"), entry("argocd", "2026-01-01T00:00:00Z"),
            entry("kube-controller-manager", "2026-01-03T00:00:00Z"), entry("delayd", "2026-01-04T00:00:00Z"),
        ]}});
        assert_eq!(last_other_manager(&live).as_deref(), Some("kubectl-edit"));
        assert_eq!(last_other_manager(&json!({})), None);
    }
}
