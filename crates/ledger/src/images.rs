//! Images that were pushed.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::columns::{At, Count};
use super::query::{self, Page};
use super::records::{Reads, Records, Writes};
use delayd_core::ids::ModelVersion;
use delayd_core::ports::PushedImage;

/// One pushed image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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

impl<W: Writes> Records<W> {
    /// Notes a pushed image. The same tag and digest again keeps the first push's
    /// counts: a repeated push finds every layer there, which says nothing about the image.
    pub fn save_image(&self, record: ImageRecord) -> W::Answer<()> {
        self.write("noting an image", move |tx| {
            let image = &record.image;
            tx.execute(
        "INSERT INTO images (tag, digest, reference, model, size_bytes, layers_pushed, layers_reused, pushed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (tag, digest) DO UPDATE
         SET reference = ?3, withdrawn_at = NULL",
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
        })
    }

    /// Notes that a model's tag was taken away again; the records stay.
    pub fn withdraw_images(&self, model: ModelVersion, at: DateTime<Utc>) -> W::Answer<()> {
        self.write("noting that an image is withdrawn", move |tx| {
            let sql = "UPDATE images SET withdrawn_at = ?2 WHERE model = ?1 AND withdrawn_at IS NULL";
            tx.execute(sql, params![model, At(at)])?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// The image that was pushed last, whose tag still stands and whose model was not
    /// rolled back: what the export tells. With a model, that model's, whatever became of it.
    pub fn standing_image(&self, model: Option<ModelVersion>) -> R::Answer<Option<ImageRecord>> {
        // What was deployed and taken back is nothing to run, whoever asks.
        // Of two pushes in one moment (a replay's clock stands still) the newer model's counts.
        let sql = "SELECT * FROM images WHERE withdrawn_at IS NULL AND (?1 IS NULL OR model = ?1)
                   AND (?1 IS NOT NULL OR coalesce((SELECT state FROM deployments
                        WHERE deployments.model = images.model ORDER BY id DESC LIMIT 1), '') <> 'rolled_back')
                   ORDER BY pushed_at DESC, model DESC, digest LIMIT 1";
        self.read("looking for the newest image", move |c| query::one(c, sql, [model], ImageRecord::from_row))
    }

    /// A model's images, newest first.
    pub fn images_of(&self, model: ModelVersion) -> R::Answer<Vec<ImageRecord>> {
        self.read("reading a model's images", move |connection| {
            let sql = "SELECT * FROM images WHERE model = ?1 ORDER BY pushed_at DESC, digest";
            query::all(connection, sql, [model], ImageRecord::from_row)
        })
    }

    /// Images, newest first.
    pub fn images(&self, page: Page) -> R::Answer<Vec<ImageRecord>> {
        self.read("listing images", move |c| {
            query::page(c, "images", "pushed_at DESC, tag, digest", page, ImageRecord::from_row)
        })
    }
}
