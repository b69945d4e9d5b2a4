//! A replica: its bundle, checked and made ready; what its workers share, and what each has of its own; its clock.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use chrono::{DateTime, Utc};
use delayd_features::{CategoryInput, NumericInput, RawInputs};
use delayd_http_limits::{Connections, Limits};
use delayd_model::admin::{ReplicaPhase, ReplicaReport};
use delayd_model::{Bundle, PredictScratch, Prediction, Predictor, Sketch, SketchCounter};
use tokio::sync::Notify;

use crate::counters::{Counters, PredictionRing};
use crate::error::{BodyMemory, StartError};
use crate::options::Options;

/// Connections to the administrative address: it is for the daemon, the kubelet and Prometheus,
/// and what clients do on the public one must not take their room.
const ADMIN_CONNECTIONS: usize = 128;

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) model: LoadedModel,
    pub(crate) counters: Arc<Counters>,
    pub(crate) public_connections: Connections,
    pub(crate) admin_connections: Connections,
    pub(crate) ring: PredictionRing,
    pub(crate) max_batch: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) body_memory: BodyMemory,
    /// Notified once the last counts were collected.
    pub(crate) collected: Notify,
    phase: AtomicU8,
}

impl Replica {
    /// A replica that may have so many `descriptors` open.
    pub(crate) fn new(name: String, model: LoadedModel, shards: usize, descriptors: usize, options: &Options) -> Self {
        let public = options.limits().within(descriptors.saturating_sub(ADMIN_CONNECTIONS));
        let admin = Limits { connections_per_client: ADMIN_CONNECTIONS / 2, connections: ADMIN_CONNECTIONS, ..public };
        Self {
            name,
            started_at: now(),
            counters: Arc::new(Counters::new(shards, &model.empty_sketch)),
            public_connections: Connections::new(public),
            admin_connections: Connections::new(admin),
            model,
            ring: PredictionRing::new(options.kept_predictions),
            max_batch: options.max_batch,
            max_body_bytes: options.max_body_bytes,
            // One body always has room, or requests of the largest size would never be answered.
            body_memory: BodyMemory::new(options.max_bodies_bytes.max(options.max_body_bytes)),
            collected: Notify::new(),
            phase: AtomicU8::new(0),
        }
    }

    pub(crate) fn phase(&self) -> ReplicaPhase {
        match self.phase.load(Ordering::SeqCst) {
            0 => ReplicaPhase::Ready,
            1 => ReplicaPhase::Draining,
            _ => ReplicaPhase::Drained,
        }
    }

    /// Goes to the next phase of its life; there is no way back.
    pub(crate) fn enter(&self, phase: ReplicaPhase) {
        let number = match phase {
            ReplicaPhase::Ready => 0,
            ReplicaPhase::Draining => 1,
            ReplicaPhase::Drained => 2,
        };
        self.phase.fetch_max(number, Ordering::SeqCst);
    }

    pub(crate) fn report(&self) -> ReplicaReport {
        // The phase first: what is called final must have been counted before.
        let phase = self.phase();
        let total = self.counters.total();
        let unknown = self.model.categories.iter().map(|input| {
            let count = total.unknown.get(*input as usize).copied().unwrap_or(0);
            (input.name().to_owned(), count)
        });
        ReplicaReport {
            replica: self.name.clone(),
            model_version: self.model.version.clone(),
            bundle: self.model.bundle.clone(),
            feature_hash: self.model.feature_hash.clone(),
            phase,
            started_at: self.started_at,
            reported_at: now(),
            requests: total.traffic,
            in_flight: self.counters.public_in_flight.load(Ordering::SeqCst),
            latency: total.traffic_latency,
            unknown_categories: unknown.collect(),
            sketch: total.sketch,
            last_sequence: self.ring.last_sequence(),
            memory_bytes: resident_memory_bytes(),
        }
    }
}

/// A worker's own part: its shard and its buffers.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) replica: Arc<Replica>,
    pub(crate) shard: usize,
    pub(crate) buffers: RefCell<Buffers>,
    /// Whether it answers on the administrative address.
    pub(crate) admin: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) scratch: PredictScratch,
    pub(crate) chunk: Vec<(RawInputs, Prediction)>,
}

/// Resident memory of this process, where the system reports it.
pub(crate) fn resident_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The model and everything about it that answers contain.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    pub(crate) predictor: Predictor,
    pub(crate) counter: SketchCounter,
    pub(crate) empty_sketch: Sketch,
    pub(crate) version: String,
    pub(crate) bundle: String,
    pub(crate) feature_hash: String,
    /// Categories that the network reads, in the order of their indexes.
    pub(crate) categories: Vec<CategoryInput>,
    /// Numbers that the network reads and the caller supplies.
    pub(crate) context: Vec<NumericInput>,
}

impl LoadedModel {
    /// Reads a bundle, verifies its digests and checks its golden rows.
    pub(crate) fn load(dir: &Path, version: &str) -> Result<Self, StartError> {
        let failed = |source| StartError::Bundle { path: dir.to_owned(), source };
        let (bundle, digest) = Bundle::read_from(dir).map_err(failed)?;
        let predictor = Predictor::from_bundle(&bundle).map_err(failed)?;
        if bundle.golden.is_empty() {
            tracing::warn!(bundle.digest = %digest, "bundle has no golden rows: nothing shows that it is served as it was trained");
        }
        let inputs = bundle.features.numerics.iter().filter_map(|feature| NumericInput::from_name(&feature.input));
        Ok(Self {
            counter: bundle.reference.counter(),
            empty_sketch: bundle.reference.empty_sketch(),
            version: version.to_owned(),
            bundle: digest,
            feature_hash: bundle.features.hash(),
            categories: bundle.features.categories.iter().map(|feature| feature.input).collect(),
            context: inputs.filter(|input| input.is_context()).collect(),
            predictor,
        })
    }
}

#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
