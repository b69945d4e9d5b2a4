//! The documents of a worker, and where they lie in the object store:
//!
//! ```text
//! training-jobs/run_7/trial-2-round-0-1f0c…/job.json        what to do
//!                                           progress.json   the last news
//!                                           failure.json    why the last attempt failed
//!                                           bundle/<hex>/…  a trained bundle
//!                                           result.json     written last, and once
//! ```
//!
//! The folder's name holds the digest of the document, so that no work can be taken
//! for another one's, whatever happened to a run of the same name before.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::TrainingJob;
use crate::tune::{TrialRecord, TrialTask};
use crate::{Progress, TrainingParameters, TrainingReport, TuningReport};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::ids::{Digest, RunId};
use delayd_core::ports::ObjectStore;

const ROOT: &str = "training-jobs/";
const DOCUMENT: &str = "job.json";

/// Which part of a job a worker does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkPart {
    /// All of it, the search too.
    Whole,
    /// One trial of the search.
    Trial {
        /// Which one, with what.
        task: TrialTask,
    },
    /// The training itself, after a search that others ran.
    Chosen {
        /// The best candidate's parameters.
        parameters: TrainingParameters,
        /// The search, for the record.
        tuning: TuningReport,
    },
}

impl WorkPart {
    /// Its name within the run: lower-case letters, digits and hyphens.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Whole | Self::Chosen { .. } => "training".to_owned(),
            Self::Trial { task } => format!("trial-{}-round-{}", task.trial, task.round),
        }
    }
}

/// `job.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkDocument {
    /// Format of this structure.
    pub format: u32,
    /// Version of delayd that wrote it: another one might compute something else.
    pub version: String,
    /// The job.
    pub job: TrainingJob,
    /// Which part of it.
    pub part: WorkPart,
}

impl WorkDocument {
    /// The format this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// The document of a part.
    #[must_use]
    pub fn new(job: TrainingJob, part: WorkPart) -> Self {
        Self { format: Self::FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), job, part }
    }

    fn bytes(&self) -> Result<Bytes, PortError> {
        let body = serde_json::to_vec_pretty(self);
        body.map(Bytes::from).map_err(|error| PortError::new(ErrorKind::Internal, self.job.action(), error.to_string()))
    }

    /// Where its work lies.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn work(&self) -> Result<Work, PortError> {
        let document = Digest::of(&self.bytes()?);
        let prefix = format!("{}{}-{}/", run_prefix(self.job.run), self.part.name(), document.short());
        Ok(Work { prefix })
    }

    /// Stores it; storing it again changes nothing.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn store(&self, store: &dyn ObjectStore) -> Result<Work, PortError> {
        let work = self.work()?;
        store.put(&work.document_key(), self.bytes()?).await?;
        Ok(work)
    }

    /// Reads the document of some work.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Corrupt` when its digest is not the one in its
    /// name; `Invalid` when another build wrote it.
    pub async fn read(store: &dyn ObjectStore, work: &Work) -> Result<Self, PortError> {
        let key = work.document_key();
        let body = store.get(&key).await?;
        let action = format!("reading {key}");
        let found = Digest::of(&body);
        if !work.prefix.trim_end_matches('/').ends_with(found.short()) {
            let message = format!("its digest {found} is not the one in its name; start the training anew");
            return Err(PortError::new(ErrorKind::Corrupt, action, message));
        }
        let read: Self = serde_json::from_slice(&body).map_err(|error| {
            let message = format!("is no document of this build of delayd: {error}");
            PortError::new(ErrorKind::Invalid, action.as_str(), message)
        })?;
        if read.format == Self::FORMAT && read.version == env!("CARGO_PKG_VERSION") {
            return Ok(read);
        }
        let message = format!(
            "was written by delayd {} (format {}), and this is delayd {} (format {}); the worker's image must be the daemon's",
            read.version,
            read.format,
            env!("CARGO_PKG_VERSION"),
            Self::FORMAT
        );
        Err(PortError::new(ErrorKind::Invalid, action, message))
    }
}

/// Where everything of a run's workers lies.
#[must_use]
pub fn run_prefix(run: RunId) -> String {
    format!("{ROOT}{run}/")
}

/// Where one worker's documents lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    prefix: String,
}

impl Work {
    /// The work whose document has this key.
    ///
    /// # Errors
    /// `Invalid` when it is no document's key.
    pub fn at_document(key: &str) -> Result<Self, PortError> {
        let prefix = key.strip_suffix(DOCUMENT).filter(|prefix| prefix.starts_with(ROOT) && prefix.ends_with('/'));
        let prefix = prefix.ok_or_else(|| {
            let message = format!("expected a key like {ROOT}run_7/training-0123456789ab/{DOCUMENT}");
            PortError::new(ErrorKind::Invalid, format!("doing the work of `{key}`"), message)
        })?;
        Ok(Self { prefix: prefix.to_owned() })
    }

    /// The key of the document.
    #[must_use]
    pub fn document_key(&self) -> String {
        format!("{}{DOCUMENT}", self.prefix)
    }

    /// The key of the result.
    #[must_use]
    pub fn result_key(&self) -> String {
        format!("{}result.json", self.prefix)
    }

    /// The key of the last attempt's failure.
    #[must_use]
    pub fn failure_key(&self) -> String {
        format!("{}failure.json", self.prefix)
    }

    /// The key of the last news.
    #[must_use]
    pub fn progress_key(&self) -> String {
        format!("{}progress.json", self.prefix)
    }

    /// Where a trained bundle lies: two workers whose machines compute differently do
    /// not write into each other's.
    #[must_use]
    pub fn bundle_prefix(&self, bundle: &Digest) -> String {
        format!("{}bundle/{}/", self.prefix, bundle.hex())
    }
}

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorkResult {
    /// Of a trial.
    Trial {
        /// How it ended.
        record: Box<TrialRecord>,
    },
    /// Of a training.
    Trained {
        /// The bundle's digest; it lies under [`Work::bundle_prefix`].
        bundle: Digest,
        /// ROC-AUC on the held-out rows.
        roc_auc: f64,
        /// The bundle's metrics.
        metrics: serde_json::Value,
        /// How it came about.
        report: Box<TrainingReport>,
    },
}

/// `progress.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressDocument {
    /// Counts up from 1.
    pub number: u64,
    /// The last news.
    pub progress: Progress,
}

/// `failure.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureDocument {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// The whole chain of causes.
    pub message: String,
}

/// A document as it is stored.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json<T: Serialize>(key: &str, value: &T) -> Result<Bytes, PortError> {
    let body = serde_json::to_vec_pretty(value);
    body.map(Bytes::from)
        .map_err(|error| PortError::new(ErrorKind::Internal, format!("writing {key}"), error.to_string()))
}

/// Writes or replaces a document.
///
/// # Errors
/// When the store fails.
pub async fn put_json<T: Serialize>(store: &dyn ObjectStore, key: &str, value: &T) -> Result<(), PortError> {
    store.put(key, json(key, value)?).await
}

/// Reads a document; `None` where there is none.
///
/// # Errors
/// When the store fails, or the document is another one.
pub async fn get_json<T: DeserializeOwned>(store: &dyn ObjectStore, key: &str) -> Result<Option<T>, PortError> {
    let body = match store.get(key).await {
        Ok(body) => body,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&body).map(Some).map_err(|error| {
        let message = format!("is not what this build of delayd writes there: {error}");
        PortError::new(ErrorKind::Corrupt, format!("reading {key}"), message)
    })
}
