//! Judging flights by the contract: which are accepted, which are set aside and
//! why, and whether the dataset as a whole may be learnt from. Everything is
//! counted; nothing stops at the first fault.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::{Airport, great_circle_miles};
use serde::{Deserialize, Serialize};

use delayd_features::KnownWhen;

use super::contract::{Action, ColumnContract, Contract, OutlierRule, Value, value};
use super::error::DataError;
use super::flight::FlightRecord;
use delayd_core::Stored;
use delayd_core::ids::Digest;

/// A row that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// Its object.
    pub object: String,
    /// Its line there.
    pub line: u64,
    /// The flight, or the row's text where it could not be read.
    pub key: String,
    /// Every rule it breaks.
    pub reasons: Vec<String>,
}

/// A source that is not in a dataset though it was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutSource {
    /// Its key.
    pub key: String,
    /// The digest of its bytes when it was taken in.
    pub sha256: Digest,
    /// Why it cannot be read.
    pub reason: String,
}

/// What the contract says of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Rows judged.
    pub rows: u64,
    /// Rows accepted.
    pub accepted: u64,
    /// Rows set aside.
    pub quarantined: u64,
    /// Rows dropped because an identical one was there.
    pub exact_duplicates: u64,
    /// Flights of which two rows tell different things; the newer was kept.
    pub conflicting_duplicates: u64,
    /// Every violation by name, flagged or quarantined.
    pub violations: BTreeMap<String, u64>,
    /// Share of missing values by column.
    pub missing_share: BTreeMap<String, f64>,
    /// Outliers by column.
    pub outliers: BTreeMap<String, u64>,
    /// Columns of the sources that nothing reads.
    pub unused_columns: Vec<String>,
    /// Sources that were taken in once and cannot be read any more.
    #[serde(default)]
    pub left_out: Vec<LeftOutSource>,
    /// The object in the store with the rows that were set aside.
    #[serde(default)]
    pub quarantine_key: Option<String>,
    /// Every bound that was passed; not empty means: do not learn from this.
    pub failures: Vec<String>,
}

/// Values that are missing and values that are there, of one column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// Rows without a value.
    pub missing: u64,
    /// Rows with one.
    pub present: u64,
}

impl ValidationReport {
    /// The counts of several sources that were judged by themselves; what they say together is for [`Self::judge`].
    pub(crate) fn sum<'a>(
        reports: impl IntoIterator<Item = (&'a Self, &'a BTreeMap<String, Presence>)>,
    ) -> (Self, BTreeMap<String, Presence>) {
        let mut all = Self::default();
        let mut presence: BTreeMap<String, Presence> = BTreeMap::new();
        let mut unused = BTreeSet::new();
        let add = |counts: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>| {
            more.iter().for_each(|(name, count)| *counts.entry(name.clone()).or_default() += count);
        };
        for (report, of_columns) in reports {
            all.rows += report.rows;
            all.accepted += report.accepted;
            all.quarantined += report.quarantined;
            all.exact_duplicates += report.exact_duplicates;
            all.conflicting_duplicates += report.conflicting_duplicates;
            add(&mut all.violations, &report.violations);
            add(&mut all.outliers, &report.outliers);
            unused.extend(report.unused_columns.iter().cloned());
            for (name, counts) in of_columns {
                let sum = presence.entry(name.clone()).or_default();
                sum.missing += counts.missing;
                sum.present += counts.present;
            }
        }
        all.unused_columns = unused.into_iter().collect();
        (all, presence)
    }

    /// Judges the shares of what is missing and of what was set aside.
    pub(crate) fn judge(&mut self, presence: &BTreeMap<String, Presence>, contract: &Contract) {
        self.failures.clear();
        judge_missing(presence, contract, self);
        judge_share(contract, self);
    }
}

impl Stored for ValidationReport {
    const NAME: &'static str = "validation report";
}

/// The outcome of a validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// Flights that keep the contract, in time order, each once.
    pub accepted: Vec<FlightRecord>,
    /// Their lines in the source.
    pub lines: Vec<u64>,
    /// Rows set aside.
    pub quarantined: Vec<QuarantinedRow>,
    /// The counts.
    pub report: ValidationReport,
    /// How complete each column is.
    pub presence: BTreeMap<String, Presence>,
    /// Airports of rows that were set aside.
    pub airports: BTreeSet<String>,
    /// The first moment at which a row that was set aside as of the future may be judged otherwise.
    pub judge_again_at: Option<DateTime<Utc>>,
}

/// One source's rows, to be judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValidationInput {
    /// The object's name.
    pub source: String,
    /// Its flights with their lines.
    pub flights: Vec<(u64, FlightRecord)>,
    /// Rows that could not be read as flights; perhaps only the first of them.
    pub unreadable: Vec<QuarantinedRow>,
    /// How many such rows there were.
    pub unreadable_count: u64,
    /// Columns that nothing reads.
    pub unused_columns: Vec<String>,
}

/// Judges the flights of one source; `now` bounds what can have happened.
#[must_use]
pub fn validate(
    input: ValidationInput,
    contract: &Contract,
    airports: &BTreeMap<String, Airport>,
    now: DateTime<Utc>,
) -> Validated {
    let ValidationInput { source, flights, unreadable, unreadable_count, unused_columns } = input;
    let rows = flights.len() as u64 + unreadable_count;
    let mut report = ValidationReport { rows, unused_columns, ..ValidationReport::default() };
    if unreadable_count > 0 {
        report.violations.insert("unreadable_row".into(), unreadable_count);
    }
    let presence = presence(&flights, contract);
    let outlier_bounds = outlier_bounds(&flights, contract);
    let judge = Judge { contract, airports, now, outlier_bounds, source: &source };
    let unreadable_beyond = unreadable_count.saturating_sub(unreadable.len() as u64);
    let mut quarantined = unreadable;
    let mut judge_again_at = None;
    let mut airports_set_aside = BTreeSet::new();
    let mut kept = Vec::with_capacity(flights.len());
    for (line, flight) in flights {
        let reasons = judge.row(&flight, &mut report);
        if reasons.is_empty() {
            kept.push((line, flight));
        } else {
            judge_again_at = judge_again_at.into_iter().chain(judge.no_longer_future(&flight)).min();
            quarantined.push(judge.set_aside(line, &flight, reasons));
            airports_set_aside.extend([flight.origin, flight.dest]);
        }
    }
    let (lines, accepted) = judge.deduplicate(kept, &mut quarantined, &mut report);
    report.accepted = accepted.len() as u64;
    report.quarantined = quarantined.len() as u64 + unreadable_beyond;
    report.judge(&presence, contract);
    Validated { accepted, lines, quarantined, report, presence, airports: airports_set_aside, judge_again_at }
}

fn judge_share(contract: &Contract, report: &mut ValidationReport) {
    let share = report.quarantined as f64 / (report.rows as f64).max(1.0);
    if report.rows >= contract.min_rows_for_shares && share > contract.max_quarantined_share {
        report.failures.push(format!(
            "{} of {} rows are quarantined ({:.1} %); at most {:.1} % may be. Look at the quarantine file",
            report.quarantined,
            report.rows,
            share * 100.0,
            contract.max_quarantined_share * 100.0
        ));
    }
}

struct Judge<'a> {
    contract: &'a Contract,
    airports: &'a BTreeMap<String, Airport>,
    now: DateTime<Utc>,
    outlier_bounds: Vec<(&'a str, f64, f64, Action)>,
    source: &'a str,
}

/// Collects the reasons to set a row aside and counts what is only flagged.
struct Verdict<'r> {
    report: &'r mut ValidationReport,
    reasons: Vec<String>,
}

impl Verdict<'_> {
    fn violated(&mut self, name: &str, action: Action, reason: impl FnOnce() -> String) {
        if action != Action::Keep {
            *self.report.violations.entry(name.to_owned()).or_default() += 1;
        }
        if action == Action::Quarantine {
            self.reasons.push(format!("{name}: {}", reason()));
        }
    }
}

impl Judge<'_> {
    fn row(&self, record: &FlightRecord, report: &mut ValidationReport) -> Vec<String> {
        let mut verdict = Verdict { report, reasons: Vec::new() };
        self.columns(record, &mut verdict);
        self.outliers(record, &mut verdict);
        self.airports(record, &mut verdict);
        self.times(record, &mut verdict);
        verdict.reasons
    }

    fn columns(&self, record: &FlightRecord, verdict: &mut Verdict<'_>) {
        for (name, column) in &self.contract.columns {
            match value(record, name) {
                Value::Missing if column.required => {
                    verdict.violated(&format!("{name}.required"), Action::Quarantine, || "the value is missing".into());
                }
                Value::Number(number) => {
                    if let Some([low, high]) = column.range.filter(|[low, high]| !(*low..=*high).contains(&number)) {
                        verdict.violated(&format!("{name}.range"), Action::Quarantine, || {
                            format!("found {number}, expected {low} to {high}")
                        });
                    }
                }
                Value::Text(text) => {
                    if let Some(allowed) = column.allowed.as_ref().filter(|allowed| !allowed.iter().any(|a| a == text))
                    {
                        verdict.violated(&format!("{name}.allowed"), Action::Quarantine, || {
                            format!("found `{text}`, expected one of {}", allowed.join(", "))
                        });
                    }
                }
                _ => {}
            }
        }
    }

    fn outliers(&self, record: &FlightRecord, verdict: &mut Verdict<'_>) {
        for (name, low, high, action) in &self.outlier_bounds {
            if let Value::Number(number) = value(record, name)
                && !(*low..=*high).contains(&number)
            {
                *verdict.report.outliers.entry((*name).to_owned()).or_default() += 1;
                verdict.violated(&format!("{name}.outlier"), *action, || {
                    format!("{number} is far from the usual {low:.1} to {high:.1}")
                });
            }
        }
    }

    fn airports(&self, record: &FlightRecord, verdict: &mut Verdict<'_>) {
        let rules = &self.contract.rules;
        for code in [&record.origin, &record.dest] {
            if !self.airports.contains_key(code) {
                verdict.violated("unknown_airport", rules.unknown_airport, || {
                    format!(
                        "`{code}` is not among the {} known airports; add it to the airports file",
                        self.airports.len()
                    )
                });
            }
        }
        if record.origin == record.dest {
            verdict.violated("origin_is_destination", rules.origin_is_destination, || record.origin.clone());
        }
        let positions = (self.airports.get(&record.origin), self.airports.get(&record.dest));
        if let ((Some(origin), Some(dest)), Some(told)) = (positions, record.distance_miles) {
            let miles = great_circle_miles(origin, dest);
            let tolerance = rules.distance_tolerance_miles.max(miles * rules.distance_tolerance_share);
            if (f64::from(told) - miles).abs() > tolerance {
                verdict.violated("distance_off_great_circle", rules.distance_off_great_circle, || {
                    format!("{told} miles are told; the airports are {miles:.0} apart")
                });
            }
        }
    }

    fn times(&self, record: &FlightRecord, verdict: &mut Verdict<'_>) {
        let rules = &self.contract.rules;
        let FlightRecord { scheduled_departure, scheduled_arrival, departed_at, arrived_at, .. } = *record;
        if scheduled_departure > self.now + TimeDelta::days(rules.max_days_ahead) {
            verdict.violated("departure_too_far_ahead", rules.departure_too_far_ahead, || {
                format!("{scheduled_departure} is more than {} days ahead", rules.max_days_ahead)
            });
        }
        for (name, moment) in [("departure", departed_at), ("arrival", arrived_at)] {
            if let Some(moment) = moment.filter(|moment| *moment > self.now) {
                verdict.violated("outcome_in_the_future", rules.outcome_in_the_future, || {
                    format!("the {name} at {moment} lies after {}", self.now)
                });
            }
        }
        let pairs = [("", departed_at, arrived_at), ("scheduled ", Some(scheduled_departure), scheduled_arrival)];
        for (kind, departure, arrival) in pairs {
            if let (Some(departure), Some(arrival)) = (departure, arrival)
                && arrival <= departure
            {
                verdict.violated("arrival_not_after_departure", rules.arrival_not_after_departure, || {
                    format!("{kind}arrival {arrival} is not after {kind}departure {departure}")
                });
            }
        }
        if let (Some(planned), Some(arrived), Some(told)) =
            (scheduled_arrival, arrived_at, record.arrival_delay_minutes)
        {
            let computed = (arrived - planned).num_minutes();
            if (computed - i64::from(told)).abs() > rules.delay_tolerance_minutes {
                verdict.violated("arrival_delay_inconsistent", rules.arrival_delay_inconsistent, || {
                    format!("{told} minutes are told; the times say {computed}")
                });
            }
        }
        if (record.cancelled && arrived_at.is_some()) || (arrived_at.is_some() && departed_at.is_none()) {
            verdict.violated("status_inconsistent", rules.status_inconsistent, || {
                "an arrival of a flight that was cancelled or never left".into()
            });
        }
    }

    /// When a flight that lies in the future now does so no longer.
    fn no_longer_future(&self, flight: &FlightRecord) -> Option<DateTime<Utc>> {
        let plannable_from = flight.scheduled_departure - TimeDelta::days(self.contract.rules.max_days_ahead);
        let moments = [flight.departed_at, flight.arrived_at, Some(plannable_from)];
        moments.into_iter().flatten().max().filter(|moment| *moment > self.now)
    }

    fn set_aside(&self, line: u64, flight: &FlightRecord, reasons: Vec<String>) -> QuarantinedRow {
        QuarantinedRow { object: self.source.to_owned(), line, key: flight.key().to_string(), reasons }
    }

    /// One row per flight, in time order: identical rows are dropped, of different ones the last is kept and the
    /// others are set aside.
    fn deduplicate(
        &self,
        mut rows: Vec<(u64, FlightRecord)>,
        quarantined: &mut Vec<QuarantinedRow>,
        report: &mut ValidationReport,
    ) -> (Vec<u64>, Vec<FlightRecord>) {
        rows.sort_by(|(line_a, a), (line_b, b)| a.in_time_order(b).then(line_b.cmp(line_a)));
        let mut kept: Vec<FlightRecord> = Vec::with_capacity(rows.len());
        let mut lines: Vec<u64> = Vec::with_capacity(rows.len());
        for (line, flight) in rows {
            match kept.last().filter(|last| last.in_time_order(&flight).is_eq()) {
                None => {
                    kept.push(flight);
                    lines.push(line);
                }
                Some(last) if *last == flight => report.exact_duplicates += 1,
                Some(_) => {
                    report.conflicting_duplicates += 1;
                    *report.violations.entry(CONFLICTING.to_owned()).or_default() += 1;
                    let newer = format!("{} line {}", self.source, lines.last().copied().unwrap_or_default());
                    quarantined.push(self.set_aside(line, &flight, vec![conflict(&newer)]));
                }
            }
        }
        (lines, kept)
    }
}

/// The violation of a row that another, newer one contradicts.
pub(crate) const CONFLICTING: &str = "conflicting_duplicate";

/// Why a row is set aside that a newer one contradicts.
pub(crate) fn conflict(newer: &str) -> String {
    format!("{CONFLICTING}: {newer} differs and is newer")
}

fn presence(flights: &[(u64, FlightRecord)], contract: &Contract) -> BTreeMap<String, Presence> {
    let of_column = |(name, column): (&String, &ColumnContract)| {
        // A cancelled or diverted flight has no outcome to miss: a blizzard is no fault of the data.
        let after_departure = column.known_when >= KnownWhen::Departure;
        let expected = flights.iter().filter(|(_, flight)| !(after_departure && (flight.cancelled || flight.diverted)));
        let mut presence = Presence::default();
        for (_, flight) in expected {
            let slot =
                if value(flight, name) == Value::Missing { &mut presence.missing } else { &mut presence.present };
            *slot += 1;
        }
        (name.clone(), presence)
    };
    contract.columns.iter().map(of_column).collect()
}

fn judge_missing(presence: &BTreeMap<String, Presence>, contract: &Contract, report: &mut ValidationReport) {
    let rows = report.rows - report.violations.get("unreadable_row").copied().unwrap_or(0);
    for (name, column) in &contract.columns {
        let Presence { missing, present } = presence.get(name).copied().unwrap_or_default();
        let share = missing as f64 / ((missing + present) as f64).max(1.0);
        report.missing_share.insert(name.clone(), share);
        let judged = rows >= contract.min_rows_for_shares;
        if let Some(bound) = column.max_missing_share.filter(|bound| judged && share > *bound) {
            let (share, bound) = (share * 100.0, bound * 100.0);
            report
                .failures
                .push(format!("column {name}: {share:.1} % of the values are missing; at most {bound:.1} % may be"));
        }
    }
}

fn outlier_bounds<'a>(flights: &[(u64, FlightRecord)], contract: &'a Contract) -> Vec<(&'a str, f64, f64, Action)> {
    let mut bounds = Vec::new();
    for (name, column) in &contract.columns {
        let Some(rule) = column.outlier else { continue };
        let values = || {
            let numbers = flights.iter().filter_map(|(_, flight)| match value(flight, name) {
                Value::Number(number) => Some(number),
                _ => None,
            });
            let mut numbers: Vec<f64> = numbers.collect();
            numbers.sort_unstable_by(f64::total_cmp);
            numbers
        };
        let (low, high, action) = match rule {
            OutlierRule::Domain { low, high, action } => (low, high, action),
            OutlierRule::Mad { bound, action } => {
                let values = values();
                let median = quantile(&values, 0.5);
                let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
                deviations.sort_unstable_by(f64::total_cmp);
                // At least one minute or mile, so that a constant column has no outliers by rounding.
                let reach = bound * (1.4826 * quantile(&deviations, 0.5)).max(1.0);
                (median - reach, median + reach, action)
            }
            OutlierRule::Iqr { bound, action } => {
                let values = values();
                let (low, high) = (quantile(&values, 0.25), quantile(&values, 0.75));
                let reach = bound * (high - low).max(1.0);
                (low - reach, high + reach, action)
            }
        };
        if low.is_finite() && high.is_finite() {
            bounds.push((name.as_str(), low, high, action));
        }
    }
    bounds
}

/// The nearest-rank quantile of sorted values; `NaN` of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((share * last).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The quarantine as a CSV: object, line, flight, reasons.
///
/// # Errors
/// When the rows cannot be written.
pub fn quarantine_csv(rows: &[QuarantinedRow]) -> Result<Vec<u8>, DataError> {
    let failed = |error: csv::Error| DataError::Internal(format!("writing the quarantine: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["object", "line", "flight", "reasons"]).map_err(failed)?;
    for row in rows {
        let line = row.line.to_string();
        let reasons = row.reasons.join(" | ");
        writer.write_record([&row.object, &line, &row.key, &reasons]).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| DataError::Internal(format!("writing the quarantine: {error}")))
}
