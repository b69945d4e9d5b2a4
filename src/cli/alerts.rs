//! `delayd alerts`, `delayd silence`, `delayd silences`.

use std::time::Duration;

use serde_json::json;

use super::args::{AlertsArgs, ReasonArgs, RetryWhich, SilenceArgs};
use super::commands::CliError;
use super::remote::Remote;
use super::show::{Shown, drawn, keep, listed, one_more, table};
use super::source::Source;
use crate::http::{AlertRetried, CommandBody, SilenceBody};
use delayd_core::ids::{AlertId, SilenceId};
use delayd_ledger::{Delivery, OutboxAlert, Silence};

/// What the daemon allows at most.
const LONGEST_SILENCE: Duration = Duration::from_secs(crate::http::LONGEST_SILENCE_DAYS * 86_400);
/// Characters of an error in the listing; one alert alone is shown in full.
const ERROR_CHARS: usize = 60;

/// Lists alerts, or shows one.
pub(super) async fn show(source: &Source, args: &AlertsArgs) -> Result<Shown, CliError> {
    if let Some(id) = args.alert {
        return one(source, id).await;
    }
    let mut alerts = source.alerts(one_more(args.limit)).await?;
    let more = keep(&mut alerts, args.limit);
    let mut rows = table(&["alert", "at", "severity", "title", "state", "to whom"]);
    for outbox in &alerts {
        let alert = &outbox.alert;
        rows.add_row([
            alert.id.to_string(),
            alert.at.format("%Y-%m-%d %H:%M").to_string(),
            alert.severity.to_string(),
            alert.title.clone(),
            outbox.state.to_string(),
            outbox.deliveries.iter().map(short).collect::<Vec<_>>().join(", "),
        ]);
    }
    Shown::new(&alerts, listed(rows, args.limit, more, "no alert yet: nothing had to be told so far"))
}

async fn one(source: &Source, id: AlertId) -> Result<Shown, CliError> {
    let found = source.alert(id).await?;
    let OutboxAlert { alert, state, silence, deliveries } = &found;
    let silenced = silence.map_or_else(String::new, |silence| format!(" by {silence}"));
    let mut rows = table(&["to whom", "state", "attempts", "delivered", "next attempt", "last error"]);
    for delivery in deliveries {
        let at = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M:%S").to_string();
        let open = delivery.state == delayd_ledger::DeliveryState::Pending;
        rows.add_row([
            delivery.endpoint.to_string(),
            delivery.state.to_string(),
            delivery.attempts.to_string(),
            delivery.delivered_at.map_or_else(|| "-".to_owned(), at),
            if open { at(delivery.next_attempt_at) } else { "-".to_owned() },
            delivery.last_error.clone().unwrap_or_default(),
        ]);
    }
    let text = format!(
        "{id}, {}, {}: {state}{silenced}\n{}\n{}\nkey {}\n{}",
        alert.at.format("%Y-%m-%d %H:%M"),
        alert.severity,
        alert.title,
        alert.body,
        alert.dedup_key,
        if rows.is_empty() { "it was told to nobody".to_owned() } else { drawn(rows) }
    );
    Shown::new(&found, text)
}

fn short(delivery: &Delivery) -> String {
    let error = delivery.last_error.as_deref().map_or_else(String::new, |error| {
        let excerpt: String = error.chars().take(ERROR_CHARS).collect();
        format!(" ({excerpt}{})", if excerpt.len() < error.len() { "…" } else { "" })
    });
    format!("{} {}{error}", delivery.endpoint, delivery.state)
}

/// Asks the daemon to try again.
pub(super) async fn retry(remote: &Remote, which: RetryWhich, reason: &ReasonArgs) -> Result<Shown, CliError> {
    let path = match which {
        RetryWhich::All => "alerts/all/retry".to_owned(),
        RetryWhich::One(id) => format!("alerts/{id}/retry"),
    };
    let answer: AlertRetried = remote.ask(reqwest::Method::POST, &path, &body_of(reason)).await?;
    let text = format!("{} deliveries are tried again", answer.deliveries);
    Shown::new(&answer, text)
}

/// Asks the daemon to keep quiet about something.
pub(super) async fn silence(remote: &Remote, args: &SilenceArgs) -> Result<Shown, CliError> {
    let reason = &args.reason;
    let body = SilenceBody {
        prefix: args.prefix.clone(),
        for_secs: args.period.as_secs(),
        by: reason.by.clone(),
        why: reason.why.clone(),
    };
    let silence: Silence = remote.ask(reqwest::Method::POST, "silences", &body).await?;
    let until = silence.until.format("%Y-%m-%d %H:%M UTC");
    let text = format!("{}: alerts under `{}` are not told until {until}", silence.id, silence.prefix);
    Shown::new(&silence, text)
}

/// Asks the daemon to end a silence.
pub(super) async fn end(remote: &Remote, id: SilenceId, reason: &ReasonArgs) -> Result<Shown, CliError> {
    let path = format!("silences/{id}");
    let silence: Silence = remote.ask(reqwest::Method::DELETE, &path, &body_of(reason)).await?;
    Shown::new(&silence, format!("alerts under `{}` are told again", silence.prefix))
}

/// Lists silences.
pub(super) async fn silences(source: &Source, limit: u32) -> Result<Shown, CliError> {
    let mut silences = source.silences(one_more(limit)).await?;
    let more = keep(&mut silences, limit);
    let mut rows = table(&["silence", "prefix", "from", "until", "by", "why", "ended"]);
    for silence in &silences {
        let at = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%d %H:%M").to_string();
        let ended = silence.ended_at.map_or_else(String::new, |ended| {
            format!("{} by {}", at(ended), silence.ended_by.as_deref().unwrap_or("somebody"))
        });
        rows.add_row([
            silence.id.to_string(),
            silence.prefix.clone(),
            at(silence.begins),
            at(silence.until),
            silence.by.clone(),
            silence.why.clone(),
            ended,
        ]);
    }
    let nothing = "no silence yet; `delayd silence PREFIX --for 2h` begins one";
    Shown::new(&json!(silences), listed(rows, limit, more, nothing))
}

fn body_of(reason: &ReasonArgs) -> CommandBody {
    CommandBody { by: reason.by.clone(), why: reason.why.clone() }
}

/// A length of time such as `90s`, `30m`, `2h`, `3d`.
pub(super) fn period(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no length of time like 30m, 2h or 3d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let period = number.checked_mul(seconds).filter(|total| *total > 0).map(Duration::from_secs).ok_or_else(wrong)?;
    if period > LONGEST_SILENCE {
        let days = LONGEST_SILENCE.as_secs() / 86_400;
        return Err(format!("`{text}` is longer than the longest silence, {days}d"));
    }
    Ok(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("3d", 259_200)] {
            assert_eq!(period(text).unwrap(), Duration::from_secs(seconds));
        }
        for text in ["", "h", "2", "2w", "-1h", "0h", "2 h", "1½h", "99999999999999999999d"] {
            assert!(period(text).unwrap_err().contains("2h"), "{text}");
        }
        assert_eq!(period("400d").unwrap_err(), "`400d` is longer than the longest silence, 30d");
    }
}
