//! `delayd image`.

use super::commands::CliError;
use super::show::Shown;
use super::source::Source;
use crate::stages::image_export::ImageExport;
use delayd_core::ids::ModelVersion;

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
