//! `delayd check`: is everything there? It changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::commands::CliError;
use crate::config::{ClusterKind, ObjectStoreKind, RegistryKind, Settings, TrainerKind, WeatherKind};
use crate::daemon::{ledger_path, needs_service_binary, service_binary};
use crate::http::certificate_expires_at;
use crate::open;
use delayd_core::clock::{Clock, SystemClock};
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ports::{ChannelKind, ObjectStore};
use delayd_data::ObjectReader;
use delayd_data::contract::Contract;
use delayd_ledger::Ledger;
use delayd_outside::cloud::OpenMeteo;
use delayd_outside::packaging::SourceKind;
use delayd_outside::packaging::source::SourceBuilder;
use delayd_outside::worker_trainer::WorkerPool as _;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    fine: bool,
    detail: String,
}

pub(super) async fn run(settings: &Settings, json: bool) -> Result<String, CliError> {
    let mut findings = vec![
        Finding { what: "configuration", fine: true, detail: "every value can be used".to_owned() },
        contract(settings),
        binary(settings),
        ledger(settings),
    ];
    let (stores, documents, trainer, source, builder, registry, cluster, notification) = tokio::join!(
        stores(settings),
        documents(settings),
        trainer(settings),
        source(settings),
        builder(settings),
        registry(settings),
        cluster(settings),
        notification(settings)
    );
    findings.extend(endpoint(settings));
    findings.extend(stores);
    findings.extend(documents);
    findings.extend([trainer, source, builder, registry, cluster]);
    findings.extend(notification);
    let failed = findings.iter().filter(|finding| !finding.fine).count();
    let text = if json {
        serde_json::to_string_pretty(&findings).map_err(|error| CliError::Failed(error.to_string()))?
    } else {
        let line = |finding: &Finding| {
            format!("{} {:<18} {}", if finding.fine { "ok  " } else { "FAIL" }, finding.what, finding.detail)
        };
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    if failed == 0 {
        return Ok(text);
    }
    eprintln!("{text}");
    Err(CliError::Checks(failed))
}

fn finding<E: std::fmt::Display>(what: &'static str, result: Result<String, E>) -> Finding {
    match result {
        Ok(detail) => Finding { what, fine: true, detail },
        Err(error) => Finding { what, fine: false, detail: error.to_string() },
    }
}

fn contract(settings: &Settings) -> Finding {
    let path = &settings.ingestion.contract_path;
    let name = if path.as_os_str().is_empty() { "built in".to_owned() } else { path.display().to_string() };
    finding("data contract", Contract::configured(path).map(|_| name).map_err(|error| chain(&error)))
}

/// The status endpoint's certificate, and who may use it from elsewhere.
fn endpoint(settings: &Settings) -> Vec<Finding> {
    let http = &settings.http;
    let certificate = http.tls().then(|| {
        let expires_at = certificate_expires_at(&http.tls_certificate, &http.tls_key);
        finding("certificate", expires_at.and_then(|at| still_valid(at, SystemClock.now())))
    });
    let tokens = http.tokens.iter().map(|token| {
        let usable = token.reveal().map(|_| format!("`{}`, {}", token.name, token.role));
        finding("token", usable.map_err(|error| chain(&error)))
    });
    certificate.into_iter().chain(tokens).collect()
}

fn still_valid(expires_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<String, String> {
    let (day, left) = (expires_at.format("%Y-%m-%d"), (expires_at - now).num_days());
    if expires_at > now {
        Ok(format!("expires on {day}, in {left} days"))
    } else {
        Err(format!(
            "http.tls_certificate expired on {day}; clients refuse it: renew the file, the daemon reads it anew"
        ))
    }
}

/// The repository that the service is built from.
async fn source(settings: &Settings) -> Finding {
    let packaging = &settings.packaging;
    if packaging.source.kind == SourceKind::BuiltIn {
        return finding::<String>("service source", Ok("the service at hand".to_owned()));
    }
    let builder = SourceBuilder::new(&packaging.source, packaging.require_static_service, &settings.daemon.state_dir);
    probed("service source", async move {
        let action = "looking at the service's repository";
        match tokio::task::spawn_blocking(move || builder.probe()).await {
            Ok(answer) => answer.map_err(|error| PortError::new(error.kind(), action, chain(&error))),
            Err(error) => Err(PortError::new(ErrorKind::Internal, action, error.to_string())),
        }
    })
    .await
}

async fn builder(settings: &Settings) -> Finding {
    probed("image builder", async { open::image_builder(settings).probe().await }).await
}

fn binary(settings: &Settings) -> Finding {
    if !needs_service_binary(settings) {
        return finding::<String>("inference service", Ok("built from its source".to_owned()));
    }
    finding(
        "inference service",
        service_binary(&settings.packaging.service_binary).map(|path| path.display().to_string()),
    )
}

fn ledger(settings: &Settings) -> Finding {
    let path = ledger_path(&settings.daemon.state_dir);
    if !path.exists() {
        return finding::<String>("ledger", Ok(format!("{} is made at the first start", path.display())));
    }
    finding("ledger", Ledger::open_read_only(&path).map(|_| path.display().to_string()).map_err(|error| chain(&error)))
}

const NO_AIRPORTS: &str = "is not in the object store: airports are needed to read local times";
const NO_FLIGHTS: &str =
    "there are no flight logs: put some there, the daemon takes them in and trains the first model";

/// How long an outside system may take to say that it is there.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// What an adapter says of its outside system.
async fn probed(what: &'static str, probe: impl Future<Output = Result<String, PortError>>) -> Finding {
    match tokio::time::timeout(PROBE_LIMIT, probe).await {
        Ok(result) => finding(what, result.map_err(|error| chain(&error))),
        Err(_) => finding::<String>(what, Err(format!("did not answer within {} s", PROBE_LIMIT.as_secs()))),
    }
}

/// A folder that the first start makes is not made here.
fn made_later(settings: &Settings, configured: &Path, default: &str) -> Option<String> {
    let folder = open::folder_or(settings, configured, default);
    (!folder.exists()).then(|| format!("{} is made at the first start", folder.display()))
}

async fn stores(settings: &Settings) -> Vec<Finding> {
    let section = &settings.object_store;
    if section.kind == ObjectStoreKind::Folder
        && let Some(later) = made_later(settings, &section.folder, "store")
    {
        // What the daemon makes, it makes empty: the data are still to come.
        let folder = open::folder_or(settings, &section.folder, "store");
        let missing = |key: &str, advice: &str| format!("{}: {advice}", folder.join(key).display());
        let ingestion = &settings.ingestion;
        let airports = if ingestion.airports_url.is_set() {
            Ok(format!("{} is fetched by ingestion.airports_url at the first ingestion", ingestion.airports_key))
        } else {
            Err(missing(&ingestion.airports_key, NO_AIRPORTS))
        };
        let flights: Result<String, String> = Err(missing(&ingestion.flights_prefix, NO_FLIGHTS));
        return [
            finding::<String>("object store", Ok(later)),
            finding("airports", airports),
            finding("flights", flights),
        ]
        .into_iter()
        .chain(weather_api(settings).await)
        .collect();
    }
    let store = match open::object_store(settings) {
        Ok(store) => store,
        Err(error) => return vec![finding::<String>("object store", Err(chain(&error)))],
    };
    let weather =
        async { open::weather(settings, store.clone(), Arc::new(SystemClock), ObjectReader::default())?.probe().await };
    let (store, airports, flights, weather) = tokio::join!(
        probed("object store", store.probe()),
        probed("airports", airports(settings, store.as_ref())),
        probed("flights", flights(settings, store.as_ref())),
        probed("weather", weather)
    );
    vec![store, airports, flights, weather]
}

/// Weather that does not lie in the store.
async fn weather_api(settings: &Settings) -> Option<Finding> {
    match settings.weather.kind {
        WeatherKind::Csv => None,
        WeatherKind::OpenMeteo => {
            Some(probed("weather", OpenMeteo::probe_api(&settings.weather.open_meteo, SystemClock.now())).await)
        }
    }
}

/// Airports and holidays behind a URL.
async fn documents(settings: &Settings) -> Vec<Finding> {
    let documents = match open::reference_documents(settings) {
        Ok(documents) => documents,
        Err(error) => return vec![finding::<String>("reference data", Err(chain(&error)))],
    };
    let mut findings = Vec::new();
    for (what, document) in [("airports by URL", documents.airports), ("holidays by URL", documents.holidays)] {
        if let Some(document) = document {
            findings.push(probed(what, document.probe()).await);
        }
    }
    findings
}

async fn airports(settings: &Settings, store: &dyn ObjectStore) -> Result<String, PortError> {
    let key = &settings.ingestion.airports_key;
    if store.list(key).await?.iter().any(|object| object.key == *key) {
        return Ok(key.clone());
    }
    if settings.ingestion.airports_url.is_set() {
        return Ok(format!("{key} is fetched by ingestion.airports_url at the first ingestion"));
    }
    Err(PortError::new(ErrorKind::NotFound, key, NO_AIRPORTS))
}

/// Whether there is anything that a first model could learn from.
async fn flights(settings: &Settings, store: &dyn ObjectStore) -> Result<String, PortError> {
    let prefix = &settings.ingestion.flights_prefix;
    match store.list(prefix).await?.len() {
        0 => Err(PortError::new(ErrorKind::NotFound, prefix, NO_FLIGHTS)),
        count => Ok(format!("{count} objects under {prefix}")),
    }
}

async fn trainer(settings: &Settings) -> Finding {
    let probe = async {
        match settings.trainer.kind {
            // Without the store: opening a folder would make it.
            TrainerKind::Process => open::training_processes(settings)?.probe().await,
            TrainerKind::KubernetesJob => open::trainer(settings, open::object_store(settings)?)?.probe().await,
        }
    };
    probed("trainer", probe).await
}

async fn registry(settings: &Settings) -> Finding {
    let section = &settings.registry;
    match section.kind {
        RegistryKind::Layout => match made_later(settings, &section.layout_dir, "images") {
            Some(later) => finding::<String>("image registry", Ok(later)),
            None => probed("image registry", async { open::image_registry(settings)?.probe().await }).await,
        },
        RegistryKind::Oci | RegistryKind::Ecr => {
            probed("image registry", async { open::image_registry(settings)?.probe().await }).await
        }
    }
}

/// A cluster of local processes belongs to whoever runs it, and is not opened here.
async fn cluster(settings: &Settings) -> Finding {
    match settings.cluster.kind {
        ClusterKind::Processes => finding::<String>("cluster", Ok("processes of this machine".to_owned())),
        ClusterKind::Kubernetes => {
            // No local processes, so no service binary to run.
            probed("cluster", async { open::cluster(settings, Path::new(""))?.probe().await }).await
        }
    }
}

/// Every channel is asked, and told of in a line of its own.
async fn notification(settings: &Settings) -> Vec<Finding> {
    let templates = open::templates(settings);
    let channels = open::channels(settings, &templates);
    let asked =
        channels.into_iter().map(|(kind, channel)| probed(told_as(kind), async move { channel?.probe().await }));
    let mut findings = futures::future::join_all(asked).await;
    findings.insert(0, finding("alert templates", templates.check()));
    findings
}

fn told_as(channel: ChannelKind) -> &'static str {
    match channel {
        ChannelKind::Log => "alerts: log",
        ChannelKind::Slack => "alerts: slack",
        ChannelKind::Mail => "alerts: mail",
        ChannelKind::Webhook => "alerts: webhook",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_fine_until_it_expires() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let expires_at = at("2026-03-04T00:00:00Z");
        assert_eq!(still_valid(expires_at, at("2026-03-01T12:00:00Z")).unwrap(), "expires on 2026-03-04, in 2 days");
        let told = still_valid(expires_at, expires_at).unwrap_err();
        assert!(told.contains("http.tls_certificate expired on 2026-03-04"), "{told}");
    }
}
