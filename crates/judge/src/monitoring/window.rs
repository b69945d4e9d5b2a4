//! What the monitor remembers between checks. Both live in the ledger, so that nothing is counted or alerted twice after
//! a restart of the daemon.
//!
//! A [`WindowBook`] turns what replicas have counted since they started into windows of days and hours. It remembers each
//! replica's last report, subtracts it from the next one, and adds the difference to the day and hour it belongs to, model
//! version by model version. A replica that restarted began again at zero, and all it reports is new.
//!
//! [`Episodes`] are stretches of trouble, from the first alarm to the first evaluation that is quiet again. An alert is
//! sent once for an episode, however often it is evaluated; the next episode alerts again, also on the same model.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, DurationRound, NaiveDate, Utc};
use delayd_model::admin::{BucketsDiffer, LatencyHistogram, ReplicaReport, ReportError, RequestCounts};
use delayd_model::{Sketch, SketchError};
use serde::{Deserialize, Serialize};

use crate::monitoring::drift::DriftWindow;

/// Counts of one stretch of time of one model version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rows in the bins of the model's reference.
    pub sketch: Sketch,
    pub requests: RequestCounts,
    pub latency: LatencyHistogram,
}

impl Counts {
    fn of(report: &ReplicaReport) -> Self {
        Self { sketch: report.sketch.clone(), requests: report.requests, latency: report.latency.clone() }
    }

    fn merge(&mut self, other: &Self) -> Result<(), ReportError> {
        let mut latency = self.latency.clone();
        latency.merge(&other.latency)?;
        self.sketch.merge(&other.sketch)?;
        self.latency = latency;
        self.requests.merge(&other.requests);
        Ok(())
    }
}

/// A report that does not fit what was counted before.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("report of replica {replica} ({model_version}) does not add up with the earlier ones; it was left out")]
pub struct WindowError {
    pub replica: String,
    pub model_version: String,
    #[source]
    pub source: ReportError,
}

/// What a report added.
#[derive(Debug, Clone, PartialEq)]
pub struct Absorbed {
    /// The replica was new, or had restarted.
    pub from_zero: bool,
    pub rows: u64,
    pub requests: RequestCounts,
}

/// Counts of a day by replica, for latency and errors replica by replica.
type ByReplica = BTreeMap<String, (RequestCounts, LatencyHistogram)>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelCounts {
    days: BTreeMap<NaiveDate, Counts>,
    hours: BTreeMap<DateTime<Utc>, RequestCounts>,
    replicas: BTreeMap<NaiveDate, ByReplica>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowBook {
    /// Where a day begins, in minutes after midnight UTC: with 300, days of New
    /// York's winter, so that a night's departures stay with their day.
    day_starts_minutes_utc: u32,
    last: BTreeMap<String, ReplicaReport>,
    models: BTreeMap<String, ModelCounts>,
}

impl WindowBook {
    /// An empty book. `day_starts_minutes_utc` is where a day begins.
    pub fn new(day_starts_minutes_utc: u32) -> Self {
        let day_starts_minutes_utc = day_starts_minutes_utc % (24 * 60);
        Self { day_starts_minutes_utc, last: BTreeMap::new(), models: BTreeMap::new() }
    }

    /// Adds what is new in a report. The same report again adds nothing.
    /// When it was counted in other bins than the model's earlier ones; the book
    /// is unchanged then.
    pub fn absorb(&mut self, report: &ReplicaReport) -> Result<Absorbed, WindowError> {
        let error = |source| WindowError {
            replica: report.replica.clone(),
            model_version: report.model_version.clone(),
            source,
        };
        let earlier = self.last.get(&report.replica).filter(|last| same_process(last, report));
        if earlier.is_some_and(|last| last.reported_at > report.reported_at) {
            // An answer that was overtaken by a later one: all of it is counted already.
            return Ok(Absorbed { from_zero: false, rows: 0, requests: RequestCounts::default() });
        }
        let mut fresh = report.clone();
        let since = match earlier {
            Some(last) => {
                fresh.subtract(last).map_err(error)?;
                last.reported_at
            }
            None => report.started_at,
        };
        let added = Counts::of(&fresh);
        // What came in over a stretch belongs to the day in which its middle lies.
        let middle = since + (report.reported_at - since) / 2;
        let day = self.day_of(middle);
        let hour = middle.duration_trunc(Duration::hours(1)).unwrap_or(middle);
        let model = self.models.entry(report.model_version.clone()).or_default();
        match model.days.get_mut(&day) {
            Some(counts) => counts.merge(&added).map_err(error)?,
            None => {
                if let Some(other) = model.days.values().next() {
                    // Days of one model must add up to windows later.
                    other.clone().merge(&added).map_err(error)?;
                }
                model.days.insert(day, added.clone());
            }
        }
        model.hours.entry(hour).or_default().merge(&added.requests);
        let replica = model.replicas.entry(day).or_default().entry(report.replica.clone());
        let (requests, latency) = replica.or_insert_with(|| {
            let empty = LatencyHistogram {
                counts: vec![0; added.latency.counts.len()],
                sum_secs: 0.0,
                ..added.latency.clone()
            };
            (RequestCounts::default(), empty)
        });
        latency.merge(&added.latency).map_err(|source| error(source.into()))?;
        requests.merge(&added.requests);
        let absorbed = Absorbed { from_zero: earlier.is_none(), rows: added.sketch.rows, requests: added.requests };
        self.last.insert(report.replica.clone(), report.clone());
        Ok(absorbed)
    }

    /// The day to which a moment belongs.
    pub fn day_of(&self, moment: DateTime<Utc>) -> NaiveDate {
        (moment - Duration::minutes(i64::from(self.day_starts_minutes_utc))).date_naive()
    }

    /// The window of the `days` whole days before `now`; the day under way is
    /// left out, as its mix of hours is not that of a day. `None` without counts.
    pub fn drift_window(
        &self,
        model_version: &str,
        now: DateTime<Utc>,
        days: u32,
    ) -> Result<Option<DriftWindow>, SketchError> {
        let today = self.day_of(now);
        let first = today - Duration::days(i64::from(days));
        let Some(model) = self.models.get(model_version) else { return Ok(None) };
        let sketches = model.days.range(first..today).map(|(_, counts)| counts.sketch.clone()).collect();
        let end = today.and_time(chrono::NaiveTime::MIN).and_utc()
            + Duration::minutes(i64::from(self.day_starts_minutes_utc));
        DriftWindow::from_days(end, sketches)
    }

    /// Requests of a model version from `from` up to `to`, by whole hours.
    pub fn requests(&self, model_version: &str, from: DateTime<Utc>, to: DateTime<Utc>) -> RequestCounts {
        let mut sum = RequestCounts::default();
        if let Some(model) = self.models.get(model_version).filter(|_| from < to) {
            model.hours.range(from..to).for_each(|(_, counts)| sum.merge(counts));
        }
        sum
    }

    /// Requests of one hour to all model versions: what traffic is judged by.
    pub fn traffic(&self, hour: DateTime<Utc>) -> u64 {
        self.models.values().filter_map(|model| model.hours.get(&hour)).map(RequestCounts::total).sum()
    }

    /// Latency by replica over the last `days` days, the day under way included.
    pub fn latency_by_replica(
        &self,
        model_version: &str,
        now: DateTime<Utc>,
        days: u32,
    ) -> Result<Vec<(String, LatencyHistogram)>, BucketsDiffer> {
        let first = self.day_of(now) - Duration::days(i64::from(days.saturating_sub(1)));
        let mut sums: BTreeMap<String, LatencyHistogram> = BTreeMap::new();
        let recent = self.models.get(model_version).into_iter().flat_map(|model| model.replicas.range(first..));
        for (name, (_, latency)) in recent.flat_map(|(_, replicas)| replicas) {
            match sums.get_mut(name) {
                Some(sum) => sum.merge(latency)?,
                None => {
                    sums.insert(name.clone(), latency.clone());
                }
            }
        }
        Ok(sums.into_iter().collect())
    }

    /// Forgets days before `day`, and replicas that have not reported since.
    pub fn forget_before(&mut self, day: NaiveDate) {
        let moment =
            day.and_time(chrono::NaiveTime::MIN).and_utc() + Duration::minutes(i64::from(self.day_starts_minutes_utc));
        for model in self.models.values_mut() {
            model.days.retain(|kept, _| *kept >= day);
            model.replicas.retain(|kept, _| *kept >= day);
            model.hours.retain(|kept, _| *kept >= moment);
        }
        self.models.retain(|_, model| !model.days.is_empty());
        self.last.retain(|_, report| report.reported_at >= moment);
    }
}

/// Whether the counters of `now` continue those of `last`.
fn same_process(last: &ReplicaReport, now: &ReplicaReport) -> bool {
    last.started_at == now.started_at && last.model_version == now.model_version && last.bundle == now.bundle
}

/// The episodes that last, by what is alarming (`drift/model_v3`), with their first alarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Episodes(BTreeMap<String, DateTime<Utc>>);

impl Episodes {
    /// An alarm at `now`: answers the alert's deduplication key, `<what>/<date of the
    /// episode's first alarm>`. One that ends and begins again on the same day has the
    /// same key: what flutters sends one alert a day at most.
    pub fn alarm(&mut self, what: &str, now: DateTime<Utc>) -> String {
        let began = *self.0.entry(what.to_owned()).or_insert(now);
        format!("{what}/{}", began.date_naive())
    }

    /// An evaluation that found nothing: the episode is over.
    pub fn quiet(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Forgets the episodes of every model but this one.
    pub fn keep_only(&mut self, model: &str) {
        self.0.retain(|what, _| what.rsplit_once('/').is_some_and(|(_, of)| of == model));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn an_episode_keeps_its_key_and_the_next_one_has_another() {
        let mut episodes = Episodes::default();
        let first = episodes.alarm("drift/model_v1", at("2013-03-01T06:00:00Z"));
        assert_eq!(first, "drift/model_v1/2013-03-01");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-03-04T06:00:00Z")), first);
        episodes.quiet("drift/model_v1");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-05-02T06:00:00Z")), "drift/model_v1/2013-05-02");
    }

    #[test]
    fn episodes_of_earlier_models_and_other_kinds_do_not_mix() {
        let mut episodes = Episodes::default();
        episodes.alarm("drift/model_v1", at("2013-03-01T06:00:00Z"));
        episodes.alarm("drift/model_v11", at("2013-03-02T06:00:00Z"));
        episodes.quiet("performance/model_v11");
        episodes.keep_only("model_v11");
        assert_eq!(episodes.alarm("drift/model_v11", at("2013-03-09T06:00:00Z")), "drift/model_v11/2013-03-02");
        assert_eq!(episodes.alarm("drift/model_v1", at("2013-03-09T06:00:00Z")), "drift/model_v1/2013-03-09");
    }
}
