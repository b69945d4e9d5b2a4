//! How an object is wrapped, told by its first bytes.

use std::io::{BufReader, Cursor, Read};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ParseLimits;
use super::rows::Rows;
use crate::error::DataError;

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
/// When it is empty, is not what its name promises, or cannot be unpacked.
pub fn open(key: &str, body: &Bytes, limits: &ParseLimits) -> Result<(Container, Rows), DataError> {
    if body.is_empty() {
        return Err(DataError::EmptyObject { key: key.to_owned() });
    }
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
        Container::Parquet => Rows::of_frame(super::parquet::read_frame(key, body)?, key),
        _ => Rows::of_csv(key, unpack(key, body, container, limits)?, limits)?,
    };
    Ok((container, rows))
}

/// The text inside a gzip or zip object, as a stream.
pub(crate) fn unpack(
    key: &str,
    body: &Bytes,
    container: Container,
    limits: &ParseLimits,
) -> Result<Box<dyn Read + Send>, DataError> {
    let cursor = Cursor::new(body.clone());
    match container {
        Container::CsvGz => Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(cursor)))),
        Container::CsvZip => unzip(key, cursor, limits),
        _ => Ok(Box::new(cursor)),
    }
}

/// The only CSV member of an archive. The zip reader borrows its archive, so the
/// member is unpacked at once, within the limits.
fn unzip(key: &str, cursor: Cursor<Bytes>, limits: &ParseLimits) -> Result<Box<dyn Read + Send>, DataError> {
    let malformed = |place: &str, found: String| DataError::Malformed {
        key: key.to_owned(),
        place: place.to_owned(),
        found,
        expected: "a zip archive with exactly one .csv member".into(),
        advice: "Upload the archive again, whole, one CSV file in each",
    };
    let mut archive = zip::ZipArchive::new(cursor).map_err(|error| malformed("archive", error.to_string()))?;
    let members: Vec<String> = archive
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.into_owned()))
        .filter(|name| name.to_ascii_lowercase().ends_with(".csv") && !name.starts_with("__MACOSX/"))
        .collect();
    let [member] = members.as_slice() else {
        return Err(malformed("archive", format!("{} .csv members", members.len())));
    };
    let file = archive.by_name(member).map_err(|error| malformed(member, error.to_string()))?;
    let mut text = Vec::new();
    let read = file.take(limits.max_object_bytes.saturating_add(1)).read_to_end(&mut text);
    read.map_err(|error| malformed(member, error.to_string()))?;
    if text.len() as u64 > limits.max_object_bytes {
        let place = format!("member {member}");
        return Err(DataError::TooLarge { key: key.to_owned(), place, limit_bytes: limits.max_object_bytes });
    }
    Ok(Box::new(Cursor::new(text)))
}
