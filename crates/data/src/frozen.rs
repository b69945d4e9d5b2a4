//! What a dataset's flights were joined with, frozen beside it: weather and
//! reference data. Sources outside change their mind (an archive is corrected, an
//! airport moves); whoever assembles a dataset again, the gate after a restart or a
//! worker on another machine, must see what the first one saw.
//!
//! In the object store: `datasets/<hex>/weather-<digest>.parquet` and
//! `…/reference-<digest>.json`, named by their own content, and `…/inputs.json`,
//! which is written once and says which ones count: the first writer's.

use std::io::Cursor;

use bytes::Bytes;
use chrono::DateTime;
use polars::prelude::{Column, DataFrame, IntoColumn, NamedFrom, ParquetWriter, PlSmallStr, PolarsError, Series};
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::formats::parquet::read_frame;
use super::reference::ReferenceData;
use delayd_core::error::ErrorKind;
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectStore, WeatherObservation};

/// One frozen object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenObject {
    /// Its key in the object store.
    pub key: String,
    /// The digest of its bytes.
    pub sha256: Digest,
}

/// What a dataset is joined with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenInputs {
    /// Observations, Parquet.
    pub weather: FrozenObject,
    /// Airports and holidays, JSON.
    pub reference: FrozenObject,
}

fn inputs_key(version: &Digest) -> String {
    format!("datasets/{}/inputs.json", version.hex())
}

/// What was frozen for a dataset, if anything was.
///
/// # Errors
/// When the store fails, or holds something else under that name.
pub async fn frozen_inputs(store: &dyn ObjectStore, version: &Digest) -> Result<Option<FrozenInputs>, DataError> {
    let key = inputs_key(version);
    let body = match store.get(&key).await {
        Ok(body) => body,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let read = serde_json::from_slice(&body).map(Some);
    read.map_err(|error| differs(version, format!("{key} names no frozen inputs: {error}")))
}

/// Freezes what a dataset is joined with. Answers what counts from now on: where
/// somebody froze it first, theirs.
///
/// # Errors
/// When the store fails.
pub async fn freeze(
    store: &dyn ObjectStore,
    version: &Digest,
    weather: &[WeatherObservation],
    reference: &ReferenceData,
) -> Result<FrozenInputs, DataError> {
    if let Some(first) = frozen_inputs(store, version).await? {
        return Ok(first);
    }
    let json = |value: Result<Vec<u8>, serde_json::Error>| {
        value.map(Bytes::from).map_err(|error| DataError::Internal(format!("frozen inputs: {error}")))
    };
    let inputs = FrozenInputs {
        weather: put(store, version, "weather", "parquet", Bytes::from(write_weather(weather)?)).await?,
        reference: put(store, version, "reference", "json", json(serde_json::to_vec(reference))?).await?,
    };
    store.put(&inputs_key(version), json(serde_json::to_vec(&inputs))?).await?;
    Ok(inputs)
}

async fn put(
    store: &dyn ObjectStore,
    version: &Digest,
    name: &str,
    extension: &str,
    body: Bytes,
) -> Result<FrozenObject, DataError> {
    let sha256 = Digest::of(&body);
    let key = format!("datasets/{}/{name}-{}.{extension}", version.hex(), sha256.short());
    store.put(&key, body).await?;
    Ok(FrozenObject { key, sha256 })
}

/// Reads what was frozen for a dataset, and checks every digest.
///
/// # Errors
/// When something is missing or damaged.
pub async fn load_frozen(
    store: &dyn ObjectStore,
    version: &Digest,
    inputs: &FrozenInputs,
) -> Result<(Vec<WeatherObservation>, ReferenceData), DataError> {
    let weather = get(store, version, &inputs.weather).await?;
    let reference = get(store, version, &inputs.reference).await?;
    let reference = serde_json::from_slice(&reference)
        .map_err(|error| differs(version, format!("{} cannot be read: {error}", inputs.reference.key)))?;
    Ok((read_weather(&inputs.weather.key, &weather)?, reference))
}

async fn get(store: &dyn ObjectStore, version: &Digest, object: &FrozenObject) -> Result<Bytes, DataError> {
    let body = store.get(&object.key).await?;
    let found = Digest::of(&body);
    if found == object.sha256 {
        return Ok(body);
    }
    let text = format!("{} has the digest {found}, not {}; restore it from a backup", object.key, object.sha256);
    Err(differs(version, text))
}

fn differs(version: &Digest, difference: String) -> DataError {
    DataError::DatasetDiffers { dataset: version.to_string(), differences: vec![difference] }
}

/// The numbers of an observation, by the name of their column.
type Number = (&'static str, fn(&WeatherObservation) -> f32, fn(&mut WeatherObservation) -> &mut f32);

macro_rules! numbers {
    ($($name:ident),+) => { [$((stringify!($name), |o| o.$name, |o| &mut o.$name)),+] };
}

const NUMBERS: [Number; 9] = numbers!(
    temperature_c,
    dew_point_c,
    humidity_pct,
    wind_direction_deg,
    wind_speed_kmh,
    wind_gust_kmh,
    precipitation_mm,
    pressure_hpa,
    visibility_km
);

/// Observations as Parquet, bit for bit: times in microseconds, what was not observed as NaN.
fn write_weather(observations: &[WeatherObservation]) -> Result<Vec<u8>, DataError> {
    let failed = |error: PolarsError| DataError::Internal(format!("writing weather: {error}"));
    let airports: Vec<&str> = observations.iter().map(|observation| observation.airport.as_str()).collect();
    let times: Vec<i64> = observations.iter().map(|observation| observation.observed_at.timestamp_micros()).collect();
    let mut columns: Vec<Column> = vec![
        Series::new(PlSmallStr::from_static("airport"), airports).into_column(),
        Series::new(PlSmallStr::from_static("observed_at_us"), times).into_column(),
    ];
    for (name, of, _) in NUMBERS {
        let values: Vec<f32> = observations.iter().map(of).collect();
        columns.push(Series::new(PlSmallStr::from_static(name), values).into_column());
    }
    let mut frame = DataFrame::new(observations.len(), columns).map_err(failed)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut Cursor::new(&mut bytes)).set_parallel(false).finish(&mut frame).map_err(failed)?;
    Ok(bytes)
}

fn read_weather(key: &str, body: &Bytes) -> Result<Vec<WeatherObservation>, DataError> {
    let malformed = |found: String| DataError::Malformed {
        key: key.to_owned(),
        place: "Parquet file".into(),
        found,
        expected: "weather as delayd freezes it".into(),
        advice: "Restore it from a backup",
    };
    let strange = |error: PolarsError| malformed(error.to_string());
    let frame = read_frame(key, body, None)?;
    let airports = frame.column("airport").and_then(Column::str).map_err(strange)?;
    let times = frame.column("observed_at_us").and_then(Column::i64).map_err(strange)?;
    let mut observations = Vec::with_capacity(frame.height());
    for row in 0..frame.height() {
        let time = times.get(row).and_then(DateTime::from_timestamp_micros);
        let (Some(airport), Some(time)) = (airports.get(row), time) else {
            return Err(malformed(format!("row {row} has no airport or no time")));
        };
        observations.push(WeatherObservation::missing(airport, time));
    }
    for (name, _, slot) in NUMBERS {
        let values = frame.column(name).and_then(Column::f32).map_err(strange)?;
        for (row, observation) in observations.iter_mut().enumerate() {
            *slot(observation) = values.get(row).unwrap_or(f32::NAN);
        }
    }
    Ok(observations)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use delayd_features::{Airport, HolidayCalendar};

    use super::*;
    use delayd_outside::local::FolderStore;

    fn observations() -> Vec<WeatherObservation> {
        let at = |text: &str| text.parse::<DateTime<chrono::Utc>>().unwrap();
        let mut seen = WeatherObservation::missing("JFK", at("2013-01-01T06:51:00.000001Z"));
        (seen.temperature_c, seen.wind_gust_kmh) = (0.1, -0.0);
        vec![seen, WeatherObservation::missing("LGA", at("2013-01-01T07:00:00Z"))]
    }

    fn reference(latitude_deg: f64) -> ReferenceData {
        let airport =
            Airport { latitude_deg, longitude_deg: -73.78, elevation_ft: 13.0, time_zone: "America/New_York".into() };
        ReferenceData {
            airports: BTreeMap::from([("JFK".to_owned(), airport)]),
            holidays: HolidayCalendar::us_federal(),
        }
    }

    fn bits(observations: &[WeatherObservation]) -> Vec<(String, i64, Vec<u32>)> {
        let numbers = |o: &WeatherObservation| NUMBERS.iter().map(|(_, of, _)| of(o).to_bits()).collect();
        observations.iter().map(|o| (o.airport.clone(), o.observed_at.timestamp_micros(), numbers(o))).collect()
    }

    #[tokio::test]
    async fn what_was_frozen_comes_back_bit_for_bit_and_the_first_freeze_counts() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let version = Digest::of(b"a dataset");
        assert_eq!(frozen_inputs(&store, &version).await.unwrap(), None);
        let first = freeze(&store, &version, &observations(), &reference(40.64)).await.unwrap();
        let second = freeze(&store, &version, &observations()[..1], &reference(41.0)).await.unwrap();
        assert_eq!(second, first, "the weather of a dataset changed after it was frozen");
        assert_eq!(frozen_inputs(&store, &version).await.unwrap(), Some(first.clone()));
        let (weather, read) = load_frozen(&store, &version, &first).await.unwrap();
        assert_eq!(bits(&weather), bits(&observations()));
        assert_eq!(read.airports, reference(40.64).airports);
        assert_eq!(read.holidays, reference(40.64).holidays);
    }

    #[tokio::test]
    async fn damaged_weather_is_told_by_its_key_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let version = Digest::of(b"a dataset");
        let inputs = freeze(&store, &version, &observations(), &reference(40.64)).await.unwrap();
        store.put(&inputs.weather.key, Bytes::from_static(b"PAR1 and nothing else")).await.unwrap();
        let error = load_frozen(&store, &version, &inputs).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&inputs.weather.key), "{error}");
    }

    #[test]
    fn no_weather_at_all_can_be_frozen_too() {
        let bytes = Bytes::from(write_weather(&[]).unwrap());
        assert!(read_weather("weather.parquet", &bytes).unwrap().is_empty());
    }
}
