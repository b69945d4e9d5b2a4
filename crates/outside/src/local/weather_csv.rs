//! Weather from CSV files in the object store. Files are read again only when
//! they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

use delayd_core::blocking;
use delayd_core::error::{PortError, chain};
use delayd_core::ids::Digest;
use delayd_core::ports::{ObjectMeta, ObjectStore, WeatherObservation, WeatherSource};
use delayd_data::weather::parse_weather_csv;
use delayd_data::{DataError, ObjectReader};

/// Answers from every weather file under a prefix.
#[derive(Debug)]
pub struct WeatherCsv {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    reader: ObjectReader,
    files: Mutex<BTreeMap<String, ReadFile>>,
}

#[derive(Debug)]
struct ReadFile {
    meta: ObjectMeta,
    observations: Arc<Vec<WeatherObservation>>,
}

impl WeatherCsv {
    /// A source over the objects whose keys start with `prefix`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<String>) -> Self {
        Self { store, prefix: prefix.into(), reader: ObjectReader::default(), files: Mutex::new(BTreeMap::new()) }
    }

    /// The same source, read by a reader with other bounds and with notes.
    #[must_use]
    pub fn read_by(self, reader: ObjectReader) -> Self {
        Self { reader, ..self }
    }

    async fn read(&self, meta: &ObjectMeta) -> Result<Arc<Vec<WeatherObservation>>, PortError> {
        let action = format!("reading weather from {}", meta.key);
        let fault = |error: &DataError| PortError::new(error.kind(), action.as_str(), chain(error));
        self.reader.limits.check_stored(&meta.key, meta.size_bytes).map_err(|error| fault(&error))?;
        let body = self.store.get(&meta.key).await?;
        let (key, reader) = (meta.key.clone(), self.reader.clone());
        let parsed = blocking(action.as_str(), move || {
            let digest = Digest::of(&body);
            Ok::<_, PortError>(reader.read(&key, &digest, |limits| parse_weather_csv(&key, &body, limits)).flatten())
        });
        let (observations, report) = parsed.await?.map_err(|error| fault(&error))?;
        if report.rejected_count > 0 || !report.implausible.is_empty() {
            tracing::warn!(
                object.key = %meta.key, rows.rejected = report.rejected_count, implausible = ?report.implausible,
                first = report.rejected.first().map_or("", String::as_str), "weather file has faults"
            );
        }
        Ok(Arc::new(observations))
    }
}

#[async_trait]
impl WeatherSource for WeatherCsv {
    async fn observations(
        &self,
        airports: &[String],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<WeatherObservation>, PortError> {
        let listed = self.store.list(&self.prefix).await?;
        let mut files = self.files.lock().await;
        files.retain(|key, _| listed.iter().any(|meta| meta.key == *key));
        for meta in listed {
            if files.get(&meta.key).is_none_or(|file| file.meta != meta) {
                let observations = self.read(&meta).await?;
                files.insert(meta.key.clone(), ReadFile { meta, observations });
            }
        }
        let mut found: Vec<WeatherObservation> = files
            .values()
            .flat_map(|file| file.observations.iter())
            .filter(|observation| observation.observed_at >= from && observation.observed_at < until)
            .filter(|observation| airports.contains(&observation.airport))
            .cloned()
            .collect();
        // The sort is stable: of two at one airport and moment, the one of the later file comes first here and stays.
        found.reverse();
        found.sort_by(|a, b| (&a.airport, a.observed_at).cmp(&(&b.airport, b.observed_at)));
        found.dedup_by(|next, kept| (&next.airport, next.observed_at) == (&kept.airport, kept.observed_at));
        Ok(found)
    }

    async fn probe(&self) -> Result<String, PortError> {
        let files = self.store.list(&self.prefix).await?;
        Ok(format!("{} weather files under {}", files.len(), self.prefix))
    }
}
