//! `delayd models`, `delayd lineage` and `delayd deployments`.

use serde_json::Value;

use super::super::commands::CliError;
use super::super::source::Source;
use super::{Shown, at, entries, number_of, page, state, table, text_of};
use crate::http::DeploymentDocument;
use crate::ids::{DeploymentId, ModelVersion};

pub(in crate::cli) async fn models(source: &Source, model: Option<ModelVersion>) -> Result<Shown, CliError> {
    let aliases = source.aliases().await?;
    let named = |version: ModelVersion| -> String {
        let own = aliases.iter().filter(|alias| alias.model == version).map(|alias| alias.alias.to_string());
        own.collect::<Vec<_>>().join(", ")
    };
    if let Some(version) = model {
        let model = source.model(version).await?;
        let metrics =
            serde_json::to_string_pretty(model.metrics.pointer("/evaluation/model").unwrap_or(&model.metrics));
        let metrics = metrics.map_err(|error| CliError::Failed(error.to_string()))?;
        let text = format!(
            "{version} {}\nbundle   {}\ndataset  {}\nrun      {}\ncycle    {}\nparent   {}\nmetrics on held-out rows:\n{metrics}",
            named(version),
            model.bundle,
            model.dataset,
            model.run,
            model.cycle,
            model.parent.map_or_else(|| "none".to_owned(), |parent| parent.to_string()),
        );
        return Shown::new(&model, text);
    }
    let models = source.models(page(1000)).await?;
    let cycles = source.cycles(page(1000)).await?;
    let mut rows = table(&["model", "alias", "registered", "ROC-AUC", "log-loss", "recall", "reason"]);
    for model in &models {
        let reason = cycles.iter().find(|cycle| cycle.id == model.cycle);
        let metric = |name: &str| {
            let found = model.metrics.pointer(&format!("/evaluation/model/{name}")).and_then(Value::as_f64);
            found.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
        };
        rows.add_row([
            model.version.to_string(),
            named(model.version),
            at(model.registered_at),
            metric("roc_auc"),
            metric("log_loss"),
            metric("recall"),
            reason.map_or_else(String::new, |cycle| cycle.reason.to_string()),
        ]);
    }
    Shown::new(&models, rows.to_string())
}

pub(in crate::cli) async fn lineage(source: &Source, model: ModelVersion) -> Result<Shown, CliError> {
    let lineage = source.lineage(model).await?;
    let text = lineage.tree();
    Shown::new(&lineage, text)
}

pub(in crate::cli) async fn deployments(
    source: &Source,
    deployment: Option<DeploymentId>,
    limit: u32,
) -> Result<Shown, CliError> {
    if let Some(id) = deployment {
        return one_deployment(&source.deployment(id).await?);
    }
    let deployments = source.deployments(page(limit)).await?;
    let mut rows = table(&["deployment", "model", "state", "since", "replicas", "image"]);
    for deployment in &deployments {
        rows.add_row([
            deployment.id.to_string().into(),
            deployment.model.to_string().into(),
            state(deployment.state.as_str()),
            at(deployment.changed_at).into(),
            deployment.release.replicas.to_string().into(),
            deployment.release.image.as_str().into(),
        ]);
    }
    Shown::new(&deployments, rows.to_string())
}

fn one_deployment(document: &DeploymentDocument) -> Result<Shown, CliError> {
    let DeploymentDocument { deployment, verifications } = document;
    let mut text = format!(
        "{} of {}: {} since {}\nimage     {}\nbundle    {}\nreplicas  {}",
        deployment.id,
        deployment.model,
        deployment.state,
        at(deployment.changed_at),
        deployment.release.image,
        deployment.release.bundle,
        deployment.release.replicas,
    );
    for found in verifications {
        let verdict = if found.passed { "passed" } else { "failed" };
        text.push_str(&format!("\n\nverified {}: {verdict}, {}\n", at(found.at), text_of(&found.report, "/reason")));
        let mut rows = table(&["check", "outcome", "measured", "bound", "why"]);
        for check in entries(&found.report, "/checks") {
            rows.add_row([
                text_of(check, "/name").into(),
                state(text_of(check, "/outcome")),
                number_of(check, "/value", 4).into(),
                number_of(check, "/bound", 4).into(),
                text_of(check, "/reason").into(),
            ]);
        }
        text.push_str(&rows.to_string());
    }
    Shown::new(document, text)
}
