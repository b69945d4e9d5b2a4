//! How the service itself does: latency, errors, traffic and the distribution of
//! its scores. Pure: from the book of windows to one document and what to tell.

use chrono::{DateTime, Duration, DurationRound, Utc};
use delayd_model::DriftReference;
use delayd_model::admin::BucketsDiffer;
use serde::{Deserialize, Serialize};

use super::drift::DriftWindow;
use super::errors::{self, ErrorReport};
use super::latency::{self, LatencyReport};
use super::skew::{self, PredictionSkewReport};
use super::traffic::{TrafficProfile, TrafficReport};
use super::window::WindowBook;
use crate::monitoring::settings::MonitoringSettings;

/// Errors of the last hour are held against those of this many hours before.
const ERROR_BASELINE_HOURS: i64 = 24;
/// Hours that were not watched are not judged one by one when the watch resumes.
const MOST_HOURS_AT_ONCE: i64 = 3;

/// One judgement of the service, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceReport {
    /// By replica and overall, over the day under way and the one before.
    pub latency: LatencyReport,
    /// The last hour against the day before it.
    pub errors: ErrorReport,
    /// The hours that ended since the last look, where they were all watched.
    pub traffic: Vec<TrafficReport>,
    /// Scores of the drift window against the reference; `None` without whole days.
    pub skew: Option<PredictionSkewReport>,
}

/// Something to tell about the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort, for the alert's key.
    pub kind: &'static str,
    /// One line.
    pub title: String,
    /// The report's own sentence.
    pub reason: String,
}

impl ServiceReport {
    /// What is wrong, if anything.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut tell = |wrong: bool, kind, title: &str, reason: &str| {
            if wrong {
                findings.push(Finding { kind, title: title.to_owned(), reason: reason.to_owned() });
            }
        };
        tell(self.errors.spike, "errors", "The service fails more often than it did", &self.errors.reason);
        let slow = self.latency.too_slow || !self.latency.slow_replicas.is_empty();
        tell(slow, "latency", "The service is slow", &self.latency.reason);
        for hour in &self.traffic {
            tell(hour.anomalous, "traffic", "Traffic is not what it is at this hour of the week", &hour.reason);
        }
        if let Some(skew) = &self.skew {
            tell(skew.skewed, "skew", "Scores are distributed unlike the reference", &skew.reason);
        }
        findings
    }
}

/// What is to be judged besides the book.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInputs<'a> {
    /// The live model.
    pub model: &'a str,
    /// Its reference.
    pub reference: &'a DriftReference,
    /// Whole days of traffic, where there are any.
    pub window: Option<&'a DriftWindow>,
    /// The last look, `None` at the first one.
    pub looked_at: Option<DateTime<Utc>>,
}

/// Judges the service at the moment `now`; learns the finished hours' traffic.
///
/// # Errors
/// When replicas of different builds have different latency buckets.
pub fn evaluate(
    book: &WindowBook,
    profile: &mut TrafficProfile,
    inputs: ServiceInputs<'_>,
    settings: &MonitoringSettings,
    now: DateTime<Utc>,
) -> Result<ServiceReport, BucketsDiffer> {
    let hour = now.duration_trunc(Duration::hours(1)).unwrap_or(now);
    let current = book.requests(inputs.model, hour - Duration::hours(1), now);
    let before = hour - Duration::hours(1);
    let baseline = book.requests(inputs.model, before - Duration::hours(ERROR_BASELINE_HOURS), before);
    Ok(ServiceReport {
        latency: latency::evaluate(&book.latency_by_replica(inputs.model, now, 2)?, &settings.latency)?,
        errors: errors::evaluate(current, baseline, &settings.errors),
        traffic: finished_hours(inputs.looked_at, now)
            .into_iter()
            .map(|hour| profile.observe(hour, book.traffic(hour), &settings.traffic))
            .collect(),
        skew: inputs.window.map(|window| skew::prediction_skew(inputs.reference, window, &settings.skew)),
    })
}

/// The hours that ended between two looks. After a longer absence (the daemon was
/// away, or a replay looks once a day) counts cannot be told apart by hour, and
/// nothing is judged or learnt.
fn finished_hours(looked_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let hour = Duration::hours(1);
    let (Some(from), Ok(until)) = (looked_at.and_then(|at| at.duration_trunc(hour).ok()), now.duration_trunc(hour))
    else {
        return Vec::new();
    };
    let ended = (until - from).num_hours();
    if ended > MOST_HOURS_AT_ONCE {
        return Vec::new();
    }
    (0..ended).map(|n| from + hour * n as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn an_hour_is_judged_once_it_is_over_and_not_after_a_long_absence() {
        let hours = |from, now| finished_hours(Some(at(from)), at(now)).len();
        assert_eq!(hours("2013-03-01T10:20:00Z", "2013-03-01T10:59:00Z"), 0);
        assert_eq!(
            finished_hours(Some(at("2013-03-01T10:59:00Z")), at("2013-03-01T11:00:00Z")),
            [at("2013-03-01T10:00:00Z")]
        );
        assert_eq!(hours("2013-03-01T10:20:00Z", "2013-03-01T13:20:00Z"), 3);
        assert_eq!(hours("2013-03-01T06:00:00Z", "2013-03-02T06:00:00Z"), 0);
        assert!(finished_hours(None, at("2013-03-02T06:00:00Z")).is_empty());
    }

    #[test]
    fn every_kind_of_trouble_becomes_a_finding_of_its_own() {
        let settings = MonitoringSettings::default();
        let book = WindowBook::new(0);
        let reference = DriftReference::default();
        let mut profile = TrafficProfile::default();
        let inputs = ServiceInputs { model: "model_v1", reference: &reference, window: None, looked_at: None };
        let quiet = evaluate(&book, &mut profile, inputs, &settings, at("2013-03-01T10:20:00Z")).unwrap();
        assert!(quiet.findings().is_empty(), "{:?}", quiet.findings());

        let mut loud = quiet.clone();
        loud.errors.spike = true;
        loud.latency.too_slow = true;
        let mut usual = TrafficProfile::default();
        let mut hour = usual.observe(at("2013-03-01T10:00:00Z"), 0, &settings.traffic);
        hour.anomalous = true;
        loud.traffic.push(hour);
        let kinds: Vec<&str> = loud.findings().iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, ["errors", "latency", "traffic"]);
    }
}
