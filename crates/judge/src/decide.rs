//! Start a cycle, or hold? One pure function from what is known to a decision
//! that lists every alternative and why it was not taken; it is stored with the
//! snapshot it was taken from, and `delayd why` shows both.

use chrono::{DateTime, Utc};
use delayd_core::fault::broken_rules;
use delayd_core::ids::{CycleId, DriftReportId, ModelVersion};
use serde::{Deserialize, Serialize};

use crate::governor::{GovernorPolicy, GovernorState, refusal};
use crate::monitoring::drift::DriftStatus;
use crate::monitoring::performance::PerformanceStatus;
use delayd_core::Stored;

pub use crate::governor::Trigger;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveModel {
    pub version: ModelVersion,
    /// End of its training data: its age counts from there.
    pub trained_until: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftFinding {
    pub report: DriftReportId,
    /// The model whose reference it was measured against.
    pub model: ModelVersion,
    pub ended_at: DateTime<Utc>,
    pub status: DriftStatus,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerformanceFinding {
    pub model: ModelVersion,
    pub at: DateTime<Utc>,
    pub status: PerformanceStatus,
    pub reason: String,
}

/// How fresh the data are that a cycle would learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFreshness {
    /// When the newest outcome became known; `None` without any.
    pub newest_outcome_at: Option<DateTime<Utc>>,
    /// Flights with outcomes in all.
    pub examples: u64,
    /// Of these, after the live model's training data.
    pub new_examples: u64,
}

/// A person's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorWord {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub live: Option<LiveModel>,
    pub running: Option<CycleId>,
    /// Set while automatic cycles are paused.
    pub paused: Option<OperatorWord>,
    /// A cycle asked for by a person and not started yet.
    pub requested: Option<OperatorWord>,
    pub drift: Option<DriftFinding>,
    pub performance: Option<PerformanceFinding>,
    pub data: DataFreshness,
    pub governor: GovernorState,
}

impl Stored for Snapshot {
    const NAME: &'static str = "decision on a retrain";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrainPolicy {
    /// A live model whose data end this long ago is replaced on schedule; `None`
    /// for never.
    pub max_model_age_days: Option<u32>,
    /// Findings older than this are not acted on.
    pub max_finding_age_hours: u32,
    /// With no outcome newer than this the data are stale, and retraining waits.
    pub max_data_age_hours: u32,
    /// Fewer new flights than this are not worth a retrain.
    pub minimum_new_examples: u64,
    /// Fewer flights than this are not enough for a first model.
    pub minimum_first_examples: u64,
    /// Cooldown, budget, breaker.
    pub governor: GovernorPolicy,
}

impl Stored for RetrainPolicy {
    const NAME: &'static str = "retrain policy";
}

impl Default for RetrainPolicy {
    fn default() -> Self {
        Self {
            max_model_age_days: Some(60),
            max_finding_age_hours: 48,
            max_data_age_hours: 72,
            minimum_new_examples: 5_000,
            minimum_first_examples: 10_000,
            governor: GovernorPolicy::default(),
        }
    }
}

impl RetrainPolicy {
    pub fn faults(&self) -> Vec<String> {
        let mut faults = broken_rules(
            "retrain",
            &[
                (self.max_model_age_days != Some(0), "max_model_age_days must be above 0, or left out for never"),
                (self.max_finding_age_hours > 0, "max_finding_age_hours must be above 0"),
                (self.max_data_age_hours > 0, "max_data_age_hours must be above 0"),
                (self.minimum_first_examples > 0, "minimum_first_examples must be above 0"),
            ],
        );
        faults.extend(self.governor.faults());
        faults
    }
}

/// Why a cycle starts; stored with it and with the model that comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CycleReason {
    pub trigger: Trigger,
    /// One sentence, with the numbers.
    pub text: String,
    /// The drift report behind it, where drift is the reason.
    pub drift_report: Option<DriftReportId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    StartCycle {
        reason: CycleReason,
    },
    /// Do nothing.
    Hold {
        why: String,
        /// When the answer may change by time alone, where that is known.
        until: Option<DateTime<Utc>>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    pub trigger: Trigger,
    pub fired: bool,
    /// Whether the cycle starts for it.
    pub taken: bool,
    pub why: String,
}

impl Stored for Alternative {
    const NAME: &'static str = "alternative of a decision";
}

/// What could have been decided, of whichever kind of decision: a trigger that was looked at, or an outcome of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Weighed {
    /// What it is called.
    #[serde(alias = "trigger")]
    pub name: String,
    /// Whether it was decided.
    pub taken: bool,
    /// Why, or why not, where that was noted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Stored for Weighed {
    const NAME: &'static str = "alternative of a decision";
}

/// A decision with everything that was weighed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub at: DateTime<Utc>,
    pub action: Action,
    pub alternatives: Vec<Alternative>,
}

/// Whether a trigger fires, and the sentence for it.
struct Signal {
    trigger: Trigger,
    fired: bool,
    text: String,
    drift_report: Option<DriftReportId>,
}

pub fn decide(snapshot: &Snapshot, policy: &RetrainPolicy, now: DateTime<Utc>) -> Decision {
    let mut alternatives = Vec::with_capacity(Trigger::ALL.len());
    let mut reason: Option<CycleReason> = None;
    let mut obstacles: Vec<(String, Option<DateTime<Utc>>)> = Vec::new();
    for signal in Trigger::ALL.map(|trigger| signal(trigger, snapshot, policy, now)) {
        let Signal { trigger, fired, text, drift_report } = signal;
        let (taken, why) = match (&reason, fired) {
            (_, false) => (false, text),
            (Some(first), true) => (false, format!("{text}; {} already starts the cycle", first.trigger)),
            (None, true) => match obstacle(trigger, snapshot, policy, now) {
                Some((why, until)) => {
                    obstacles.push((format!("{text}, but {why}"), until));
                    (false, format!("{text}, but {why}"))
                }
                None => {
                    reason = Some(CycleReason { trigger, text: text.clone(), drift_report });
                    (true, text)
                }
            },
        };
        alternatives.push(Alternative { trigger, fired, taken, why });
    }
    let action = match (reason, obstacles.into_iter().next()) {
        (Some(reason), _) => Action::StartCycle { reason },
        (None, Some((why, until))) => Action::Hold { why, until },
        (None, None) => {
            Action::Hold { why: "nothing asks for a cycle".to_owned(), until: scheduled_at(snapshot, policy) }
        }
    };
    Decision { at: now, action, alternatives }
}

fn signal(trigger: Trigger, snapshot: &Snapshot, policy: &RetrainPolicy, now: DateTime<Utc>) -> Signal {
    let (fired, text) = match trigger {
        Trigger::FirstModel => match &snapshot.live {
            None => (true, "nothing is live yet".to_owned()),
            Some(live) => (false, format!("{} is live", live.version)),
        },
        Trigger::Operator => match &snapshot.requested {
            Some(word) => (true, format!("{} asked for it: {}", word.by, word.reason)),
            None => (false, "nobody asked for it".to_owned()),
        },
        Trigger::Performance => {
            let found = snapshot.performance.as_ref();
            let found = found.map(|f| (f.model, f.at, f.status == PerformanceStatus::Degraded, f.reason.as_str()));
            report_signal("performance", found, snapshot, policy, now)
        }
        Trigger::Drift => {
            let found = snapshot.drift.as_ref();
            let found = found.map(|f| (f.model, f.ended_at, f.status == DriftStatus::Drifted, f.reason.as_str()));
            report_signal("drift", found, snapshot, policy, now)
        }
        Trigger::Schedule => schedule_signal(snapshot, policy, now),
    };
    let drift_report = snapshot.drift.as_ref().filter(|_| trigger == Trigger::Drift).map(|finding| finding.report);
    Signal { trigger, fired, text, drift_report }
}

/// What a report says of the live model now: its model, its time, whether it asks for a cycle, and its reason.
fn report_signal(
    what: &str,
    report: Option<(ModelVersion, DateTime<Utc>, bool, &str)>,
    snapshot: &Snapshot,
    policy: &RetrainPolicy,
    now: DateTime<Utc>,
) -> (bool, String) {
    let Some((model, at, fired, reason)) = report else { return (false, format!("no {what} report yet")) };
    let Some(live) = &snapshot.live else { return (false, "nothing is live".to_owned()) };
    if live.version != model {
        return (false, format!("the last report is of {model}, {} is live", live.version));
    }
    let hours = (now - at).num_hours();
    if hours > i64::from(policy.max_finding_age_hours) {
        return (false, format!("the last report is {hours} hours old"));
    }
    (fired, reason.to_owned())
}

fn schedule_signal(snapshot: &Snapshot, policy: &RetrainPolicy, now: DateTime<Utc>) -> (bool, String) {
    match (&snapshot.live, policy.max_model_age_days) {
        (None, _) => (false, "nothing is live".to_owned()),
        (_, None) => (false, "no largest model age is configured".to_owned()),
        (Some(live), Some(limit)) => {
            let age = (now - live.trained_until).num_days();
            let relation = if age >= i64::from(limit) { "at least" } else { "under" };
            (
                age >= i64::from(limit),
                format!("the training data of {} end {age} days ago, {relation} {limit}", live.version),
            )
        }
    }
}

fn scheduled_at(snapshot: &Snapshot, policy: &RetrainPolicy) -> Option<DateTime<Utc>> {
    let days = policy.max_model_age_days?;
    snapshot.live.as_ref().map(|live| live.trained_until + chrono::Duration::days(i64::from(days)))
}

/// What stands in the way of a trigger that fired, and until when if known.
pub fn obstacle(
    trigger: Trigger,
    snapshot: &Snapshot,
    policy: &RetrainPolicy,
    now: DateTime<Utc>,
) -> Option<(String, Option<DateTime<Utc>>)> {
    if let Some(running) = snapshot.running {
        return Some((format!("{running} is under way"), None));
    }
    let asked = trigger == Trigger::Operator;
    if let Some(pause) = snapshot.paused.as_ref().filter(|_| !asked) {
        return Some((format!("{} paused automatic cycles: {}", pause.by, pause.reason), None));
    }
    if let Some(why) = data_obstacle(trigger, &snapshot.data, policy, now) {
        return Some((why, None));
    }
    refusal(&snapshot.governor, trigger, &policy.governor, now).map(|(until, why)| (why, Some(until)))
}

fn data_obstacle(trigger: Trigger, data: &DataFreshness, policy: &RetrainPolicy, now: DateTime<Utc>) -> Option<String> {
    match trigger {
        // A person may know better; training itself refuses what it cannot learn from.
        Trigger::Operator => None,
        Trigger::FirstModel => (data.examples < policy.minimum_first_examples).then(|| {
            format!(
                "{} flights are too few for a first model; {} are needed",
                data.examples, policy.minimum_first_examples
            )
        }),
        _ => {
            let limit = i64::from(policy.max_data_age_hours);
            match data.newest_outcome_at.map(|newest| (now - newest).num_hours()) {
                None => Some("there are no outcomes to train on".to_owned()),
                Some(hours) if hours > limit => Some(format!("the newest outcome is {hours} hours old, over {limit}")),
                Some(_) => (data.new_examples < policy.minimum_new_examples).then(|| {
                    format!("{} new flights are too few; {} are needed", data.new_examples, policy.minimum_new_examples)
                }),
            }
        }
    }
}
