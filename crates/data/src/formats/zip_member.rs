//! The only CSV member of a zip archive, as a stream: what it unpacks to is never held as a whole.

use std::io::{Cursor, Read};

use bytes::Bytes;
use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use crate::error::DataError;

/// Members of an archive, at most. Each takes some hundred bytes of memory.
const MAX_MEMBERS: usize = 1000;
/// What each entry of an archive's directory begins with (APPNOTE 4.3.12).
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";

/// Opens the member.
///
/// # Errors
/// When the archive is damaged, has no or several CSV members, or the member is encrypted or packed in a way that is
/// not read.
pub(super) fn open(key: &str, body: &Bytes) -> Result<Box<dyn Read + Send>, DataError> {
    let malformed = |place: &str, found: String| DataError::Malformed {
        key: key.to_owned(),
        place: place.to_owned(),
        found,
        expected: "a zip archive with exactly one .csv member".into(),
        advice: "Upload the archive again, whole, one CSV file in each",
    };
    // The directory is read into memory, and the number of members that the archive states may be a lie.
    if body.windows(4).filter(|bytes| *bytes == DIRECTORY_ENTRY).nth(MAX_MEMBERS).is_some() {
        return Err(malformed("archive", format!("more than {MAX_MEMBERS} members")));
    }
    let archive = ZipArchive::new(Cursor::new(body.clone()));
    let mut archive = archive.map_err(|error| malformed("archive", error.to_string()))?;
    let members: Vec<String> = archive
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.into_owned()))
        .filter(|name| name.to_ascii_lowercase().ends_with(".csv") && !name.starts_with("__MACOSX/"))
        .collect();
    let [member] = members.as_slice() else {
        return Err(malformed("archive", format!("{} .csv members", members.len())));
    };
    let place = format!("member {member}");
    let index = archive.index_for_name(member).ok_or_else(|| malformed(&place, "it is not there".to_owned()))?;
    let file = archive.by_index_raw(index).map_err(|error| malformed(&place, error.to_string()))?;
    if file.encrypted() {
        return Err(malformed(&place, "it is encrypted".to_owned()));
    }
    let start = file.data_start().and_then(|start| usize::try_from(start).ok());
    let end = start.zip(usize::try_from(file.compressed_size()).ok()).and_then(|(start, size)| start.checked_add(size));
    let packed = start.zip(end).filter(|(_, end)| *end <= body.len()).map(|(start, end)| body.slice(start..end));
    let packed = packed.ok_or_else(|| malformed(&place, "it lies outside the archive".to_owned()))?;
    let unpacked: Box<dyn Read + Send> = match file.compression() {
        CompressionMethod::Stored => Box::new(Cursor::new(packed)),
        CompressionMethod::Deflated => Box::new(DeflateDecoder::new(Cursor::new(packed))),
        other => return Err(malformed(&place, format!("it is packed with {other}, and only deflate is read"))),
    };
    Ok(Box::new(Checked { inner: CrcReader::new(unpacked), expected: file.crc32() }))
}

/// Compares the checksum at the end.
struct Checked<R> {
    inner: CrcReader<R>,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.inner.crc().sum() != self.expected {
            return Err(std::io::Error::other("the checksum of the archive's member differs"));
        }
        Ok(count)
    }
}
