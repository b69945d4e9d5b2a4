//! The bundle on disk: written once, verified at every reading. It carries golden rows with known answers: the service
//! checks them before it is ready, so that training and serving can never disagree unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use delayd_features::{FeatureSpec, FlightRow, NumericInput, SpecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::net::{Architecture, Calibration, NetError};
use crate::reference::DriftReference;

const MANIFEST: &str = "manifest.json";
const FEATURES: &str = "features.json";
const MODEL: &str = "model.json";
const WEIGHTS: &str = "weights.safetensors";
const REFERENCE: &str = "reference.json";
const GOLDEN: &str = "golden.json";
const METRICS: &str = "metrics.json";
const TRAINING: &str = "training.json";
const CARD: &str = "MODEL_CARD.md";

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("bundle file {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "bundle file {file} is damaged: its SHA-256 is {found}, the manifest says {expected}; restore the bundle from the registry"
    )]
    Damaged { file: String, found: String, expected: String },
    #[error("bundle manifest does not list {0}")]
    Unlisted(String),
    #[error("bundle file {file} cannot be read: {source}")]
    Json { file: String, source: serde_json::Error },
    #[error("bundle has format {found}; this build reads format {expected}")]
    Format { found: u32, expected: u32 },
    #[error("bundle's feature spec hashes to {found}, the manifest says {expected}")]
    FeatureHash { found: String, expected: String },
    #[error("bundle manifest lists `{0}`, which is not a plain file name")]
    FileName(String),
    #[error("bundle's parts do not belong together: {0}")]
    Mismatch(String),
    #[error("bundle's feature spec cannot be used")]
    Spec(#[from] SpecError),
    #[error("bundle's weights cannot be used")]
    Net(#[from] NetError),
    #[error("bundle fails its golden rows")]
    Golden(#[from] GoldenError),
}

/// `model.json`: what stands beside the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    pub architecture: Architecture,
    /// Logit to probability.
    pub calibration: Calibration,
    /// Probability from which a flight counts as delayed.
    pub threshold: f32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub feature_hash: String,
    /// SHA-256 in hex and length of every file.
    pub files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub sha256: String,
    pub size_bytes: u64,
}

/// A model version with everything that is needed to serve and to judge it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The fitted transform.
    pub features: FeatureSpec,
    /// Architecture, calibration, threshold.
    pub model: ModelFile,
    pub weights: Vec<u8>,
    /// What the training set looked like, for drift.
    pub reference: DriftReference,
    /// Rows with known answers.
    pub golden: Vec<GoldenRow>,
    /// Evaluation (schema in docs/bundle.md).
    pub metrics: serde_json::Value,
    /// Parameters, seed, commit, device, library versions.
    pub training: serde_json::Value,
    pub card: String,
}

impl Bundle {
    /// The format this build writes and reads.
    pub const FORMAT: u32 = 1;

    fn files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>, BundleError> {
        fn json<T: Serialize>(file: &str, value: &T) -> Result<Vec<u8>, BundleError> {
            serde_json::to_vec_pretty(value).map_err(|source| BundleError::Json { file: file.to_owned(), source })
        }
        Ok(BTreeMap::from([
            (FEATURES, json(FEATURES, &self.features)?),
            (MODEL, json(MODEL, &self.model)?),
            (WEIGHTS, self.weights.clone()),
            (REFERENCE, json(REFERENCE, &self.reference)?),
            (GOLDEN, json(GOLDEN, &self.golden)?),
            (METRICS, json(METRICS, &self.metrics)?),
            (TRAINING, json(TRAINING, &self.training)?),
            (CARD, self.card.clone().into_bytes()),
        ]))
    }

    fn manifest_of(&self, files: &BTreeMap<&'static str, Vec<u8>>) -> Manifest {
        let entry = |bytes: &Vec<u8>| FileEntry { sha256: sha256(bytes), size_bytes: bytes.len() as u64 };
        Manifest {
            format: Self::FORMAT,
            feature_hash: self.features.hash(),
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), entry(bytes))).collect(),
        }
    }

    /// The bundle's digest, `sha256:…`, of its manifest.
    pub fn digest(&self) -> Result<String, BundleError> {
        Ok(digest_of(&manifest_bytes(&self.manifest_of(&self.files()?))?))
    }

    /// Writes the bundle to `dir`, which must not exist yet: all of it or nothing.
    /// Answers the digest.
    /// When the file system refuses; nothing is left behind at `dir` then.
    pub fn write_to(&self, dir: &Path) -> Result<String, BundleError> {
        let files = self.files()?;
        let manifest = manifest_bytes(&self.manifest_of(&files))?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        // A new folder of a name that nobody guesses; where writing fails it goes. The umask takes its share of the mode.
        let staging = tempfile::Builder::new()
            .prefix(&format!(".{name}.partial-"))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(|source| io(parent, source))?;
        for (name, bytes) in &files {
            write_synced(&staging.path().join(name), bytes)?;
        }
        write_synced(&staging.path().join(MANIFEST), &manifest)?;
        sync_dir(staging.path())?;
        fs::rename(staging.path(), dir).map_err(|source| io(dir, source))?;
        // It has its own name now.
        let _ = staging.keep();
        sync_dir(parent)?;
        Ok(digest_of(&manifest))
    }

    /// Reads a bundle and verifies every file against the manifest. Answers the
    /// bundle and its digest.
    pub fn read_from(dir: &Path) -> Result<(Self, String), BundleError> {
        let manifest_bytes = read(&dir.join(MANIFEST))?;
        let manifest: Manifest = parse(MANIFEST, &manifest_bytes)?;
        if manifest.format != Self::FORMAT {
            return Err(BundleError::Format { found: manifest.format, expected: Self::FORMAT });
        }
        let mut files = BTreeMap::new();
        for (name, entry) in &manifest.files {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(BundleError::FileName(name.clone()));
            }
            let bytes = read(&dir.join(name))?;
            let found = sha256(&bytes);
            if found != entry.sha256 {
                return Err(BundleError::Damaged { file: name.clone(), found, expected: entry.sha256.clone() });
            }
            files.insert(name.as_str(), bytes);
        }
        let mut take = |name: &str| files.remove(name).ok_or_else(|| BundleError::Unlisted(name.to_owned()));
        let features: FeatureSpec = parse(FEATURES, &take(FEATURES)?)?;
        let found = features.hash();
        if found != manifest.feature_hash {
            return Err(BundleError::FeatureHash { found, expected: manifest.feature_hash });
        }
        let bundle = Self {
            features,
            model: parse(MODEL, &take(MODEL)?)?,
            weights: take(WEIGHTS)?,
            reference: parse(REFERENCE, &take(REFERENCE)?)?,
            golden: parse(GOLDEN, &take(GOLDEN)?)?,
            metrics: parse(METRICS, &take(METRICS)?)?,
            training: parse(TRAINING, &take(TRAINING)?)?,
            card: String::from_utf8_lossy(&take(CARD)?).into_owned(),
        };
        Ok((bundle, digest_of(&manifest_bytes)))
    }
}

fn manifest_bytes(manifest: &Manifest) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec_pretty(manifest).map_err(|source| BundleError::Json { file: MANIFEST.to_owned(), source })
}

fn digest_of(manifest: &[u8]) -> String {
    format!("sha256:{}", sha256(manifest))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn io(path: &Path, source: std::io::Error) -> BundleError {
    BundleError::Io { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, BundleError> {
    fs::read(path).map_err(|source| io(path, source))
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes).map_err(|source| BundleError::Json { file: file.to_owned(), source })
}

/// Makes names in a folder survive a power cut, as `sync_all` does with contents.
fn sync_dir(dir: &Path) -> Result<(), BundleError> {
    fs::File::open(dir).and_then(|folder| folder.sync_all()).map_err(|source| io(dir, source))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let mut file = fs::File::create(path).map_err(|source| io(path, source))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| io(path, source))
}

/// A flight and the probability that training computed for it in libtorch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRow {
    pub carrier: String,
    pub flight_number: u32,
    pub origin: String,
    pub dest: String,
    pub scheduled_departure: DateTime<Utc>,
    pub scheduled_arrival: Option<DateTime<Utc>>,
    pub distance_miles: Option<f32>,
    /// Known context numbers by name.
    pub context: BTreeMap<String, f32>,
    pub score: f32,
}

/// A golden row that does not come out.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum GoldenError {
    #[error("golden row {index} ({flight}) scores {found:.6}, training computed {expected:.6} (tolerance {tolerance})")]
    Differs { index: usize, flight: String, found: f32, expected: f32, tolerance: f32 },
    #[error("golden row {index} names the unknown input `{name}`")]
    UnknownInput { index: usize, name: String },
}

impl GoldenRow {
    pub const TOLERANCE: f32 = 1e-3;

    pub fn record(row: &FlightRow, score: f32) -> Self {
        let known = NumericInput::ALL.iter().filter(|input| input.is_context() && row.get(**input).is_finite());
        Self {
            carrier: row.carrier.clone(),
            flight_number: row.flight_number,
            origin: row.origin.clone(),
            dest: row.dest.clone(),
            scheduled_departure: row.scheduled_departure,
            scheduled_arrival: row.scheduled_arrival,
            distance_miles: row.distance_miles,
            context: known.map(|input| (input.name().to_owned(), row.get(*input))).collect(),
            score,
        }
    }

    pub fn to_row(&self, index: usize) -> Result<FlightRow, GoldenError> {
        let mut row = FlightRow::scheduled(
            &*self.carrier,
            self.flight_number,
            &*self.origin,
            &*self.dest,
            self.scheduled_departure,
        );
        row.scheduled_arrival = self.scheduled_arrival;
        row.distance_miles = self.distance_miles;
        for (name, value) in &self.context {
            let input =
                NumericInput::from_name(name).ok_or_else(|| GoldenError::UnknownInput { index, name: name.clone() })?;
            row.set(input, *value);
        }
        Ok(row)
    }
}
