//! The flights of a dataset in time order, merged from its parts, a stretch of each at a time: memory depends on how many
//! parts meet at one moment, not on how long the history is.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::Digest as _;
use tokio::runtime::Handle;

use super::error::DataError;
use super::flight::FlightRecord;
use super::formats::parquet::read_flights;
use super::manifest::{DatasetManifest, DatasetPart, DatasetSource, differs, flights_key};
use super::parts::read_part;
use delayd_core::ids::Digest;
use delayd_core::ports::ObjectStore;

/// Flights of a part that are decoded at a time.
const STRETCH_ROWS: usize = 1 << 15;

/// Gets the bytes of a source's part.
type Fetch = Box<dyn FnMut(&DatasetSource) -> Result<Bytes, DataError> + Send>;

/// Iterates over the flights of a dataset in time order, each once, as they were known at its moment. It blocks: use it
/// where blocking is allowed. After an error there is nothing more.
pub struct DatasetRows {
    manifest: DatasetManifest,
    fetch: Fetch,
    /// Parts that were not begun, by first departure, with their place among the sources.
    waiting: VecDeque<(usize, DatasetSource, DateTime<Utc>)>,
    begun: Vec<Cursor>,
}

/// One part that is being read.
struct Cursor {
    /// Its place among the sources: the later one counts.
    place: usize,
    key: String,
    body: Bytes,
    decoded: usize,
    stretch: VecDeque<FlightRecord>,
}

impl DatasetRows {
    /// The flights of a manifest's parts.
    pub(crate) fn of(manifest: DatasetManifest, fetch: Fetch) -> Self {
        let with_span = |(place, source): (usize, &DatasetSource)| {
            let (first, last) = source.part.as_ref()?.span?;
            let inside = first < manifest.window_until && manifest.window_from <= last;
            inside.then(|| (place, source.clone(), first))
        };
        let mut waiting: Vec<_> = manifest.sources.iter().enumerate().filter_map(with_span).collect();
        waiting.sort_by_key(|(place, _, first)| (*first, *place));
        Self { manifest, fetch, waiting: waiting.into(), begun: Vec::new() }
    }

    /// The flights of a stored dataset. It blocks.
    ///
    /// # Errors
    /// When a dataset of format 1 is damaged.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        runtime: Handle,
        version: &Digest,
        manifest: DatasetManifest,
    ) -> Result<Self, DataError> {
        let Some(wanted) = manifest.rows_sha256.clone() else {
            let fetch = move |source: &DatasetSource| {
                let part =
                    source.part.as_ref().ok_or_else(|| DataError::Internal(format!("{}: no part", source.key)))?;
                runtime.block_on(read_part(store.as_ref(), &source.sha256, &part.sha256))
            };
            return Ok(Self::of(manifest, Box::new(fetch)));
        };
        let key = flights_key(version);
        let body = runtime.block_on(store.get(&key))?;
        let flights = flights_in(&key, &body)?;
        let found = rows_digest(&flights)?;
        if found != wanted || flights.len() as u64 != manifest.rows {
            let difference = format!("the {} rows have the digest {found}; the manifest says {wanted}", flights.len());
            return Err(differs(version, vec![difference]));
        }
        let span = flights.first().zip(flights.last()).map(|(a, b)| (a.1.scheduled_departure, b.1.scheduled_departure));
        let part = Some(DatasetPart { sha256: Digest::of(&body), span });
        let sources = vec![DatasetSource { key, sha256: version.clone(), rows_accepted: manifest.rows, part }];
        let fetch = move |_: &DatasetSource| Ok(body.clone());
        Ok(Self::of(DatasetManifest { sources, ..manifest }, Box::new(fetch)))
    }

    /// Begins the parts that may hold the next flight.
    fn begin_due(&mut self) -> Result<(), DataError> {
        loop {
            let next = self.begun.iter().filter_map(Cursor::head).map(|head| head.scheduled_departure).min();
            let due = self.waiting.front().is_some_and(|(_, _, first)| next.is_none_or(|next| *first <= next));
            if !due {
                return Ok(());
            }
            let Some((place, source, _)) = self.waiting.pop_front() else { return Ok(()) };
            let body = (self.fetch)(&source)?;
            let mut cursor = Cursor { place, key: source.key, body, decoded: 0, stretch: VecDeque::new() };
            cursor.refill()?;
            self.begun.push(cursor);
        }
    }

    fn next_flight(&mut self) -> Result<Option<FlightRecord>, DataError> {
        self.begin_due()?;
        let mut first: Option<&Cursor> = None;
        for cursor in &self.begun {
            let (Some(head), best) = (cursor.head(), first.and_then(Cursor::head)) else { continue };
            let earlier = best.is_none_or(|best| head.in_time_order(best).is_lt());
            let newer = first.is_some_and(|first| first.place < cursor.place);
            if earlier || (newer && best.is_some_and(|best| head.in_time_order(best).is_eq())) {
                first = Some(cursor);
            }
        }
        let Some(flight) = first.and_then(Cursor::head).cloned() else { return Ok(None) };
        // What older parts say of the same flight does not count.
        for cursor in &mut self.begun {
            while cursor.head().is_some_and(|head| head.in_time_order(&flight).is_eq()) {
                cursor.stretch.pop_front();
                cursor.refill()?;
            }
        }
        self.begun.retain(|cursor| cursor.head().is_some());
        Ok(Some(flight))
    }
}

impl Cursor {
    fn head(&self) -> Option<&FlightRecord> {
        self.stretch.front()
    }

    fn refill(&mut self) -> Result<(), DataError> {
        if self.stretch.is_empty() {
            let flights = read_flights(&self.key, &self.body, Some((self.decoded, STRETCH_ROWS)))?;
            self.decoded += flights.len();
            self.stretch = flights.into_iter().map(|(_, flight)| flight).collect();
        }
        Ok(())
    }
}

impl Iterator for DatasetRows {
    type Item = Result<FlightRecord, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_flight() {
                Ok(Some(flight)) => {
                    if let Some(flight) = self.manifest.flight(&flight) {
                        return Some(Ok(flight));
                    }
                }
                Ok(None) => return None,
                Err(error) => {
                    self.begun.clear();
                    self.waiting.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// All flights of a Parquet file that delayd wrote, with their lines in the source.
pub(crate) fn flights_in(key: &str, body: &Bytes) -> Result<Vec<(u64, FlightRecord)>, DataError> {
    read_flights(key, body, None)
}

/// Format 1's digest over flights in their order.
pub(crate) fn rows_digest(flights: &[(u64, FlightRecord)]) -> Result<Digest, DataError> {
    rows_digest_of(flights.iter().map(|(_, flight)| flight))
}

/// The same, of flights without lines.
pub(crate) fn rows_digest_of<'a>(flights: impl IntoIterator<Item = &'a FlightRecord>) -> Result<Digest, DataError> {
    let mut hasher = sha2::Sha256::new();
    for flight in flights {
        let line = serde_json::to_vec(flight).map_err(|error| DataError::Internal(format!("flight: {error}")))?;
        hasher.update(&line);
        hasher.update(b"\n");
    }
    let text = format!("sha256:{}", hex::encode(hasher.finalize()));
    text.parse().map_err(|error| DataError::Internal(format!("digest: {error}")))
}
