//! What the data stage is asked, and what it answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::ids::{CycleId, Digest};

/// Fetch, parse and validate every flight log that is new.
#[derive(Debug, Clone)]
pub struct IngestFlights {
    /// The present moment: rows from the future are refused.
    pub at: DateTime<Utc>,
}

/// What an ingestion brought.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FlightsIngested {
    /// New objects that were read.
    pub objects: usize,
    /// Objects that could not be read at all, with the reason.
    pub refused: Vec<String>,
    /// Rows taken.
    pub accepted: usize,
    /// Rows in quarantine.
    pub quarantined: usize,
    /// Flights whose outcome became known.
    pub outcomes: usize,
}

/// Build the dataset of a cycle from what is ingested.
#[derive(Debug, Clone)]
pub struct BuildDataset {
    /// On behalf of which cycle.
    pub cycle: CycleId,
    /// Only what was known by then.
    pub as_of: DateTime<Utc>,
}

/// The dataset is stored and has its version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatasetBuilt {
    /// Its version.
    pub version: Digest,
    /// Flights.
    pub rows: usize,
    /// Flights with a known outcome.
    pub labelled: usize,
    /// First scheduled departure.
    pub from: DateTime<Utc>,
    /// Last scheduled departure.
    pub until: DateTime<Utc>,
}
