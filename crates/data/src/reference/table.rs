//! The airports as the object store has them now, for those who need only them.

use std::collections::BTreeMap;
use std::sync::Arc;

use delayd_features::Airport;
use tokio::sync::Mutex;

use super::content::Content;
use super::stored::{parsed, stored_meta};
use crate::DataError;
use crate::ObjectReader;
use delayd_core::ports::ReferenceKind;
use delayd_core::ports::{ObjectMeta, ObjectStore};

/// Airports by IATA code.
type Airports = BTreeMap<String, Airport>;

/// Airports by IATA code, read again only when the object changes.
#[derive(Debug)]
pub struct AirportTable {
    store: Arc<dyn ObjectStore>,
    key: String,
    time_zones: BTreeMap<String, String>,
    reader: ObjectReader,
    kept: Mutex<Option<(ObjectMeta, Arc<Airports>)>>,
}

impl AirportTable {
    /// The airports in the object `key`; `time_zones` is `[ingestion.time_zones]`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, key: impl Into<String>, time_zones: BTreeMap<String, String>) -> Self {
        Self { store, key: key.into(), time_zones, reader: ObjectReader::default(), kept: Mutex::default() }
    }

    /// The same table, read by a reader with other bounds and with notes.
    #[must_use]
    pub fn read_by(self, reader: ObjectReader) -> Self {
        Self { reader, ..self }
    }

    /// The airports.
    ///
    /// # Errors
    /// When the object is missing or malformed, or the store fails.
    pub async fn read(&self) -> Result<Arc<BTreeMap<String, Airport>>, DataError> {
        let mut kept = self.kept.lock().await;
        let meta = stored_meta(self.store.as_ref(), &self.key).await?;
        if let (Some(meta), Some((of, airports))) = (&meta, kept.as_ref())
            && meta == of
        {
            return Ok(airports.clone());
        }
        self.reader.limits.check_stored(&self.key, meta.as_ref().map_or(0, |meta| meta.size_bytes))?;
        let body = self.store.get(&self.key).await?;
        let content = parsed(ReferenceKind::Airports, &self.key, body, &self.time_zones, &self.reader).await?.content;
        let airports = match content {
            Content::Airports(airports) => Arc::new(airports),
            Content::Days(_) => Arc::default(),
        };
        *kept = meta.map(|meta| (meta, airports.clone()));
        Ok(airports)
    }
}
