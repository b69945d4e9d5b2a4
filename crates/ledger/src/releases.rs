//! From a model to the cluster: builds of the inference service from its source, images that were pushed, releases, and
//! what verifying them found.

use chrono::{DateTime, Utc};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Writes};
use super::refuse;
use super::rows::{self, At, Count, Json, Page, text_enum};
use delayd_core::document::Document;
use delayd_core::error::ErrorKind;
use delayd_core::ids::{CycleId, DeploymentId, Digest, ModelVersion};
use delayd_core::ports::{PushedImage, Release};

text_enum! {
    /// Where a deployment is.
    DeploymentState {
        /// It is being rolled out.
        Applying = "applying",
        /// The cluster runs it.
        Applied = "applied",
        /// Its verification passed.
        Verified = "verified",
        /// It is the one to serve.
        Approved = "approved",
        /// It was taken back.
        RolledBack = "rolled_back",
        /// It never became ready, or its verification failed.
        Failed = "failed",
    }
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deployment {
    /// Its identity, minted with the cycle, or on its own for a rollback asked for by a person.
    pub id: DeploymentId,
    /// The cycle, where there is one.
    pub cycle: Option<CycleId>,
    /// The model it serves.
    pub model: ModelVersion,
    /// All of it, to apply again.
    pub release: Release,
    /// Where it is.
    pub state: DeploymentState,
    /// The deployment that served before, and to which a rollback goes.
    pub previous: Option<DeploymentId>,
    /// When it was applied first.
    pub created_at: DateTime<Utc>,
    /// When its state changed last.
    pub changed_at: DateTime<Utc>,
}

impl Deployment {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            cycle: row.get("cycle")?,
            model: row.get("model")?,
            release: row.get::<_, Json<_>>("release")?.0,
            state: row.get("state")?,
            previous: row.get("previous")?,
            created_at: row.get::<_, At>("created_at")?.0,
            changed_at: row.get::<_, At>("changed_at")?.0,
        })
    }
}

/// What verifying a deployment found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerificationRecord {
    /// The deployment.
    pub deployment: DeploymentId,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether it may serve.
    pub passed: bool,
    /// Every check with its numbers.
    pub report: Document,
}

impl VerificationRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            deployment: row.get("deployment")?,
            at: row.get::<_, At>("at")?.0,
            passed: row.get("passed")?,
            report: row.get("report")?,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a deployment. The same one again changes nothing; the same id with
    /// another release is refused.
    pub fn insert_deployment(&self, deployment: Deployment) -> W::Answer<()> {
        self.write("noting a deployment", move |tx| {
            if let Some(existing) = tx.deployment(deployment.id)? {
                if existing.release == deployment.release {
                    return Ok(());
                }
                let message =
                    format!("{} is the release of {}; another release needs its own id", existing.id, existing.model);
                return Err(refuse(ErrorKind::Conflict, message));
            }
            tx.execute(
                "INSERT INTO deployments (id, cycle, model, release, state, previous, created_at, changed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    deployment.id,
                    deployment.cycle,
                    deployment.model,
                    Json(&deployment.release),
                    deployment.state,
                    deployment.previous,
                    At(deployment.created_at),
                    At(deployment.changed_at)
                ],
            )?;
            Ok(())
        })
    }

    /// Moves a deployment to a state; the state it has already changes nothing.
    pub fn set_deployment_state(&self, id: DeploymentId, state: DeploymentState, at: DateTime<Utc>) -> W::Answer<()> {
        self.write("changing a deployment's state", move |tx| {
            let Some(existing) = tx.deployment(id)? else {
                return Err(refuse(ErrorKind::NotFound, format!("there is no {id}")));
            };
            if existing.state != state {
                tx.execute(
                    "UPDATE deployments SET state = ?2, changed_at = ?3 WHERE id = ?1",
                    params![id, state, At(at)],
                )?;
            }
            Ok(())
        })
    }

    /// Notes a verification; the same deployment and moment again changes nothing.
    pub fn insert_verification(&self, record: VerificationRecord) -> W::Answer<()> {
        self.write("noting a verification", move |tx| {
            tx.execute(
                "INSERT INTO verifications (deployment, at, passed, report) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (deployment, at) DO NOTHING",
                params![record.deployment, At(record.at), record.passed, record.report],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// One deployment.
    pub fn deployment(&self, id: DeploymentId) -> R::Answer<Option<Deployment>> {
        self.read("reading a deployment", move |connection| {
            rows::one(connection, "SELECT * FROM deployments WHERE id = ?1", [id], Deployment::from_row)
        })
    }

    /// The newest deployment that was approved and not taken back: what serves, or should.
    pub fn approved_deployment(&self) -> R::Answer<Option<Deployment>> {
        let sql = "SELECT * FROM deployments WHERE state = 'approved' ORDER BY changed_at DESC, id DESC LIMIT 1";
        self.read("reading the approved deployment", move |c| rows::one(c, sql, [], Deployment::from_row))
    }

    /// A model's newest deployment that was approved and not taken back.
    pub fn approved_deployment_of(&self, model: ModelVersion) -> R::Answer<Option<Deployment>> {
        self.read("reading a model's deployment", move |connection| {
            let sql = "SELECT * FROM deployments WHERE state = 'approved' AND model = ?1 ORDER BY id DESC LIMIT 1";
            rows::one(connection, sql, [model], Deployment::from_row)
        })
    }

    /// A model's deployments, oldest first.
    pub fn deployments_of(&self, model: ModelVersion) -> R::Answer<Vec<Deployment>> {
        let sql = "SELECT * FROM deployments WHERE model = ?1 ORDER BY id";
        self.read("reading a model's deployments", move |c| rows::all(c, sql, [model], Deployment::from_row))
    }

    /// Deployments, newest first.
    pub fn deployments(&self, page: Page) -> R::Answer<Vec<Deployment>> {
        self.read("listing deployments", move |c| rows::page(c, "deployments", "id DESC", page, Deployment::from_row))
    }

    /// Verifications, newest first.
    pub fn verifications(&self, page: Page) -> R::Answer<Vec<VerificationRecord>> {
        self.read("reading verifications", move |c| {
            rows::page(c, "verifications", "at DESC, deployment DESC", page, VerificationRecord::from_row)
        })
    }

    /// A deployment's verifications, newest first.
    pub fn verifications_of(&self, id: DeploymentId) -> R::Answer<Vec<VerificationRecord>> {
        let sql = "SELECT * FROM verifications WHERE deployment = ?1 ORDER BY at DESC";
        self.read("reading verifications", move |c| rows::all(c, sql, [id], VerificationRecord::from_row))
    }
}

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
        self.read("looking for the newest image", move |c| rows::one(c, sql, [model], ImageRecord::from_row))
    }

    /// A model's images, newest first.
    pub fn images_of(&self, model: ModelVersion) -> R::Answer<Vec<ImageRecord>> {
        self.read("reading a model's images", move |connection| {
            let sql = "SELECT * FROM images WHERE model = ?1 ORDER BY pushed_at DESC, digest";
            rows::all(connection, sql, [model], ImageRecord::from_row)
        })
    }

    /// Images, newest first.
    pub fn images(&self, page: Page) -> R::Answer<Vec<ImageRecord>> {
        self.read("listing images", move |c| {
            rows::page(c, "images", "pushed_at DESC, tag, digest", page, ImageRecord::from_row)
        })
    }
}

/// The service's build in one cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BuildRecord {
    /// The cycle.
    pub cycle: CycleId,
    /// The repository, as configured; it never holds a credential.
    pub repository: String,
    /// The commit, tag or branch that was asked for.
    pub revision: String,
    /// The commit that it stood for.
    pub commit: String,
    /// The folder of the repository that was built; empty for its root.
    pub subdirectory: String,
    /// The command.
    pub command: Vec<String>,
    /// Digest of everything configured that can change what comes out.
    pub command_digest: Digest,
    /// What `rustc -V` said; empty where there is none.
    pub toolchain: String,
    /// Digest of the executable.
    pub binary_digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Whether an earlier build of the same commit by the same command was taken.
    pub reused: bool,
    /// When the step began.
    pub started_at: DateTime<Utc>,
    /// When it was done.
    pub finished_at: DateTime<Utc>,
}

impl BuildRecord {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cycle: row.get("cycle")?,
            repository: row.get("repository")?,
            revision: row.get("revision")?,
            commit: row.get("commit_id")?,
            subdirectory: row.get("subdirectory")?,
            command: row.get::<_, Json<_>>("command")?.0,
            command_digest: row.get("command_digest")?,
            toolchain: row.get("toolchain")?,
            binary_digest: row.get("binary_digest")?,
            size_bytes: row.get::<_, Count>("size_bytes")?.0,
            reused: row.get("reused")?,
            started_at: row.get::<_, At>("started_at")?.0,
            finished_at: row.get::<_, At>("finished_at")?.0,
        })
    }
}

impl<W: Writes> Records<W> {
    /// Notes a build; a cycle's later build takes the place of its earlier one.
    pub fn save_build(&self, build: BuildRecord) -> W::Answer<()> {
        self.write("noting a build", move |tx| {
            tx.execute(
        "INSERT OR REPLACE INTO builds (cycle, repository, revision, commit_id, subdirectory, command, command_digest,
             toolchain, binary_digest, size_bytes, reused, started_at, finished_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            build.cycle,
            build.repository,
            build.revision,
            build.commit,
            build.subdirectory,
            Json(&build.command),
            build.command_digest,
            build.toolchain,
            build.binary_digest,
            Count(build.size_bytes),
            build.reused,
            At(build.started_at),
            At(build.finished_at)
        ],
    )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// A cycle's build; `None` where the service at hand was packaged.
    pub fn build_of(&self, cycle: CycleId) -> R::Answer<Option<BuildRecord>> {
        self.read("reading a cycle's build", move |connection| {
            rows::one(connection, "SELECT * FROM builds WHERE cycle = ?1", [cycle], BuildRecord::from_row)
        })
    }
}
