//! The daemon's own metrics, in Prometheus' text format.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::error::Problem;
use super::server::ApiState;
use crate::ids::CycleId;
use crate::ledger::Alias;
use crate::ports::ReplicaState;
use crate::saga::{StepFailure, StepObserver};

/// Counted where things happen, read at every scrape.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    step_seconds: HistogramVec,
    steps: IntCounterVec,
    live_model: IntGauge,
    replicas: IntGaugeVec,
    actor_restarts: IntGaugeVec,
    undelivered_alerts: IntGaugeVec,
    resident_memory: Gauge,
}

impl Metrics {
    /// Fresh metrics.
    ///
    /// # Errors
    /// When two metrics have the same name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let buckets = vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];
        let step_seconds = HistogramVec::new(
            HistogramOpts::new("delayd_step_duration_seconds", "Wall time of a cycle's steps.").buckets(buckets),
            &["step"],
        )?;
        let steps = IntCounterVec::new(
            Opts::new("delayd_steps_total", "Steps of cycles by how they ended."),
            &["step", "outcome"],
        )?;
        let live_model = IntGauge::new("delayd_live_model_version", "Number of the live model; 0 while none is.")?;
        let replicas =
            IntGaugeVec::new(Opts::new("delayd_replicas", "Replicas of the inference service by state."), &["state"])?;
        let actor_restarts =
            IntGaugeVec::new(Opts::new("delayd_actor_restarts", "Restarts of an actor since the start."), &["actor"])?;
        let undelivered_alerts = IntGaugeVec::new(
            Opts::new("delayd_undelivered_alerts", "Deliveries of alerts that wait or were given up, by channel."),
            &["channel", "state"],
        )?;
        let resident_memory = Gauge::new("process_resident_memory_bytes", "Resident memory of the daemon in bytes.")?;
        registry.register(Box::new(step_seconds.clone()))?;
        registry.register(Box::new(steps.clone()))?;
        registry.register(Box::new(live_model.clone()))?;
        registry.register(Box::new(replicas.clone()))?;
        registry.register(Box::new(actor_restarts.clone()))?;
        registry.register(Box::new(undelivered_alerts.clone()))?;
        registry.register(Box::new(resident_memory.clone()))?;
        Ok(Self(Arc::new(Inner {
            registry,
            step_seconds,
            steps,
            live_model,
            replicas,
            actor_restarts,
            undelivered_alerts,
            resident_memory,
        })))
    }

    async fn render(&self, state: &ApiState) -> Result<Vec<u8>, Problem> {
        let inner = &self.0;
        let live = state.env.ledger.model_by_alias(Alias::Live).await?;
        inner.live_model.set(live.map_or(0, |model| i64::try_from(model.version.0).unwrap_or(i64::MAX)));
        let replicas = state.env.cluster.replicas().await.map_err(StepFailure::from)?;
        for (name, wanted) in [
            ("starting", ReplicaState::Starting),
            ("ready", ReplicaState::Ready),
            ("draining", ReplicaState::Draining),
            ("failed", ReplicaState::Failed),
        ] {
            let count = replicas.iter().filter(|replica| replica.state == wanted).count();
            inner.replicas.with_label_values(&[name]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for actor in state.supervision.statuses() {
            let restarts = i64::try_from(actor.restarts).unwrap_or(i64::MAX);
            inner.actor_restarts.with_label_values(&[actor.name.as_str()]).set(restarts);
        }
        inner.undelivered_alerts.reset();
        for undelivered in state.env.ledger.undelivered().await? {
            let labels = [undelivered.channel.name(), undelivered.state.as_str()];
            let count = i64::try_from(undelivered.count).unwrap_or(i64::MAX);
            inner.undelivered_alerts.with_label_values(&labels).set(count);
        }
        if let Some(bytes) = resident_bytes() {
            inner.resident_memory.set(bytes);
        }
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&inner.registry.gather(), &mut text);
        encoded.map_err(|error| Problem::new(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(text)
    }
}

impl StepObserver for Metrics {
    fn started(&self, _: CycleId, _: &str) {}

    fn finished(&self, _: CycleId, step: &str, wall: Duration, failure: Option<&StepFailure>) {
        self.0.step_seconds.with_label_values(&[step]).observe(wall.as_secs_f64());
        let outcome = if failure.is_some() { "failed" } else { "done" };
        self.0.steps.with_label_values(&[step, outcome]).inc();
    }
}

/// Resident memory of this process, from `/proc/self/statm` (pages).
fn resident_bytes() -> Option<f64> {
    const PAGE_BYTES: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.route("/metrics", web::get().to(scrape));
}

async fn scrape(state: web::Data<ApiState>) -> Result<HttpResponse, Problem> {
    let text = state.metrics.render(&state).await?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text))
}
