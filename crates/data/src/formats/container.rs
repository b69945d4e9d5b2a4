//! How an object is wrapped, told by its first bytes.

use std::io::{BufReader, Cursor, Read};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::parquet_rows::ParquetRows;
use super::rows::Rows;
use crate::error::DataError;
use crate::formats::ParseLimits;
use crate::formats::zip_member;

/// A way of wrapping rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// Text.
    Csv,
    /// Gzipped text.
    CsvGz,
    /// The one CSV member of a zip archive.
    CsvZip,
    /// Apache Parquet.
    Parquet,
}

impl Container {
    /// What the first bytes say; text where they say nothing.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        match body {
            [0x1f, 0x8b, ..] => Self::CsvGz,
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Self::CsvZip,
            [b'P', b'A', b'R', b'1', ..] => Self::Parquet,
            _ => Self::Csv,
        }
    }

    /// What the name promises, where it promises anything.
    #[must_use]
    pub fn promised_by(key: &str) -> Option<Self> {
        let key = key.to_ascii_lowercase();
        [(".gz", Self::CsvGz), (".zip", Self::CsvZip), (".parquet", Self::Parquet)]
            .into_iter()
            .find(|(suffix, _)| key.ends_with(suffix))
            .map(|(_, container)| container)
    }
}

/// Opens an object for reading row by row.
///
/// # Errors
/// When it is empty, is not what its name promises, cannot be unpacked, or is larger than the limits allow.
pub fn open(key: &str, body: &Bytes, limits: &ParseLimits) -> Result<(Container, Rows), DataError> {
    if body.is_empty() {
        return Err(DataError::EmptyObject { key: key.to_owned() });
    }
    limits.check_stored(key, body.len() as u64)?;
    let container = Container::of(body);
    if let Some(promised) = Container::promised_by(key).filter(|promised| *promised != container) {
        return Err(DataError::Malformed {
            key: key.to_owned(),
            place: "first bytes".into(),
            found: format!("the content looks like {container:?}"),
            expected: format!("{promised:?}, as the name says"),
            advice: "Upload the file again, whole, or rename it",
        });
    }
    let rows = match container {
        Container::Parquet => Rows::of_parquet(key, ParquetRows::open(key, body, limits)?, limits),
        _ => Rows::of_csv(key, unpack(key, body, container)?, limits)?,
    };
    Ok((container, rows))
}

/// The text inside a gzip or zip object, as a stream. Whoever reads it bounds how much.
fn unpack(key: &str, body: &Bytes, container: Container) -> Result<Box<dyn Read + Send>, DataError> {
    let cursor = Cursor::new(body.clone());
    match container {
        Container::CsvGz => Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(cursor)))),
        Container::CsvZip => zip_member::open(key, body),
        _ => Ok(Box::new(cursor)),
    }
}
