//! Where a model comes from and where it went: sources -> dataset -> run ->
//! model -> image -> deployment, as a graph for the API and the page. Where the
//! service was built from its source, that build leads to the image too.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::data::IngestedObject;
use super::models::Model;
use super::records::{Reads, Records, Snapshot};
use super::refuse;
use super::rows;
use delayd_core::error::ErrorKind;
use delayd_core::ids::ModelVersion;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineageKind {
    /// A source object.
    Source,
    /// A dataset.
    Dataset,
    /// A training run.
    Run,
    /// A registered model.
    Model,
    /// A build of the inference service from its source.
    Build,
    /// A pushed image.
    Image,
    /// A deployment.
    Deployment,
}

/// One thing that was made, or that something was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageNode {
    /// Unique in the graph: the thing's own id.
    pub id: String,
    /// What it stands for.
    pub kind: LineageKind,
    /// One line for people.
    pub label: String,
    /// Its particulars.
    pub attributes: Value,
}

/// `to` was made of `from`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageEdge {
    /// What was used.
    pub from: String,
    /// What came of it.
    pub to: String,
}

/// The graph around one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Lineage {
    /// The model it is about.
    pub model: ModelVersion,
    /// Everything, upstream before downstream.
    pub nodes: Vec<LineageNode>,
    /// What was made of what.
    pub edges: Vec<LineageEdge>,
}

impl Lineage {
    fn node(&mut self, kind: LineageKind, id: &str, label: String, attributes: Value) {
        self.nodes.push(LineageNode { id: id.to_owned(), kind, label, attributes });
    }

    fn edge(&mut self, from: &str, to: &str) {
        self.edges.push(LineageEdge { from: from.to_owned(), to: to.to_owned() });
    }
}

impl<R: Reads> Records<R> {
    /// The lineage of a model.
    pub fn lineage(&self, model: ModelVersion) -> R::Answer<Lineage> {
        self.read("reading a model's lineage", move |connection| of_model(connection, model))
    }
}

fn of_model(snapshot: &Snapshot<'_>, version: ModelVersion) -> rusqlite::Result<Lineage> {
    let Some(model) = snapshot.model(version)? else {
        return Err(refuse(ErrorKind::NotFound, format!("{version} is not registered; `delayd models` lists them")));
    };
    let mut lineage = Lineage { model: version, nodes: Vec::new(), edges: Vec::new() };
    add_dataset(snapshot, &mut lineage, &model)?;
    add_model(snapshot, &mut lineage, &model)?;
    add_releases(snapshot, &mut lineage, &model)?;
    Ok(lineage)
}

fn add_dataset(snapshot: &Snapshot<'_>, lineage: &mut Lineage, model: &Model) -> rusqlite::Result<()> {
    let dataset_id = model.dataset.to_string();
    let sql = "SELECT o.* FROM dataset_objects d JOIN objects o ON o.object_key = d.object_key AND o.digest = d.digest
               WHERE d.dataset = ?1 ORDER BY o.object_key, o.digest";
    for source in rows::all(snapshot, sql, [&model.dataset], IngestedObject::from_row)? {
        let id = format!("{}@{}", source.key, source.digest);
        let label = format!("{} ({} rows, {})", source.key, source.rows_accepted, source.digest.short());
        lineage.node(LineageKind::Source, &id, label, json!(source));
        lineage.edge(&id, &dataset_id);
    }
    if let Some(dataset) = snapshot.dataset(model.dataset.clone())? {
        let days = (dataset.until - dataset.from).num_days();
        let label = format!(
            "dataset {} ({} rows, {days} days from {})",
            dataset.version.short(),
            dataset.rows,
            dataset.from.date_naive()
        );
        let attributes = json!({
            "rows": dataset.rows, "from": dataset.from, "until": dataset.until, "created_at": dataset.created_at,
        });
        lineage.node(LineageKind::Dataset, &dataset_id, label, attributes);
    }
    Ok(())
}

fn add_model(snapshot: &Snapshot<'_>, lineage: &mut Lineage, model: &Model) -> rusqlite::Result<()> {
    let (run_id, model_id) = (model.run.to_string(), model.version.to_string());
    if let Some(run) = snapshot.run(model.run)? {
        let label = format!("{} (seed {}, {}, {})", run.id, run.seed, run.device, run.state);
        let attributes = json!({
            "seed": run.seed, "device": run.device, "state": run.state, "cycle": run.cycle,
            "parameters": run.parameters, "metrics": run.metrics,
        });
        lineage.node(LineageKind::Run, &run_id, label, attributes);
        lineage.edge(&model.dataset.to_string(), &run_id);
    }
    if let Some(parent) = model.parent.map(|parent| snapshot.model(parent)).transpose()?.flatten() {
        let id = parent.version.to_string();
        let label = format!("{id} ({}), live when this one was made", parent.bundle.short());
        lineage.node(LineageKind::Model, &id, label, json!({ "bundle": parent.bundle, "cycle": parent.cycle }));
        lineage.edge(&id, &model_id);
    }
    let reason = model.reason.as_deref().map(|reason| format!(", because of {reason}")).unwrap_or_default();
    let label = format!("{model_id} ({}, {}{reason})", model.bundle.short(), model.cycle);
    let attributes = json!({
        "bundle": model.bundle, "bundle_key": model.bundle_key, "cycle": model.cycle, "metrics": model.metrics,
        "reason": model.reason, "registered_at": model.registered_at,
    });
    lineage.node(LineageKind::Model, &model_id, label, attributes);
    lineage.edge(&run_id, &model_id);
    Ok(())
}

fn add_releases(snapshot: &Snapshot<'_>, lineage: &mut Lineage, model: &Model) -> rusqlite::Result<()> {
    let model_id = model.version.to_string();
    let images = snapshot.images_of(model.version)?;
    let build = snapshot.build_of(model.cycle)?;
    let build_id = format!("{}/build", model.cycle);
    let service = build.as_ref().map(|build| format!(", service {:.12}", build.commit)).unwrap_or_default();
    if let Some(build) = &build {
        let label = format!(
            "service of {} at {} ({:.12}, {})",
            build.repository, build.revision, build.commit, build.toolchain
        );
        lineage.node(LineageKind::Build, &build_id, label, json!(build));
    }
    for record in &images {
        let image = &record.image;
        let label = format!("{} ({}, {} bytes{service})", image.tag, image.digest.short(), image.size_bytes);
        lineage.node(LineageKind::Image, &image.reference, label, json!(record));
        lineage.edge(&model_id, &image.reference);
        if build.is_some() {
            lineage.edge(&build_id, &image.reference);
        }
    }
    for deployment in snapshot.deployments_of(model.version)? {
        let id = deployment.id.to_string();
        let label = format!("{id} ({} since {})", deployment.state, deployment.changed_at.format("%Y-%m-%d %H:%M"));
        // A release whose image was never recorded still hangs from its model.
        let image = images.iter().find(|record| record.image.reference == deployment.release.image);
        lineage.edge(image.map_or(&model_id, |record| &record.image.reference), &id);
        lineage.node(LineageKind::Deployment, &id, label, json!(deployment));
    }
    Ok(())
}

/// More children than this are counted, not shown: a dataset can have hundreds of sources.
const SHOWN_CHILDREN: usize = 8;

#[derive(Clone, Copy)]
enum Direction {
    MadeOf,
    LedTo,
}

impl Lineage {
    /// The lineage as two trees for a terminal.
    #[must_use]
    pub fn tree(&self) -> String {
        let root = self.model.to_string();
        let mut text = String::new();
        let label = self.find(&root).map_or(root.as_str(), |node| node.label.as_str());
        text.push_str(label);
        text.push('\n');
        for (heading, direction, last) in [("made of", Direction::MadeOf, false), ("led to", Direction::LedTo, true)] {
            let (branch, indent) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            text.push_str(branch);
            text.push_str(heading);
            text.push('\n');
            self.children(&root, direction, indent, &mut text);
        }
        text
    }

    fn children(&self, of: &str, direction: Direction, indent: &str, text: &mut String) {
        let children: Vec<&LineageNode> = self
            .edges
            .iter()
            .filter_map(|edge| match direction {
                Direction::MadeOf => (edge.to == of).then_some(&edge.from),
                Direction::LedTo => (edge.from == of).then_some(&edge.to),
            })
            .filter_map(|id| self.find(id))
            .collect();
        if children.is_empty() && indent.chars().count() == 3 {
            let _ = writeln!(text, "{indent}└─ nothing yet");
        }
        let hidden = children.len().saturating_sub(SHOWN_CHILDREN);
        for (index, child) in children.iter().take(SHOWN_CHILDREN).enumerate() {
            let last = hidden == 0 && index + 1 == children.len();
            let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{indent}{branch}{}", child.label);
            self.children(&child.id, direction, &format!("{indent}{deeper}"), text);
        }
        if hidden > 0 {
            let _ = writeln!(text, "{indent}└─ and {hidden} more");
        }
    }

    fn find(&self, id: &str) -> Option<&LineageNode> {
        self.nodes.iter().find(|node| node.id == id)
    }
}
