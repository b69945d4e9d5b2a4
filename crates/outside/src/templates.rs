//! What a notice looks like: built-in templates, each of which a file of the same
//! name in `notification.templates_dir` replaces.
//!
//! A template that does not work is found by `delayd check`. At run time the
//! built-in one takes its place and, should that fail too, plain text: no alert is
//! lost for its looks.

use std::path::Path;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde::Serialize;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{AlertId, CycleId, DecisionId, DeploymentId, DriftReportId, ModelVersion, RunId};
use delayd_core::ports::{Alert, Notice, NoticeKind, Severity};

/// A template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateName {
    /// A mail's subject: one line.
    MailSubject,
    /// A mail's text.
    MailText,
    /// The same in HTML.
    MailHtml,
    /// The text of a Slack message, in Slack's mrkdwn.
    Slack,
}

impl TemplateName {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::MailSubject, Self::MailText, Self::MailHtml, Self::Slack];

    /// Its file's name.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::MailSubject => "mail_subject.txt",
            Self::MailText => "mail.txt",
            Self::MailHtml => "mail.html",
            Self::Slack => "slack.txt",
        }
    }

    fn built_in(self) -> &'static str {
        match self {
            Self::MailSubject => include_str!("templates/mail_subject.txt"),
            Self::MailText => include_str!("templates/mail.txt"),
            Self::MailHtml => include_str!("templates/mail.html"),
            Self::Slack => include_str!("templates/slack.txt"),
        }
    }
}

/// Templates ready for use.
#[derive(Debug)]
pub struct Templates {
    own: Environment<'static>,
    built_in: Environment<'static>,
    /// Where the daemon's page is; empty where nobody told.
    public_url: String,
    faults: Vec<String>,
}

impl Templates {
    /// The built-in templates.
    #[must_use]
    pub fn built_in() -> Self {
        Self::load(Path::new(""), "")
    }

    /// The built-in templates, and what `folder` has instead. Faulty ones are left
    /// out: see [`Templates::faults`]. `public_url` is where links lead.
    #[must_use]
    pub fn load(folder: &Path, public_url: &str) -> Self {
        let mut faults = Vec::new();
        let mut built_in = environment();
        for name in TemplateName::ALL {
            if let Err(error) = built_in.add_template(name.file(), name.built_in()) {
                faults.push(format!("the built-in {}: {}", name.file(), explained(&error)));
            }
        }
        let public_url = public_url.trim_end_matches('/').to_owned();
        let mut templates = Self { own: environment(), built_in, public_url, faults };
        if !folder.as_os_str().is_empty() {
            templates.take_from(folder);
        }
        templates
    }

    fn take_from(&mut self, folder: &Path) {
        if !folder.is_dir() {
            self.faults.push(format!("{} is not a folder", folder.display()));
            return;
        }
        for name in TemplateName::ALL {
            let path = folder.join(name.file());
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.faults.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            if let Err(error) = self.try_out(name, text) {
                self.own.remove_template(name.file());
                self.faults.push(format!("{}: {}", path.display(), explained(&error)));
            }
        }
    }

    /// A template is good when it shows one alert and several.
    fn try_out(&mut self, name: TemplateName, text: String) -> Result<(), minijinja::Error> {
        self.own.add_template_owned(name.file(), text)?;
        let template = self.own.get_template(name.file())?;
        for notice in examples() {
            template.render(self.context(&notice, ""))?;
        }
        Ok(())
    }

    /// What is wrong with the files of the folder; empty where nothing is.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Whether every template works, in one line.
    pub fn check(&self) -> Result<String, PortError> {
        if !self.faults.is_empty() {
            return Err(PortError::new(ErrorKind::Invalid, "reading alert templates", self.faults.join("; ")));
        }
        let own: Vec<&str> = self.own.templates().map(|(name, _)| name).collect();
        Ok(if own.is_empty() { "built in".to_owned() } else { format!("own {}; the others built in", own.join(", ")) })
    }

    /// Where the daemon's page is, if anybody told.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        (!self.public_url.is_empty()).then_some(self.public_url.as_str())
    }

    /// The notice by this template. Never fails: see the module.
    #[must_use]
    pub fn render(&self, name: TemplateName, notice: &Notice, subject_prefix: &str) -> String {
        let context = self.context(notice, subject_prefix);
        for environment in [&self.own, &self.built_in] {
            let Ok(template) = environment.get_template(name.file()) else { continue };
            match template.render(&context) {
                Ok(text) => return text.trim().to_owned(),
                Err(error) => {
                    let error = explained(&error);
                    tracing::error!(template = name.file(), error, "a template failed; a simpler one takes its place");
                }
            }
        }
        plain(name, notice, subject_prefix)
    }

    fn context(&self, notice: &Notice, subject_prefix: &str) -> Value {
        Value::from_serialize(Context {
            kind: notice.kind,
            count: notice.alerts.len(),
            severity: notice.severity(),
            headline: notice.headline(),
            at: stamp(notice.at()),
            subject_prefix,
            link: self.link().unwrap_or_default(),
            mentions: self.mentions(notice),
            alerts: notice.alerts.iter().map(AlertContext::of).collect(),
        })
    }

    /// The things that alerts name, each once, with the place where it is shown.
    #[must_use]
    pub fn mentions(&self, notice: &Notice) -> Vec<Mention> {
        let mut mentions: Vec<Mention> = Vec::new();
        for alert in &notice.alerts {
            for text in [&alert.dedup_key, &alert.title, &alert.body] {
                for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                    if let Some(path) = path_of(word)
                        && mentions.iter().all(|mention| mention.id != word)
                    {
                        let link = self.link().filter(|_| !path.is_empty()).map(|url| format!("{url}{path}"));
                        mentions.push(Mention { id: word.to_owned(), link: link.unwrap_or_default() });
                    }
                }
            }
        }
        mentions
    }
}

/// Something that an alert names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mention {
    /// `cycle_7`, `model_v3`.
    pub id: String,
    /// Where it is shown; empty where that is nowhere or nobody told.
    pub link: String,
}

/// Where the API shows what a word names; `None` where it names nothing.
fn path_of(word: &str) -> Option<String> {
    if word.parse::<CycleId>().is_ok() {
        return Some(format!("/api/v1/cycles/{word}"));
    }
    if word.parse::<ModelVersion>().is_ok() {
        return Some(format!("/api/v1/models/{word}"));
    }
    if word.parse::<DecisionId>().is_ok() {
        return Some(format!("/api/v1/decisions/{word}"));
    }
    let named = word.parse::<RunId>().is_ok()
        || word.parse::<DeploymentId>().is_ok()
        || word.parse::<DriftReportId>().is_ok()
        || word.parse::<AlertId>().is_ok();
    named.then(String::new)
}

/// What a template may use.
#[derive(Serialize)]
struct Context<'a> {
    /// `single`, `group` or `digest`.
    kind: NoticeKind,
    count: usize,
    /// The highest among the alerts.
    severity: Severity,
    headline: String,
    at: String,
    subject_prefix: &'a str,
    /// The daemon's page; empty where nobody told.
    link: &'a str,
    mentions: Vec<Mention>,
    alerts: Vec<AlertContext<'a>>,
}

#[derive(Serialize)]
struct AlertContext<'a> {
    id: String,
    at: String,
    severity: Severity,
    /// For HTML.
    colour: &'static str,
    topic: &'a str,
    dedup_key: &'a str,
    title: &'a str,
    body: &'a str,
}

impl<'a> AlertContext<'a> {
    fn of(alert: &'a Alert) -> Self {
        Self {
            id: alert.id.to_string(),
            at: stamp(alert.at),
            severity: alert.severity,
            colour: match alert.severity {
                Severity::Info => "#4a90d9",
                Severity::Warning => "#e0a030",
                Severity::Critical => "#c0392b",
            },
            topic: alert.topic(),
            dedup_key: &alert.dedup_key,
            title: &alert.title,
            body: &alert.body,
        }
    }
}

fn stamp(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Escapes what Slack gives a meaning to (docs.slack.dev, "Formatting message
/// text": `&`, `<` and `>` and nothing else).
#[must_use]
pub fn slack_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|name| {
        if name == TemplateName::Slack.file() {
            AutoEscape::Custom("slack")
        } else if name.ends_with(".html") {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    environment.set_formatter(|out, state, value| match state.auto_escape() {
        AutoEscape::Custom("slack") if !value.is_safe() => {
            out.write_str(&slack_escaped(&value.to_string())).map_err(minijinja::Error::from)
        }
        AutoEscape::Custom(_) => out.write_str(&value.to_string()).map_err(minijinja::Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment
}

fn explained(error: &minijinja::Error) -> String {
    chain(error)
}

/// A notice without any template.
fn plain(name: TemplateName, notice: &Notice, subject_prefix: &str) -> String {
    let all = || {
        let told = notice.alerts.iter().map(|alert| {
            format!("{} {} {}: {}\n{}", stamp(alert.at), alert.severity, alert.id, alert.title, alert.body)
        });
        told.collect::<Vec<_>>().join("\n\n")
    };
    match name {
        TemplateName::MailSubject => format!("{subject_prefix}[{}] {}", notice.severity(), notice.headline()),
        TemplateName::MailText => all(),
        TemplateName::MailHtml => {
            format!("<pre>{}</pre>", all().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
        }
        TemplateName::Slack => slack_escaped(&all()),
    }
}

/// What templates are tried out with.
fn examples() -> [Notice; 2] {
    let alert = |id: u64, severity| Alert {
        id: AlertId(id),
        at: chrono::DateTime::UNIX_EPOCH,
        severity,
        dedup_key: format!("cycle/cycle_{id}"),
        title: format!("cycle_{id} failed & was undone"),
        body: "push: the registry <answered> 503.\nThe live model keeps serving.".to_owned(),
    };
    let several = vec![alert(1, Severity::Warning), alert(2, Severity::Critical)];
    [Notice::single(alert(1, Severity::Info)), Notice { kind: NoticeKind::Group, alerts: several }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(templates: &Templates, notice: &Notice) -> String {
        let rendered = TemplateName::ALL
            .map(|name| format!("--- {}\n{}", name.file(), templates.render(name, notice, "[delayd] ")));
        rendered.join("\n")
    }

    #[test]
    fn the_built_in_templates_show_one_alert_and_several() {
        let templates = Templates::load(Path::new(""), "https://delayd.example.org/");
        assert_eq!(templates.faults(), [] as [String; 0]);
        let [one, several] = examples();
        insta::assert_snapshot!("one_alert", all_of(&templates, &one));
        insta::assert_snapshot!("several_alerts", all_of(&templates, &several));
    }

    #[test]
    fn a_file_replaces_a_single_template() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("slack.txt"), "<!here> {{ headline }}").unwrap();
        let templates = Templates::load(folder.path(), "");
        let [one, _] = examples();
        let text = templates.render(TemplateName::Slack, &one, "");
        assert_eq!(text, "<!here> cycle_1 failed &amp; was undone", "what the template itself says is not escaped");
        assert!(templates.render(TemplateName::MailText, &one, "").contains("keeps serving"));
        assert!(templates.check().unwrap().contains("slack.txt"));
    }

    #[test]
    fn a_broken_template_is_named_and_the_built_in_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let broken =
            [("slack.txt", "{% for %}"), ("mail.txt", "{{ alert.titel }}"), ("mail_subject.txt", "{{ headlin }}")];
        for (name, text) in broken {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let templates = Templates::load(folder.path(), "");
        let told = templates.check().unwrap_err().to_string();
        for (name, _) in broken {
            assert!(told.contains(name), "{name} is missing in {told}");
        }
        let [one, _] = examples();
        assert_eq!(all_of(&templates, &one), all_of(&Templates::built_in(), &one));
        assert!(Templates::load(Path::new("/nowhere"), "").check().unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn what_an_alert_names_is_linked_once() {
        let templates = Templates::load(Path::new(""), "https://delayd.example.org/");
        let mut alert = examples()[0].alerts.remove(0);
        alert.body =
            "model_v2 replaces model_v1, see decision_7; model_v2 won. cycle_0 and model_x are nothing.".to_owned();
        let mentions = templates.mentions(&Notice::single(alert));
        let ids: Vec<&str> = mentions.iter().map(|mention| mention.id.as_str()).collect();
        assert_eq!(ids, ["cycle_1", "model_v2", "model_v1", "decision_7"]);
        assert_eq!(mentions[1].link, "https://delayd.example.org/api/v1/models/model_v2");
    }

    #[test]
    fn without_any_template_an_alert_is_still_told() {
        let [one, _] = examples();
        let html = plain(TemplateName::MailHtml, &one, "");
        assert!(html.contains("&lt;answered&gt; 503") && html.contains("cycle_1 failed &amp; was undone"), "{html}");
        assert_eq!(plain(TemplateName::MailSubject, &one, "[d] "), "[d] [info] cycle_1 failed & was undone");
    }
}
