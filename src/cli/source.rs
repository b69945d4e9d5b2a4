//! Where reading commands read: the running daemon, or the ledger where none answers.
//! Both give the same records, so that an answer does not hang on which it was.

use chrono::{DateTime, Utc};

use super::args::ConnectArgs;
use super::commands::CliError;
use super::remote::Remote;
use crate::config::Settings;
use crate::daemon::ledger_path;
use crate::http::{CycleDocument, Listed, ReferenceDocument};
use crate::stages::image_export::ImageExport;
use crate::status::{DeploymentDocument, ListedDeployment, ListedModel, StatusDocument};
use delayd_core::ids::{AlertId, CycleId, DecisionId, DeploymentId, DriftReportId, ModelVersion, RunId};
use delayd_ledger::{
    AuditRecord, Cycle, Dataset, Decision, DriftRecord, IngestedObject, Ledger, Lineage, MetricsWindow, ObjectStatus,
    OutboxAlert, Page, Run, Silence,
};

/// Where reading commands read.
pub(super) enum Source {
    /// The daemon.
    Daemon(Remote),
    /// The ledger, read-only.
    Ledger(Ledger),
}

impl Source {
    /// The daemon that `--url` names, this machine's own where it answers, or its ledger.
    pub(super) async fn open(settings: &Settings, connect: &ConnectArgs) -> Result<Self, CliError> {
        if connect.url.is_some() {
            return Ok(Self::Daemon(Remote::new(settings, connect)?));
        }
        let answered = async {
            let remote = Remote::new(settings, connect)?;
            remote.get::<serde_json::Value>("session").await.map(|_| remote)
        };
        match answered.await {
            Ok(remote) => return Ok(Self::Daemon(remote)),
            // No daemon, or none that lets this user in: the ledger's file has rights of its own.
            Err(CliError::NoDaemon(_) | CliError::Denied(_)) => {}
            Err(other) => return Err(other),
        }
        let path = ledger_path(&settings.daemon.state_dir);
        if !path.exists() {
            return Err(CliError::NotFound(format!(
                "there is no ledger at {}, and no daemon answers; run `delayd replay` or `delayd run` first, name the state \
                 directory with --state, or a daemon with --url",
                path.display()
            )));
        }
        let ledger = Ledger::open_read_only(&path)?;
        if ledger.lacks_migrations().await? {
            return Err(CliError::Ledger(format!(
                "{} was written by an earlier delayd; `delayd run` brings it up to date when it starts",
                path.display()
            )));
        }
        Ok(Self::Ledger(ledger))
    }

    /// The monitor's newest look; `None` before the first one, or where none is as old as its record goes.
    pub(super) async fn newest_look(&self) -> Result<Option<MetricsWindow>, CliError> {
        let looks: Vec<MetricsWindow> = match self {
            Self::Daemon(remote) => remote.get("monitoring?days=400&points=1").await?,
            Self::Ledger(ledger) => {
                ledger.metrics_windows_thinned(DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC, 1).await?
            }
        };
        Ok(looks.into_iter().next_back())
    }

    /// Where the loop is, what needs attention.
    pub(super) async fn status(&self, settings: &Settings) -> Result<StatusDocument, CliError> {
        match self {
            Self::Daemon(remote) => remote.get("status").await,
            Self::Ledger(ledger) => Ok(StatusDocument::of_ledger(ledger, settings).await?),
        }
    }

    pub(super) async fn models(&self, page: Page) -> Result<Vec<ListedModel>, CliError> {
        match self {
            Self::Daemon(remote) => remote.list("models", page).await,
            Self::Ledger(ledger) => Ok(ListedModel::list(ledger, page).await?),
        }
    }

    pub(super) async fn deployments(&self, page: Page) -> Result<Vec<ListedDeployment>, CliError> {
        match self {
            Self::Daemon(remote) => remote.list("deployments", page).await,
            Self::Ledger(ledger) => Ok(ListedDeployment::list(ledger, page, None).await?),
        }
    }

    /// Flight logs that were looked at.
    pub(super) async fn objects(
        &self,
        status: Option<ObjectStatus>,
        page: Page,
    ) -> Result<Vec<IngestedObject>, CliError> {
        match self {
            Self::Daemon(remote) => {
                let which = status.map_or_else(String::new, |status| format!("&status={status}"));
                let path = format!("objects?limit={}&offset={}{which}", page.limit.clamp(1, 1000), page.offset);
                Ok(remote.get::<Listed<IngestedObject>>(&path).await?.items)
            }
            Self::Ledger(ledger) => Ok(ledger.objects(status, page).await?),
        }
    }

    /// Reference data that count, and what changed.
    pub(super) async fn reference(&self, page: Page) -> Result<ReferenceDocument, CliError> {
        match self {
            Self::Daemon(remote) => {
                remote.get(&format!("reference?limit={}&offset={}", page.limit.clamp(1, 1000), page.offset)).await
            }
            Self::Ledger(ledger) => Ok(ReferenceDocument::read(ledger, page).await?),
        }
    }

    pub(super) async fn lineage(&self, model: ModelVersion) -> Result<Lineage, CliError> {
        match self {
            Self::Daemon(remote) => remote.get(&format!("models/{model}/lineage")).await,
            Self::Ledger(ledger) => Ok(ledger.lineage(model).await?),
        }
    }

    /// The pushed image; `None` where there is none.
    pub(super) async fn image(&self, model: Option<ModelVersion>) -> Result<Option<ImageExport>, CliError> {
        match self {
            Self::Daemon(remote) => {
                let query = model.map_or_else(String::new, |model| format!("?model={model}"));
                found(remote.get(&format!("image{query}")).await)
            }
            Self::Ledger(ledger) => Ok(ImageExport::read(ledger, model).await?),
        }
    }
}

fn found<T>(answer: Result<T, CliError>) -> Result<Option<T>, CliError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(CliError::NotFound(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

macro_rules! listings {
    ($($name:ident: $record:ty, $path:literal, $from_ledger:ident;)*) => {
        impl Source {$(
            pub(super) async fn $name(&self, page: Page) -> Result<Vec<$record>, CliError> {
                match self {
                    Self::Daemon(remote) => remote.list($path, page).await,
                    Self::Ledger(ledger) => Ok(ledger.$from_ledger(page).await?),
                }
            }
        )*}
    };
}

listings! {
    cycles: Cycle, "cycles", cycles;
    decisions: Decision, "decisions", decisions;
    drift_reports: DriftRecord, "drift", drift_reports;
    datasets: Dataset, "datasets", datasets;
    runs: Run, "runs", runs;
    alerts: OutboxAlert, "alerts", alerts;
    silences: Silence, "silences", silences;
    audit: AuditRecord, "audit", audit;
}

macro_rules! singles {
    ($($name:ident($id:ty): $record:ty, $path:literal, |$ledger:ident, $wanted:ident| $read:expr;)*) => {
        impl Source {$(
            pub(super) async fn $name(&self, id: $id) -> Result<$record, CliError> {
                let name = id.to_string();
                match self {
                    Self::Daemon(remote) => remote.get(&format!(concat!($path, "/{}"), name)).await,
                    Self::Ledger($ledger) => {
                        let $wanted = id;
                        $read.await?.ok_or_else(|| CliError::NotFound(format!("{name} is not in the ledger")))
                    }
                }
            }
        )*}
    };
}

singles! {
    cycle(CycleId): CycleDocument, "cycles", |ledger, id| CycleDocument::read(ledger, id);
    model(ModelVersion): ListedModel, "models", |ledger, id| ListedModel::read(ledger, id);
    decision(DecisionId): Decision, "decisions", |ledger, id| ledger.why(id);
    drift_report(DriftReportId): DriftRecord, "drift", |ledger, id| ledger.drift_report(id);
    run(RunId): Run, "runs", |ledger, id| ledger.run(id);
    deployment(DeploymentId): DeploymentDocument, "deployments", |ledger, id| DeploymentDocument::read(ledger, id, None);
    alert(AlertId): OutboxAlert, "alerts", |ledger, id| ledger.alert(id);
}
