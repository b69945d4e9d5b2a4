//! Slack, by an incoming webhook (docs.slack.dev, "Sending messages using incoming
//! webhooks"): one address that is a secret, to which a message is posted.
//!
//! It asks for nothing else of Slack: no token, no reading, no threads, no files.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::templates::{TemplateName, Templates, slack_escaped};
use delayd_core::error::{ErrorKind, PortError};
use delayd_core::fault::Fault;
use delayd_core::http_client::{HttpClientSettings, read_beginning, refusal, retry_after, transport_error};
use delayd_core::ports::{ChannelKind, Endpoint, Notice, Notifier, Severity, Undelivered};
use delayd_core::secret::Secret;

const NOTIFYING: &str = "notifying Slack";
const ASKING: &str = "asking Slack";

/// `[notification.slack]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlackSettings {
    /// The webhook's address, which is a secret as a whole.
    pub webhook_url: Secret,
    /// Messages per minute, critical ones not bound; 0 for no bound. Slack allows about one per second.
    pub messages_per_minute: u32,
    /// Deadlines and trust.
    pub http: HttpClientSettings,
}

impl Default for SlackSettings {
    fn default() -> Self {
        let http = HttpClientSettings { read_timeout_secs: 20, ..HttpClientSettings::default() };
        Self { webhook_url: Secret::default(), messages_per_minute: 20, http }
    }
}

impl SlackSettings {
    /// Everything that cannot be.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let missing = Fault {
            key: "notification.slack.webhook_url".to_owned(),
            found: "empty".to_owned(),
            expected: "the webhook's address, best as file:, env: or credential:".to_owned(),
        };
        if self.webhook_url.is_set() { Vec::new() } else { vec![missing] }
    }
}

/// Posts to a webhook.
#[derive(Debug)]
pub struct SlackNotifier {
    webhook_url: Secret,
    http: reqwest::Client,
    templates: Arc<Templates>,
}

impl SlackNotifier {
    /// A notifier; nothing is sent yet.
    pub fn new(settings: &SlackSettings, templates: Arc<Templates>) -> Result<Self, PortError> {
        let http = settings.http.posting_client(NOTIFYING)?;
        Ok(Self { webhook_url: settings.webhook_url.clone(), http, templates })
    }

    async fn post(&self, action: &'static str, payload: &Value) -> Result<Answer, Undelivered> {
        let url = secret_url(action, &self.webhook_url)?;
        let sent = self.http.post(url).json(payload).send().await;
        let response = sent.map_err(|error| transport_error(action, error))?;
        let (status, wait) = (response.status(), retry_after(&response));
        Ok(Answer { action, status, retry_after: wait, body: read_beginning(response).await })
    }
}

struct Answer {
    action: &'static str,
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// Slack's `ok`, or what it is instead.
    fn accepted(self) -> Result<(), Undelivered> {
        if self.status == StatusCode::OK && self.text() == "ok" {
            return Ok(());
        }
        if self.status.is_success() || self.status.is_redirection() {
            let excerpt: String = self.text().chars().take(80).collect();
            let message =
                format!("answered {} and `{excerpt}`; Slack answers `ok`: is something in between?", self.status);
            return Err(PortError::new(ErrorKind::Unavailable, self.action, message).into());
        }
        // A webhook that is gone refuses every message alike.
        let of_this_message = self.status == StatusCode::BAD_REQUEST;
        let error = refusal(self.action, self.status, &self.body);
        let error = match advice(self.status) {
            Some(advice) => PortError::new(error.kind(), self.action, format!("{}; {advice}", error.message())),
            None => error,
        };
        Err(Undelivered::from(error).with_channel_away(!of_this_message).after(self.retry_after))
    }
}

/// What to do about a refusal (docs.slack.dev, "Handling errors" of incoming webhooks).
fn advice(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        403 => Some("the workspace does not let this webhook post: ask its administrator, or make a new webhook"),
        404 => Some("the webhook or its channel was removed: make a new one and set notification.slack.webhook_url"),
        410 => Some("the channel was archived: make a webhook for another one"),
        429 => Some("too many messages: nothing needs to be done, they wait"),
        _ => None,
    }
}

/// An address that is a secret: HTTPS, or HTTP to this machine. It is never shown.
pub(super) fn secret_url(action: &str, secret: &Secret) -> Result<Url, PortError> {
    let invalid = |message: &str| PortError::new(ErrorKind::Denied, action, message);
    let url = Url::parse(secret.reveal(action)?.trim())
        .map_err(|_| invalid("the configured address is not a URL (it is a secret and not shown here)"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(invalid("the configured address is not https:// (it is a secret and not shown here)")),
    }
}

#[async_trait]
impl Notifier for SlackNotifier {
    fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint::of(ChannelKind::Slack)]
    }

    /// Blocks that Slack does not take are sent again as plain text: an alert is not
    /// lost for its looks.
    async fn deliver(&self, _: &Endpoint, notice: &Notice) -> Result<(), Undelivered> {
        let message = SlackMessage { notice, templates: &self.templates };
        let answer = self.post(NOTIFYING, &message.payload()).await?;
        if answer.status != StatusCode::BAD_REQUEST {
            return answer.accepted();
        }
        let answered = answer.text();
        tracing::error!(answered, "Slack does not take the message's blocks; it is sent as plain text");
        self.post(NOTIFYING, &plain_payload(notice)).await?.accepted()
    }

    /// Posts an empty document. Slack refuses it without telling anybody anything:
    /// with 400 (`no_text`, `invalid_payload`) where the webhook is good, with 403,
    /// 404 or 410 where it is not.
    async fn probe(&self) -> Result<String, PortError> {
        let answer = self.post(ASKING, &json!({})).await.map_err(Undelivered::into_error)?;
        if answer.status == StatusCode::BAD_REQUEST {
            return Ok(format!("the webhook is there (it refuses an empty message: {})", answer.text()));
        }
        if answer.status.is_success() {
            let message = "an empty message was answered with success, which Slack never does: is this its address?";
            return Err(PortError::new(ErrorKind::Invalid, ASKING, message));
        }
        answer.accepted().map(|()| String::new()).map_err(Undelivered::into_error)
    }
}

/// Characters of a header block's text (docs.slack.dev, "Header block").
const HEADER_CHARS: usize = 150;
/// Characters of a section block's text (docs.slack.dev, "Section block").
const SECTION_CHARS: usize = 3000;
/// Characters of a context element (a text object, docs.slack.dev, "Text object").
const CONTEXT_CHARS: usize = 3000;
/// Sections in a message. Slack takes 50 blocks, but refuses all of them together
/// above about 13,200 characters (`msg_blocks_too_long`, slackapi/bolt-js issue 2509).
const SECTIONS: usize = 3;
/// Characters of the text that notifications show (docs.slack.dev, "Truncating
/// really long messages": 4,000 are recommended).
const FALLBACK_CHARS: usize = 3000;
/// Things that the context links, at most.
const MENTIONS: usize = 12;

/// A notice on its way to Slack.
pub(super) struct SlackMessage<'a> {
    pub(super) notice: &'a Notice,
    pub(super) templates: &'a Templates,
}

impl SlackMessage<'_> {
    pub(super) fn payload(&self) -> Value {
        let text = self.templates.render(TemplateName::Slack, self.notice, "");
        let headline = format!("{} {}", sign(self.notice.severity()), slack_escaped(&self.notice.headline()));
        let header = json!({
            "type": "header",
            "text": { "type": "plain_text", "text": cut(&headline, HEADER_CHARS, "…"), "emoji": true },
        });
        let sections = sections(&text, &where_the_rest_is(self.notice));
        let sections =
            sections.into_iter().map(|text| json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
        let context = json!({
            "type": "context",
            "elements": [{ "type": "mrkdwn", "text": cut(&self.context(), CONTEXT_CHARS, "…") }],
        });
        let blocks: Vec<Value> = std::iter::once(header).chain(sections).chain(std::iter::once(context)).collect();
        json!({ "text": fallback(self.notice), "blocks": blocks })
    }

    /// Severity, time, alerts, and what they name.
    fn context(&self) -> String {
        let notice = self.notice;
        let mut parts = vec![format!("*{}*", notice.severity()), notice.at().format("%Y-%m-%d %H:%M UTC").to_string()];
        parts.push(match notice.alerts.as_slice() {
            [alert] => alert.id.to_string(),
            alerts => format!("{} alerts", alerts.len()),
        });
        for mention in self.templates.mentions(notice).into_iter().take(MENTIONS) {
            parts.push(linked(&mention.link, &mention.id));
        }
        if let Some(link) = self.templates.link() {
            parts.push(linked(link, "delayd"));
        }
        parts.join(" · ")
    }
}

/// A notice without blocks.
pub(super) fn plain_payload(notice: &Notice) -> Value {
    let told =
        notice.alerts.iter().map(|alert| format!("{}\n{}", slack_escaped(&alert.title), slack_escaped(&alert.body)));
    let text = told.collect::<Vec<_>>().join("\n\n");
    let all = format!("[{}] {text}", notice.severity());
    json!({ "text": cut(&all, FALLBACK_CHARS, &where_the_rest_is(notice)) })
}

/// What a notification shows, where blocks are not.
fn fallback(notice: &Notice) -> String {
    let first = notice.alerts.first().map(|alert| alert.body.as_str()).unwrap_or_default();
    let text = format!("[{}] {}: {}", notice.severity(), slack_escaped(&notice.headline()), slack_escaped(first));
    cut(&text, FALLBACK_CHARS, "…")
}

fn where_the_rest_is(notice: &Notice) -> String {
    match notice.alerts.as_slice() {
        [alert] => format!("`delayd alerts {}` shows the rest", alert.id),
        _ => "`delayd alerts` shows the rest".to_owned(),
    }
}

fn sign(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => ":information_source:",
        Severity::Warning => ":warning:",
        Severity::Critical => ":rotating_light:",
    }
}

fn linked(link: &str, text: &str) -> String {
    if link.is_empty() { slack_escaped(text) } else { format!("<{}|{}>", slack_escaped(link), slack_escaped(text)) }
}

/// A text in sections, split at line ends where there are any; what does not fit
/// is cut, and the last section says how much.
fn sections(text: &str, rest: &str) -> Vec<String> {
    let mut sections = Vec::new();
    let mut left = text.trim();
    while !left.is_empty() && sections.len() < SECTIONS {
        let last = sections.len() + 1 == SECTIONS;
        if last {
            sections.push(cut(left, SECTION_CHARS, rest));
            break;
        }
        let (head, tail) = split(left, SECTION_CHARS);
        sections.push(head.trim_end().to_owned());
        left = tail.trim_start_matches('\n');
    }
    sections
}

/// The longest beginning of so many characters that ends at a line's end, or else
/// anywhere but within an escaped character.
fn split(text: &str, limit: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(limit) else { return (text, "") };
    let head = &text[..end];
    match head.rfind('\n') {
        Some(line_end) if line_end > 0 => text.split_at(line_end),
        _ => text.split_at(whole_entities(head).len()),
    }
}

/// A text of at most `limit` characters; one that is cut ends in `note`, with the
/// number of characters that are missing where the note is words.
fn cut(text: &str, limit: usize, note: &str) -> String {
    let length = text.chars().count();
    if length <= limit {
        return text.to_owned();
    }
    let note =
        if note == "…" { note.to_owned() } else { format!("\n… {} characters were cut: {note}", length - limit) };
    let kept: String = text.chars().take(limit.saturating_sub(note.chars().count())).collect();
    format!("{}{note}", whole_entities(&kept))
}

/// A text without the half of an escaped character at its end.
fn whole_entities(text: &str) -> &str {
    // The longest is `&amp;`.
    match text.rfind('&') {
        Some(start) if text.len() - start < 5 && !text[start..].contains(';') => &text[..start],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_asked_by_https_and_never_shown() {
        let table = [
            ("https://hooks.slack.com/services/T0/B0/s3cret", true),
            ("http://127.0.0.1:8080/services/s3cret", true),
            ("http://[::1]:8080/s3cret", true),
            ("http://hooks.slack.com/services/s3cret", false),
            ("http://127.0.0.1.example.org/s3cret", false),
            ("s3cret", false),
        ];
        for (address, good) in table {
            match secret_url(NOTIFYING, &Secret::new(address)) {
                Ok(_) => assert!(good, "{address}"),
                Err(error) => {
                    assert!(!good && !format!("{error} {error:?}").contains("s3cret"), "{error}");
                }
            }
        }
    }
}

#[cfg(test)]
mod slack_message_tests {
    use std::path::Path;

    use super::*;
    use delayd_core::ids::AlertId;
    use delayd_core::ports::{Alert, NoticeKind};

    fn alert(id: u64, title: &str, body: String) -> Alert {
        Alert {
            id: AlertId(id),
            at: chrono::DateTime::UNIX_EPOCH,
            severity: Severity::Warning,
            dedup_key: "drift/model_v3".to_owned(),
            title: title.to_owned(),
            body,
        }
    }

    fn payload(notice: &Notice, url: &str) -> Value {
        SlackMessage { notice, templates: &Templates::load(Path::new(""), url) }.payload()
    }

    fn longest(payload: &Value) -> Vec<usize> {
        let blocks = payload["blocks"].as_array().unwrap();
        let text = |block: &Value| {
            let text = block.pointer("/text/text").or_else(|| block.pointer("/elements/0/text"));
            text.and_then(Value::as_str).unwrap().chars().count()
        };
        blocks.iter().map(text).collect()
    }

    #[test]
    fn a_message_shows_severity_headline_text_and_what_it_names() {
        let notice = Notice::single(alert(4, "Drift: <model_v3> & more", "wind_speed: PSI 0.31 > 0.20".into()));
        insta::assert_json_snapshot!("single", payload(&notice, "https://delayd.example.org"));
        let second = alert(5, "Drift again", "temperature".into());
        let group = Notice { kind: NoticeKind::Group, alerts: vec![notice.alerts[0].clone(), second] };
        insta::assert_json_snapshot!("group", payload(&group, ""));
    }

    #[test]
    fn every_part_keeps_to_slacks_limits_and_says_what_was_cut() {
        for body in ["ü".repeat(20_000), "a line of words & signs <x>\n".repeat(1000), "&".repeat(20_000)] {
            let title = "title & ".repeat(100);
            let notice = Notice::single(alert(4, &title, body));
            let payload = payload(&notice, "https://delayd.example.org");
            let lengths = longest(&payload);
            assert_eq!(lengths.len(), 5, "header, three sections, context");
            assert!(lengths[0] <= HEADER_CHARS && lengths.iter().all(|length| *length <= SECTION_CHARS), "{lengths:?}");
            assert!(lengths.iter().sum::<usize>() < 13_000, "{lengths:?}");
            let text = payload.to_string();
            assert!(text.contains("characters were cut: `delayd alerts alert_4` shows the rest"), "{text}");
            assert!(payload["text"].as_str().unwrap().chars().count() <= FALLBACK_CHARS);
            for part in text.split('&').skip(1) {
                let whole = ["amp;", "lt;", "gt;"].iter().any(|entity| part.starts_with(entity));
                assert!(whole, "an escaped character was cut: &{}", part.chars().take(8).collect::<String>());
            }
        }
    }

    #[test]
    fn sections_end_where_lines_do() {
        let text = "0123456789\n".repeat(600);
        let sections = sections(&text, "rest");
        assert_eq!(sections.len(), 3);
        assert!(sections[..2].iter().all(|section| section.ends_with('9') && section.starts_with('0')));
        assert_eq!(super::sections("short", "rest"), ["short"]);
        assert!(super::sections("", "rest").is_empty());
    }

    #[test]
    fn a_plain_message_holds_every_alert() {
        let group =
            Notice { kind: NoticeKind::Group, alerts: vec![alert(1, "a & b", "x".into()), alert(2, "c", "y".into())] };
        assert_eq!(plain_payload(&group), json!({ "text": "[warning] a &amp; b\nx\n\nc\ny" }));
    }
}
