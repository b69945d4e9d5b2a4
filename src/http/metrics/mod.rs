//! The daemon's own metrics, in Prometheus' text format.
//!
//! What the ledger knows is read from it at each scrape, in one snapshot, and so
//! survives restarts; the rest is counted where it happens, or read where it is.
//! A source that is away costs its own metrics and no others, and
//! `delayd_scrape_errors_total` says so.

pub mod catalogue;
mod counted;
mod from_ledger;
mod live;
mod page;
mod requests;
mod targets;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use delayd_http_limits::Connections;
use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use super::error::Problem;
use super::server::ApiState;
use super::tls::ServedCertificate;
use crate::config::Settings;
use crate::cycle::saga::StepObserver;
use crate::env::Env;
use crate::stages::live_service::live_service;
use crate::supervision::Supervision;
use counted::Counted;
use delayd_core::failure::{StepFailure, run_blocking};
use delayd_core::ids::CycleId;
use delayd_judge::governor::GovernorPolicy;
use page::Page;

pub use requests::count_requests;

/// Media type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A source that does not answer for so long is left out: Prometheus gives a whole
/// scrape ten seconds.
const SOURCE_DEADLINE: Duration = Duration::from_secs(3);
/// Where metrics come from, apart from what is counted.
const SOURCES: [&str; 5] = ["ledger", "cluster", "files", "process", "certificate"];

/// Counted where things happen, read at every scrape.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    counted: Counted,
    governor: GovernorPolicy,
    state_dir: PathBuf,
    /// What the endpoint shows its clients; none with plain HTTP.
    certificate: OnceLock<ServedCertificate>,
    /// Those of the network and of the local socket, once the endpoint listens.
    connections: OnceLock<[(&'static str, Connections); 2]>,
    /// Sources that were away at the last scrape: each is logged when it goes and when it comes back.
    away: Mutex<BTreeSet<&'static str>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Fresh metrics of a daemon with these settings.
    ///
    /// # Errors
    /// When two metrics have the same name.
    pub fn new(settings: &Settings) -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Inner {
            counted: Counted::new()?,
            governor: settings.retrain.governor.clone(),
            state_dir: settings.daemon.state_dir.clone(),
            certificate: OnceLock::new(),
            connections: OnceLock::new(),
            away: Mutex::default(),
        })))
    }

    /// Tells from now on when this certificate expires. An endpoint has one: a second is not watched.
    pub(super) fn watch_certificate(&self, certificate: ServedCertificate) {
        let _ = self.0.certificate.set(certificate);
    }

    /// Tells from now on of the endpoint's connections. There is one endpoint: a second is not watched.
    pub(super) fn watch_connections(&self, network: Connections, local: Connections) {
        let _ = self.0.connections.set([("network", network), ("local", local)]);
    }

    /// The page that Prometheus reads. What cannot be had is left out.
    ///
    /// # Errors
    /// Only when the text cannot be written.
    pub async fn render(&self, env: &Env, supervision: &Supervision) -> Result<String, prometheus::Error> {
        let Inner { governor, state_dir, .. } = self.0.as_ref();
        let (now, governor, state_dir) = (env.now(), governor.clone(), state_dir.clone());
        let ledger = async {
            let read = env.ledger.read("reading the metrics", move |c| from_ledger::read(c, &governor, now)).await;
            read.map_err(StepFailure::from)
        };
        let cluster = async {
            let mut page = Page::default();
            live::replicas(&mut page, &env.cluster.replicas().await.map_err(StepFailure::from)?);
            live::served(&mut page, live_service(env).await?.as_ref());
            Ok(page)
        };
        let io =
            |error: std::io::Error| StepFailure::new(delayd_core::error::ErrorKind::of_io(&error), error.to_string());
        let files = async { run_blocking(move || live::files(&state_dir)).await?.map_err(io) };
        let process = async { run_blocking(live::process).await?.map_err(io) };
        let certificate = async {
            let corrupt = |error| StepFailure::new(delayd_core::error::ErrorKind::Corrupt, error);
            live::certificate(self.0.certificate.get()).map_err(corrupt)
        };
        let (ledger, cluster, files, process, certificate) = tokio::join!(
            self.take("ledger", ledger),
            self.take("cluster", cluster),
            self.take("files", files),
            self.take("process", process),
            self.take("certificate", certificate)
        );
        let mut own = Page::default();
        live::actors(&mut own, &supervision.statuses());
        live::build(&mut own);
        live::logs(&mut own);
        for (listener, connections) in self.0.connections.get().into_iter().flatten() {
            live::connections(&mut own, listener, connections);
        }
        from_ledger::usage(&mut own, &env.ledger.usage());
        let mut families: Vec<MetricFamily> = own.families();
        for (source, (page, wall)) in SOURCES.into_iter().zip([ledger, cluster, files, process, certificate]) {
            families.extend(page.map(Page::families).unwrap_or_default());
            let mut took = Page::default();
            took.put(&catalogue::SCRAPE_SECONDS, &[source], wall.as_secs_f64());
            merge(&mut families, took.families());
        }
        families.extend(self.0.counted.registry.gather().into_iter().filter(|family| !family.get_metric().is_empty()));
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }

    /// Waits for a source, not for ever; answers what it brought and how long it took.
    async fn take(
        &self,
        source: &'static str,
        read: impl Future<Output = Result<Page, StepFailure>>,
    ) -> (Option<Page>, Duration) {
        let begun = Instant::now();
        let answer = tokio::time::timeout(SOURCE_DEADLINE, read).await;
        let wall = begun.elapsed();
        let failure = match answer {
            Ok(Ok(page)) => {
                if self.away().remove(source) {
                    tracing::info!(scrape.source = source, "a source of metrics is back");
                }
                return (Some(page), wall);
            }
            Ok(Err(failure)) => failure.message,
            Err(_) => format!("it did not answer within {} s", SOURCE_DEADLINE.as_secs()),
        };
        self.0.counted.scrape_failed(source);
        if self.away().insert(source) {
            tracing::warn!(scrape.source = source, error = failure, "metrics are left out until their source is back");
        }
        (None, wall)
    }

    fn away(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds families, samples of the same name to the family that is there.
fn merge(families: &mut Vec<MetricFamily>, more: Vec<MetricFamily>) {
    for mut family in more {
        match families.iter_mut().find(|other| other.name() == family.name()) {
            Some(other) => other.mut_metric().extend(family.take_metric()),
            None => families.push(family),
        }
    }
}

impl StepObserver for Metrics {
    fn started(&self, _: CycleId, _: &str) {}

    fn finished(&self, _: CycleId, step: &str, wall: Duration, failure: Option<&StepFailure>) {
        self.0.counted.step(step, wall, failure.is_some());
    }

    fn timer_ran(
        &self,
        timer: &str,
        now: chrono::DateTime<chrono::Utc>,
        wall: Duration,
        failure: Option<&StepFailure>,
    ) {
        self.0.counted.timer(timer, wall, failure.is_some(), now);
    }
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(scrape)).route("/metrics/targets", web::get().to(targets::targets));
}

async fn scrape(state: web::Data<ApiState>) -> Result<HttpResponse, Problem> {
    let text = state.metrics.render(&state.env, &state.supervision).await;
    let text =
        text.map_err(|error| Problem::new(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

#[cfg(test)]
mod tests;
