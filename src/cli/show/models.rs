//! `delayd models`, `delayd lineage` and `delayd deployments`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::words::{sentence, words};
use super::{
    Shown, UNREADABLE, at, drawn, evaluation, keep, listed, number, one_more, page, read, state, table, word_of,
};
use crate::http::CycleDocument;
use crate::status::{DeploymentDocument, ListedDeployment, ListedModel};
use delayd_core::ids::{DeploymentId, ModelVersion};
use delayd_judge::evaluation::{BundleMetrics, Metrics};
use delayd_judge::verification::VerificationReport;

pub(in crate::cli) async fn models(source: &Source, model: Option<ModelVersion>) -> Result<Shown, CliError> {
    if let Some(version) = model {
        let model = source.model(version).await?;
        let cycle = source.cycle(model.model.cycle).await?;
        return Shown::new(&model, one_model(&model, &cycle));
    }
    let models = source.models(page(1000)).await?;
    let mut rows = table(&["model", "stands as", "registered", "ROC-AUC", "log-loss", "recall", "reason"]);
    for ListedModel { model, standing } in &models {
        let found = read::<BundleMetrics>(&model.metrics).and_then(|metrics| metrics.evaluation);
        let metric = |of: fn(&Metrics) -> Option<f64>| number(found.as_ref().and_then(|found| of(&found.model)), 4);
        rows.add_row([
            model.version.to_string(),
            standing_of(standing),
            at(model.registered_at),
            metric(|model| model.roc_auc),
            metric(|model| model.log_loss),
            metric(|model| Some(model.recall)),
            sentence(model.reason.as_deref().unwrap_or_default()),
        ]);
    }
    let nothing = "no model yet; a cycle registers one when it passes the gate";
    Shown::new(&models, listed(rows, 1000, false, nothing))
}

fn standing_of(standing: &[String]) -> String {
    let all: Vec<String> = standing.iter().map(|word| words(word)).collect();
    all.join(", ")
}

fn one_model(ListedModel { model, standing }: &ListedModel, cycle: &CycleDocument) -> String {
    let mut text = format!(
        "{} {}\nbundle   {}\ndataset  {}\nrun      {} of {}, registered {}\nparent   {}\nbecause  {}\n\n{}",
        model.version,
        standing_of(standing),
        model.bundle,
        model.dataset,
        model.run,
        model.cycle,
        at(model.registered_at),
        model.parent.map_or_else(|| "none".to_owned(), |parent| parent.to_string()),
        sentence(model.reason.as_deref().unwrap_or("not recorded")),
        read(&model.metrics).map_or_else(|| UNREADABLE.to_owned(), |metrics| evaluation::evaluation(&metrics)),
    );
    if let Some(gate) = cycle.decisions.iter().rev().find(|decision| decision.kind == "gate") {
        text.push_str(&format!("\n\ngate     {}; `delayd why {}` shows every test\n", sentence(&gate.reason), gate.id));
        if let Some(latency) = read(&gate.inputs).as_ref().and_then(evaluation::latency) {
            text.push_str(&format!("\n{latency}"));
        }
    }
    text.trim_end().to_owned()
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
    let mut deployments = source.deployments(one_more(limit)).await?;
    let more = keep(&mut deployments, limit);
    let mut rows = table(&["deployment", "model", "state", "since", "replicas", "image"]);
    for ListedDeployment { deployment, standing } in &deployments {
        rows.add_row([
            deployment.id.to_string().into(),
            deployment.model.to_string().into(),
            state(standing),
            at(deployment.changed_at).into(),
            deployment.release.replicas.to_string().into(),
            short_image(&deployment.release.image).into(),
        ]);
    }
    let nothing = "nothing was deployed yet; a cycle deploys a model that passed the gate";
    Shown::new(&deployments, listed(rows, limit, more, nothing))
}

/// Repository and the digest's first digits: what a table has room for. The deployment alone shows all of it.
fn short_image(image: &str) -> String {
    let Some((name, digest)) = image.split_once('@') else { return image.to_owned() };
    let name = name.rsplit('/').next().unwrap_or(name);
    let digits = digest.rsplit(':').next().unwrap_or(digest);
    format!("{name}@{}", digits.get(..10).unwrap_or(digits))
}

fn one_deployment(document: &DeploymentDocument) -> Result<Shown, CliError> {
    let DeploymentDocument { deployment, standing, verifications } = document;
    let mut text = format!(
        "{} of {}: {} since {}\nimage     {}\nbundle    {}\nreplicas  {}",
        deployment.id,
        deployment.model,
        words(standing),
        at(deployment.changed_at),
        deployment.release.image,
        deployment.release.bundle,
        deployment.release.replicas,
    );
    for found in verifications {
        let verdict = if found.passed { "passed" } else { "failed" };
        let report = read::<VerificationReport>(&found.report);
        text.push_str(&format!(
            "\n\nverified {}: {verdict}, {}\n",
            at(found.at),
            report.as_ref().map_or(UNREADABLE, |report| &report.reason)
        ));
        let mut rows = table(&["check", "outcome", "measured", "bound", "why"]);
        for check in report.iter().flat_map(|report| &report.checks) {
            rows.add_row([
                words(&check.name).into(),
                state(&word_of(&check.outcome)),
                number(check.value, 4).into(),
                number(check.bound, 4).into(),
                check.reason.as_str().into(),
            ]);
        }
        text.push_str(&drawn(rows));
    }
    Shown::new(document, text)
}
