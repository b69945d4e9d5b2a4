//! Images that were pushed.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::{Ledger, LedgerError};
use crate::ids::ModelVersion;
use crate::ports::PushedImage;

/// One pushed image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// What the registry said. A tag pushed again with another digest is another record.
    pub image: PushedImage,
    /// The model in it.
    pub model: ModelVersion,
    /// When it was pushed first.
    pub pushed_at: DateTime<Utc>,
}

impl ImageRecord {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            image: PushedImage {
                reference: row.get("reference")?,
                tag: row.get("tag")?,
                digest: row.get("digest")?,
                size_bytes: row.get::<_, Count>("size_bytes")?.0,
                layers_pushed: usize::try_from(row.get::<_, Count>("layers_pushed")?.0).unwrap_or(usize::MAX),
                layers_reused: usize::try_from(row.get::<_, Count>("layers_reused")?.0).unwrap_or(usize::MAX),
            },
            model: row.get("model")?,
            pushed_at: row.get::<_, At>("pushed_at")?.0,
        })
    }
}

/// Notes a pushed image. The same tag and digest again keeps the first push's
/// counts: a repeated push finds every layer there, which says nothing about the image.
///
/// # Errors
/// Its model is unknown, or SQLite failed.
pub fn save(tx: &Transaction<'_>, record: &ImageRecord) -> rusqlite::Result<()> {
    let image = &record.image;
    tx.execute(
        "INSERT INTO images (tag, digest, reference, model, size_bytes, layers_pushed, layers_reused, pushed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (tag, digest) DO UPDATE SET reference = ?3",
        params![
            image.tag,
            image.digest,
            image.reference,
            record.model,
            Count(image.size_bytes),
            Count(image.layers_pushed as u64),
            Count(image.layers_reused as u64),
            At(record.pushed_at)
        ],
    )?;
    Ok(())
}

pub(super) fn of_model(connection: &Connection, model: ModelVersion) -> rusqlite::Result<Vec<ImageRecord>> {
    let sql = "SELECT * FROM images WHERE model = ?1 ORDER BY pushed_at DESC, digest";
    query::all(connection, sql, [model], ImageRecord::from_row)
}

impl Ledger {
    /// Notes a pushed image; the same again changes nothing but the reference.
    ///
    /// # Errors
    /// Its model is unknown, or SQLite failed.
    pub async fn save_image(&self, record: ImageRecord) -> Result<(), LedgerError> {
        self.transact("noting an image", move |tx| save(tx, &record)).await
    }

    /// A model's images, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn images_of(&self, model: ModelVersion) -> Result<Vec<ImageRecord>, LedgerError> {
        self.read("reading a model's images", move |connection| of_model(connection, model)).await
    }

    /// Images, newest first.
    ///
    /// # Errors
    /// SQLite failed.
    pub async fn images(&self, page: Page) -> Result<Vec<ImageRecord>, LedgerError> {
        self.read("listing images", move |c| {
            query::page(c, "images", "pushed_at DESC, tag, digest", page, ImageRecord::from_row)
        })
        .await
    }
}
