//! Which alerts go out as one message, and which wait: a pure function of what is
//! due at one endpoint and what was sent there recently.
//!
//! The first alert of a topic goes out at once; those that follow within the
//! group window wait for its end and go out together. So nothing that comes alone
//! is ever late, and a storm is two messages per window. What is critical never
//! waits, and takes what waits of its topic along.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::quiet::QuietSchedule;
use delayd_core::ids::AlertId;
use delayd_core::ports::{NoticeKind, Severity};

/// Alerts in one message, at most: more would not be read, and Slack's and mail's
/// limits would cut them.
pub(super) const MAX_ALERTS_PER_MESSAGE: usize = 50;
/// The rate limit counts the messages of this long.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// An alert that is due at the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueAlert {
    pub alert: AlertId,
    /// What sort of event.
    pub topic: String,
    pub severity: Severity,
    /// The message it went out with, if that was tried already.
    pub message: Option<AlertId>,
    /// Whether it was held back before.
    pub held: bool,
}

/// A message that was sent to the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentMessage {
    pub topics: BTreeSet<String>,
    pub at: DateTime<Utc>,
}

/// How often an endpoint may get messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pace {
    /// Alerts of one topic within this long go out together.
    pub group_window: Duration,
    /// Messages within a minute, at most, the critical ones not bound by it; 0 for no bound.
    pub messages_per_minute: u32,
    /// When it is not to be disturbed.
    pub quiet: QuietSchedule,
}

impl Pace {
    /// Everything at once, each alert on its own: the log's.
    pub(super) fn unbound() -> Self {
        Self { group_window: Duration::ZERO, messages_per_minute: 0, quiet: QuietSchedule::never() }
    }

    /// How far back [`plan`] looks.
    pub(super) fn memory(&self) -> Duration {
        self.group_window.max(RATE_WINDOW)
    }
}

/// What becomes of alerts that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Planned {
    /// They go out now, as one message named after the lowest of them.
    Send(Vec<AlertId>),
    Wait {
        alerts: Vec<AlertId>,
        until: DateTime<Utc>,
        /// Whether they then go out with everything else that was held back.
        held: bool,
    },
}

/// Decides about everything that is due at one endpoint. What was tried before
/// stays the message it was.
pub(super) fn plan(due: &[DueAlert], sent: &[SentMessage], pace: &Pace, now: DateTime<Utc>) -> Vec<Planned> {
    let mut planned = Vec::new();
    let (urgent, rest) = split(due);
    planned.extend(urgent.into_iter().map(|message| Planned::Send(ids(&message))));
    if let Some(until) = pace.quiet.ends(now) {
        if !rest.is_empty() {
            planned.push(Planned::Wait { alerts: ids(&rest), until, held: true });
        }
        return planned;
    }
    let mut messages = Vec::new();
    for message in grouped(rest) {
        match window_end(&message, sent, pace, now) {
            Some(until) => planned.push(Planned::Wait { alerts: ids(&message), until, held: false }),
            None => messages.push(message),
        }
    }
    let sending = planned.iter().filter(|planned| matches!(planned, Planned::Send(_))).count();
    let (allowed, freed_at) = allowance(sent, sending, pace, now);
    let late = messages.split_off(allowed.min(messages.len()));
    planned.extend(messages.into_iter().map(|message| Planned::Send(ids(&message))));
    if !late.is_empty() {
        let alerts = late.iter().flat_map(|message| ids(message)).collect();
        planned.push(Planned::Wait { alerts, until: freed_at, held: true });
    }
    planned
}

/// How a message presents its alerts.
pub(super) fn kind_of<'a>(alerts: impl IntoIterator<Item = (&'a str, bool)>) -> NoticeKind {
    let alerts: Vec<(&str, bool)> = alerts.into_iter().collect();
    let topics: BTreeSet<&str> = alerts.iter().map(|(topic, _)| *topic).collect();
    if alerts.len() < 2 {
        NoticeKind::Single
    } else if topics.len() > 1 || alerts.iter().any(|(_, held)| *held) {
        NoticeKind::Digest
    } else {
        NoticeKind::Group
    }
}

type Message<'a> = Vec<&'a DueAlert>;

fn ids(message: &[&DueAlert]) -> Vec<AlertId> {
    let mut ids: Vec<AlertId> = message.iter().map(|due| due.alert).collect();
    ids.sort_unstable();
    ids
}

/// The messages that go out whatever the hour, and everything else. A critical
/// alert takes along what is due of its topic.
fn split(due: &[DueAlert]) -> (Vec<Message<'_>>, Message<'_>) {
    let critical = |due: &&DueAlert| due.severity == Severity::Critical;
    let topics: BTreeSet<&str> =
        due.iter().filter(critical).filter(|due| due.message.is_none()).map(|due| due.topic.as_str()).collect();
    let tried: BTreeSet<AlertId> = due.iter().filter(critical).filter_map(|due| due.message).collect();
    let (urgent, rest): (Message<'_>, Message<'_>) = due.iter().partition(|due| match due.message {
        Some(message) => tried.contains(&message),
        None => topics.contains(due.topic.as_str()),
    });
    let mut messages: BTreeMap<(Option<AlertId>, &str), Message<'_>> = BTreeMap::new();
    for due in urgent {
        let topic = if due.message.is_some() { "" } else { due.topic.as_str() };
        messages.entry((due.message, topic)).or_default().push(due);
    }
    (messages.into_values().flat_map(chunked).collect(), rest)
}

/// Messages of what is not critical: what was tried before as it was, what was
/// held back as one, the rest by topic; the oldest first.
fn grouped(rest: Message<'_>) -> Vec<Message<'_>> {
    let mut groups: BTreeMap<(Option<AlertId>, bool, &str), Message<'_>> = BTreeMap::new();
    for due in rest {
        let fresh = due.message.is_none();
        let topic = if fresh && !due.held { due.topic.as_str() } else { "" };
        groups.entry((due.message, fresh && due.held, topic)).or_default().push(due);
    }
    let mut messages: Vec<Message<'_>> = groups.into_values().flat_map(chunked).collect();
    messages.sort_by_key(|message| message.iter().map(|due| due.alert).min());
    messages
}

/// A message that was tried stays whole; a new one holds so many alerts at most.
fn chunked(message: Message<'_>) -> Vec<Message<'_>> {
    if message.iter().any(|due| due.message.is_some()) {
        return vec![message];
    }
    message.chunks(MAX_ALERTS_PER_MESSAGE).map(<[&DueAlert]>::to_vec).collect()
}

/// Until when a new message waits because its topic was sent just before.
fn window_end(message: &[&DueAlert], sent: &[SentMessage], pace: &Pace, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let fresh = message.iter().all(|due| due.message.is_none() && !due.held);
    let topic = &message.first()?.topic;
    let last = sent.iter().filter(|sent| sent.topics.contains(topic)).map(|sent| sent.at).max()?;
    let end = last + pace.group_window;
    (fresh && now < end).then_some(end)
}

/// How many more messages may go out now, and when the next one may.
fn allowance(sent: &[SentMessage], sending: usize, pace: &Pace, now: DateTime<Utc>) -> (usize, DateTime<Utc>) {
    let limit = usize::try_from(pace.messages_per_minute).unwrap_or(usize::MAX);
    if limit == 0 {
        return (usize::MAX, now);
    }
    let mut recent: Vec<DateTime<Utc>> =
        sent.iter().map(|sent| sent.at).filter(|at| *at + RATE_WINDOW > now).chain(vec![now; sending]).collect();
    recent.sort_unstable();
    let allowed = limit.saturating_sub(recent.len());
    // What is allowed goes out now as well; the oldest message that must pass out of the window first:
    let passing = recent.len().saturating_sub(limit);
    let freed_at = recent.get(passing).map_or(now, |at| *at) + RATE_WINDOW;
    (allowed, freed_at)
}

#[cfg(test)]
mod tests {
    use Severity::{Critical, Info, Warning};

    use super::super::quiet::{QuietHours, QuietPeriod};
    use super::*;

    fn at(secs: i64) -> DateTime<Utc> {
        // A Monday, six in the morning.
        "2013-06-03T06:00:00Z".parse::<DateTime<Utc>>().unwrap() + chrono::Duration::seconds(secs)
    }

    fn due(alert: u64, topic: &str, severity: Severity) -> DueAlert {
        DueAlert { alert: AlertId(alert), topic: topic.to_owned(), severity, message: None, held: false }
    }

    fn held(alert: u64, topic: &str) -> DueAlert {
        DueAlert { held: true, ..due(alert, topic, Warning) }
    }

    fn tried(alert: u64, topic: &str, severity: Severity, message: u64) -> DueAlert {
        DueAlert { message: Some(AlertId(message)), ..due(alert, topic, severity) }
    }

    fn sent(secs: i64, topic: &str) -> SentMessage {
        SentMessage { topics: BTreeSet::from([topic.to_owned()]), at: at(secs) }
    }

    fn send(alerts: &[u64]) -> Planned {
        Planned::Send(alerts.iter().copied().map(AlertId).collect())
    }

    fn wait(alerts: &[u64], until: i64, held: bool) -> Planned {
        Planned::Wait { alerts: alerts.iter().copied().map(AlertId).collect(), until: at(until), held }
    }

    fn pace() -> Pace {
        Pace { group_window: Duration::from_secs(300), messages_per_minute: 0, quiet: QuietSchedule::never() }
    }

    #[test]
    fn alerts_of_one_topic_go_out_together() {
        type Case = (Vec<DueAlert>, Vec<SentMessage>, Vec<Planned>, &'static str);
        let table: Vec<Case> = vec![
            (vec![due(1, "drift", Warning)], vec![], vec![send(&[1])], "one alone goes at once"),
            (
                vec![due(2, "drift", Warning), due(1, "drift", Info), due(3, "cycle", Info)],
                vec![],
                vec![send(&[1, 2]), send(&[3])],
                "by topic, the oldest first",
            ),
            (
                vec![due(4, "drift", Warning), due(5, "cycle", Info)],
                vec![sent(-100, "drift")],
                vec![wait(&[4], 200, false), send(&[5])],
                "a topic that was just sent waits for the window's end",
            ),
            (vec![due(4, "drift", Warning)], vec![sent(-300, "drift")], vec![send(&[4])], "the window is over"),
            (
                vec![due(4, "drift", Warning), due(5, "drift", Critical), due(6, "cycle", Info)],
                vec![sent(-100, "drift")],
                vec![send(&[4, 5]), send(&[6])],
                "what is critical does not wait, and takes its topic along",
            ),
            (
                vec![tried(7, "drift", Warning, 7), tried(8, "drift", Warning, 7), due(9, "drift", Warning)],
                vec![sent(-100, "drift")],
                vec![wait(&[9], 200, false), send(&[7, 8])],
                "a message that was tried stays as it was, and the window does not concern it",
            ),
            (
                vec![held(1, "drift"), held(2, "cycle"), due(3, "cycle", Info)],
                vec![sent(-10, "drift")],
                vec![send(&[1, 2]), send(&[3])],
                "what was held back goes as one digest, whatever its topics",
            ),
            (
                vec![tried(1, "drift", Critical, 1), tried(2, "drift", Warning, 1), due(3, "drift", Warning)],
                vec![],
                vec![send(&[1, 2]), send(&[3])],
                "a critical message that was tried takes nothing new along",
            ),
        ];
        for (alerts, sent, expected, reason) in table {
            assert_eq!(plan(&alerts, &sent, &pace(), at(0)), expected, "{reason}");
        }
    }

    #[test]
    fn in_quiet_hours_only_the_critical_passes() {
        let night = QuietPeriod { days: vec![chrono::Weekday::Mon], from: "05:00".into(), until: "07:00".into() };
        let quiet = QuietHours { periods: vec![night], ..QuietHours::default() }.schedule().unwrap();
        let pace = Pace { quiet, ..pace() };
        let alerts = [due(1, "drift", Warning), due(2, "cycle", Critical), tried(3, "drift", Info, 3)];
        assert_eq!(plan(&alerts, &[], &pace, at(0)), [send(&[2]), wait(&[1, 3], 3600, true)]);
        assert_eq!(plan(&alerts, &[], &pace, at(3600)), [send(&[2]), send(&[1]), send(&[3])]);
        assert!(plan(&[], &[], &pace, at(0)).is_empty());
    }

    #[test]
    fn the_rate_limit_holds_back_what_is_not_critical() {
        let pace = Pace { messages_per_minute: 2, ..pace() };
        let alerts = [due(1, "a", Info), due(2, "b", Info), due(3, "c", Critical), due(4, "d", Info)];
        let table = [
            (vec![], vec![send(&[3]), send(&[1]), wait(&[2, 4], 60, true)], "the critical one counts"),
            (vec![sent(-30, "z")], vec![send(&[3]), wait(&[1, 2, 4], 30, true)], "and so does what was sent before"),
            (
                vec![sent(-60, "z"), sent(-61, "y")],
                vec![send(&[3]), send(&[1]), wait(&[2, 4], 60, true)],
                "a minute later it no longer does",
            ),
            (
                vec![sent(-30, "z"), sent(-20, "y"), sent(-10, "x")],
                vec![send(&[3]), wait(&[1, 2, 4], 50, true)],
                "the next may go when only one is left within the minute",
            ),
        ];
        for (sent, expected, reason) in table {
            assert_eq!(plan(&alerts, &sent, &pace, at(0)), expected, "{reason}");
        }
    }

    #[test]
    fn a_storm_is_cut_into_messages_that_can_be_read() {
        let storm: Vec<DueAlert> = (1..=120).map(|alert| due(alert, "drift", Critical)).collect();
        let sizes: Vec<usize> = plan(&storm, &[], &pace(), at(0))
            .iter()
            .map(|planned| match planned {
                Planned::Send(alerts) => alerts.len(),
                Planned::Wait { .. } => 0,
            })
            .collect();
        assert_eq!(sizes, [50, 50, 20]);
    }

    #[test]
    fn a_message_presents_itself_by_what_is_in_it() {
        assert_eq!(kind_of([("drift", true)]), NoticeKind::Single);
        assert_eq!(kind_of([("drift", false), ("drift", false)]), NoticeKind::Group);
        assert_eq!(kind_of([("drift", false), ("drift", true)]), NoticeKind::Digest);
        assert_eq!(kind_of([("drift", false), ("cycle", false)]), NoticeKind::Digest);
    }
}
