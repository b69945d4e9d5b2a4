//! `delayd image` and `delayd build-log`.

use std::path::Path;

use serde_json::json;

use super::commands::CliError;
use super::show::Shown;
use super::source::Source;
use crate::config::Settings;
use crate::ids::{CycleId, ModelVersion};
use crate::packaging::export::ImageExport;
use crate::packaging::source::build_log_path;

/// For whom the image is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// People.
    Text,
    /// GitHub Actions.
    GithubOutput,
    /// A shell.
    Dotenv,
}

pub(super) async fn image(source: &Source, model: Option<ModelVersion>, form: Form) -> Result<Shown, CliError> {
    let found = source.image(model).await?;
    let image = found.ok_or_else(|| {
        let whose = model.map_or_else(String::new, |model| format!(" of {model}"));
        CliError::NotFound(format!("no image{whose} was pushed, or it was withdrawn; `delayd cycles` tells why"))
    })?;
    let text = match form {
        Form::GithubOutput => image.github_output(),
        Form::Dotenv => image.dotenv(),
        Form::Text => told(&image),
    };
    Shown::new(&image, text.trim_end().to_owned())
}

fn told(image: &ImageExport) -> String {
    let mut text = format!(
        "{}:{}\ndigest     {}\nmodel      {}\nreference  {}\npushed     {}\n",
        image.image,
        image.tag,
        image.digest,
        image.model_version,
        image.reference,
        image.pushed_at.format("%Y-%m-%d %H:%M")
    );
    if let Some(build) = &image.build {
        let reused = if build.reused { ", built before" } else { "" };
        text.push_str(&format!(
            "service    {} of {} ({}{reused})\nbinary     {}\n",
            build.commit, build.repository, build.toolchain, build.binary_digest
        ));
    }
    text
}

pub(super) fn build_log(settings: &Settings, cycle: Option<CycleId>) -> Result<Shown, CliError> {
    let state_dir = &settings.daemon.state_dir;
    let none = || CliError::NotFound("no cycle has a build log: the service at hand was packaged".to_owned());
    let cycle = cycle.or_else(|| newest(state_dir)).ok_or_else(none)?;
    let path = build_log_path(state_dir, cycle);
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::NotFound(format!(
            "{cycle} has no build log at {}: the service at hand was packaged, or the log was removed",
            path.display()
        )),
        _ => CliError::Failed(format!("{}: {error}", path.display())),
    })?;
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Shown::new(&json!({ "cycle": cycle, "path": path, "log": text }), text)
}

/// The last cycle that has a log.
fn newest(state_dir: &Path) -> Option<CycleId> {
    let folders = std::fs::read_dir(state_dir.join("builds")).ok()?;
    let cycles = folders.flatten().filter_map(|folder| folder.file_name().to_str()?.parse::<CycleId>().ok());
    cycles.filter(|cycle| build_log_path(state_dir, *cycle).is_file()).max_by_key(|cycle| cycle.0)
}
