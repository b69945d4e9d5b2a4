//! The data contract, `config/contract.toml`: what a flight must look like and
//! when each column becomes known. Reading and judging the contract itself is
//! here; judging data by it is in [`super::validation`].

use std::collections::BTreeMap;

use delayd_features::{CategoryInput, KnownWhen, NumericInput};
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::flight::FlightRecord;
use delayd_core::ids::Digest;

/// What happens to a row that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is kept; the report counts it.
    Flag,
    /// It is kept; nobody counts it.
    Keep,
    /// It is set aside with the reason.
    Quarantine,
}

/// What happens to columns that nothing reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownColumns {
    /// Nothing.
    Ignore,
    /// The report names them.
    Flag,
    /// The object is refused.
    Reject,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Letters and digits.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// An instant.
    Time,
    /// Yes or no.
    Boolean,
}

/// How outliers of a column are told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutlierRule {
    /// Further from the median than `bound` times the scaled median absolute
    /// deviation, 1.4826 · MAD (Iglewicz and Hoaglin, 1993).
    Mad {
        /// How many scaled deviations.
        bound: f64,
        /// What happens.
        action: Action,
    },
    /// Outside the quartiles by more than `bound` times their distance (Tukey, 1977).
    Iqr {
        /// How many quartile distances.
        bound: f64,
        /// What happens.
        action: Action,
    },
    /// Outside bounds that are known beforehand.
    Domain {
        /// Lowest usual value.
        low: f64,
        /// Highest usual value.
        high: f64,
        /// What happens.
        action: Action,
    },
}

/// What is asked of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnContract {
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether every row must have it.
    #[serde(default)]
    pub required: bool,
    /// When it becomes known.
    pub known_when: KnownWhen,
    /// Lowest and highest value; outside, the row is quarantined.
    #[serde(default)]
    pub range: Option<[f64; 2]>,
    /// The only values it may have.
    #[serde(default)]
    pub allowed: Option<Vec<String>>,
    /// Over this share of missing values the dataset fails.
    #[serde(default)]
    pub max_missing_share: Option<f64>,
    /// How its outliers are told.
    #[serde(default)]
    pub outlier: Option<OutlierRule>,
}

/// Rules across columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// An arrival at or before its departure.
    pub arrival_not_after_departure: Action,
    /// A distance that is not the one between the airports.
    pub distance_off_great_circle: Action,
    /// By how many miles it may be off, in any case.
    pub distance_tolerance_miles: f64,
    /// By which share of the distance it may be off, if that is more.
    pub distance_tolerance_share: f64,
    /// A scheduled departure too far in the future.
    pub departure_too_far_ahead: Action,
    /// How many days ahead are too far.
    pub max_days_ahead: i64,
    /// A departure or arrival after the present moment.
    pub outcome_in_the_future: Action,
    /// An arrival delay that is not arrival less scheduled arrival.
    pub arrival_delay_inconsistent: Action,
    /// By how many minutes it may be off.
    pub delay_tolerance_minutes: i64,
    /// An airport that is not known.
    pub unknown_airport: Action,
    /// Origin and destination are the same.
    pub origin_is_destination: Action,
    /// Cancelled and arrived; arrived and never left.
    pub status_inconsistent: Action,
}

/// The whole contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Format of the file.
    pub format: u32,
    /// What happens to columns that nothing reads.
    pub unknown_columns: UnknownColumns,
    /// Over this share of quarantined rows the dataset fails.
    pub max_quarantined_share: f64,
    /// Datasets of fewer rows are not judged by shares.
    pub min_rows_for_shares: u64,
    /// The columns by canonical name.
    pub columns: BTreeMap<String, ColumnContract>,
    /// Rules across columns.
    pub rules: Rules,
}

/// The columns a contract may and must speak of.
pub const COLUMNS: [&str; 13] = [
    "carrier",
    "flight_number",
    "origin",
    "dest",
    "scheduled_departure",
    "scheduled_arrival",
    "distance_miles",
    "departed_at",
    "departure_delay_minutes",
    "arrived_at",
    "arrival_delay_minutes",
    "cancelled",
    "diverted",
];

/// The contract that comes with delayd.
const BUILT_IN: &str = include_str!("../../../config/contract.toml");

impl Contract {
    /// The contract that comes with delayd, `config/contract.toml` as built in.
    ///
    /// # Errors
    /// Never in a build whose tests pass.
    pub fn built_in() -> Result<Self, DataError> {
        Self::parse(BUILT_IN)
    }

    /// Reads a contract and judges it; every fault is told at once.
    ///
    /// # Errors
    /// When it is no TOML of this shape, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let contract: Self = toml::from_str(text).map_err(|error| DataError::Contract(error.to_string()))?;
        let faults = contract.faults();
        if faults.is_empty() { Ok(contract) } else { Err(DataError::Contract(faults.join("; "))) }
    }

    /// What identifies its content.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, DataError> {
        let json = serde_json::to_vec(self).map_err(|error| DataError::Internal(format!("contract: {error}")))?;
        Ok(Digest::of(&json))
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.format != 1 {
            faults.push(format!("format is {}; this build reads 1", self.format));
        }
        for share in [("max_quarantined_share", self.max_quarantined_share)] {
            if !(0.0..=1.0).contains(&share.1) {
                faults.push(format!("{} is {}; expected a share from 0 to 1", share.0, share.1));
            }
        }
        for name in COLUMNS.iter().filter(|name| !self.columns.contains_key(**name)) {
            faults.push(format!("columns.{name} is missing"));
        }
        for (name, column) in &self.columns {
            if !COLUMNS.contains(&name.as_str()) {
                faults.push(format!("columns.{name}: no such column; the columns are {}", COLUMNS.join(", ")));
            }
            if column.range.is_some_and(|[low, high]| low > high || low.is_nan() || high.is_nan()) {
                faults.push(format!("columns.{name}.range: the lower bound is above the upper"));
            }
            if column.max_missing_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                faults.push(format!("columns.{name}.max_missing_share: expected a share from 0 to 1"));
            }
            faults.extend(column.type_faults(name));
            let earliest = earliest_known(name);
            if column.known_when < earliest {
                faults.push(format!(
                    "columns.{name}.known_when is {:?}; it cannot be known before {earliest:?}",
                    column.known_when
                ));
            }
        }
        faults
    }

    /// The contract that is configured, the built-in one where the path is empty. It is
    /// refused where it says of a column that features read that it is known too late.
    ///
    /// # Errors
    /// When it cannot be read, is malformed, or makes a feature known too late.
    pub fn configured(path: &std::path::Path) -> Result<Self, DataError> {
        if path.as_os_str().is_empty() {
            return Self::built_in();
        }
        let of_file = |error: String| DataError::Contract(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        let contract = Self::parse(&text).map_err(|error| match error {
            DataError::Contract(text) => of_file(text),
            other => other,
        })?;
        contract.feature_sources_check(FEATURE_COLUMNS)?;
        Ok(contract)
    }

    /// Refuses a list of features that reads anything known only after the
    /// prediction: a feature of `delayd-features` by its declared moment, a
    /// column of the contract by its `known_when`.
    ///
    /// # Errors
    /// With every such name; also for names that nobody knows.
    pub fn feature_sources_check<'a>(&self, features: impl IntoIterator<Item = &'a str>) -> Result<(), DataError> {
        let mut late = Vec::new();
        let mut unknown = Vec::new();
        for name in features {
            // A name may be a feature's and a column's; the later moment counts.
            let feature = NumericInput::from_name(name).map(NumericInput::known_when);
            let column = self.columns.get(name).map(|column| column.known_when);
            let category = CategoryInput::from_name(name).map(|_| KnownWhen::Schedule);
            match feature.max(column).max(category) {
                None => unknown.push(name.to_owned()),
                Some(known) if known > KnownWhen::PredictionTime => {
                    let moment = if known == KnownWhen::Departure { "departure" } else { "arrival" };
                    late.push(format!("`{name}` is known at {moment}"));
                }
                Some(_) => {}
            }
        }
        if !late.is_empty() {
            return Err(DataError::FutureColumn { columns: late });
        }
        if unknown.is_empty() {
            return Ok(());
        }
        Err(DataError::Contract(format!("feature list: nothing is called {}", unknown.join(", "))))
    }
}

/// The columns of a flight that its own features read; departures and arrivals are
/// read of other flights only, once they have happened.
pub const FEATURE_COLUMNS: [&str; 7] =
    ["carrier", "flight_number", "origin", "dest", "scheduled_departure", "scheduled_arrival", "distance_miles"];

impl ColumnContract {
    /// Expectations that this column cannot have.
    fn type_faults(&self, name: &str) -> Vec<String> {
        let Some(own) = type_of(name) else { return Vec::new() };
        let mut faults = Vec::new();
        if self.column_type != own {
            faults.push(format!("columns.{name}.type is {:?}; the column is {own:?}", self.column_type));
        }
        if self.allowed.is_some() && own != ColumnType::Text {
            faults
                .push(format!("columns.{name}.allowed: the column is {own:?}; only text columns have allowed values"));
        }
        let number = matches!(own, ColumnType::Integer | ColumnType::Number);
        for (expectation, there) in [("range", self.range.is_some()), ("outlier", self.outlier.is_some())] {
            if there && !number {
                faults.push(format!(
                    "columns.{name}.{expectation}: the column is {own:?}; only numbers have a {expectation}"
                ));
            }
        }
        faults
    }
}

/// The type that a column's values have, whatever a contract says.
fn type_of(column: &str) -> Option<ColumnType> {
    Some(match column {
        "carrier" | "origin" | "dest" => ColumnType::Text,
        "flight_number" | "arrival_delay_minutes" => ColumnType::Integer,
        "distance_miles" | "departure_delay_minutes" => ColumnType::Number,
        "scheduled_departure" | "scheduled_arrival" | "departed_at" | "arrived_at" => ColumnType::Time,
        "cancelled" | "diverted" => ColumnType::Boolean,
        _ => return None,
    })
}

/// A contract may be stricter about the moment a column is known, never laxer.
fn earliest_known(column: &str) -> KnownWhen {
    match column {
        "departed_at" | "departure_delay_minutes" | "cancelled" => KnownWhen::Departure,
        "arrived_at" | "arrival_delay_minutes" | "diverted" => KnownWhen::Arrival,
        _ => KnownWhen::Schedule,
    }
}

/// A value of a record as the contract sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Missing,
    Text(&'a str),
    Number(f64),
    Other,
}

/// One column of a record.
pub(super) fn value<'a>(record: &'a FlightRecord, column: &str) -> Value<'a> {
    let number = |number: Option<f64>| number.filter(|n| !n.is_nan()).map_or(Value::Missing, Value::Number);
    let time = |there: bool| if there { Value::Other } else { Value::Missing };
    match column {
        "carrier" => Value::Text(&record.carrier),
        "origin" => Value::Text(&record.origin),
        "dest" => Value::Text(&record.dest),
        "flight_number" => Value::Number(f64::from(record.flight_number)),
        "distance_miles" => number(record.distance_miles.map(f64::from)),
        "departure_delay_minutes" => number(record.departure_delay_minutes()),
        "arrival_delay_minutes" => number(record.arrival_delay_minutes.map(f64::from)),
        "scheduled_arrival" => time(record.scheduled_arrival.is_some()),
        "departed_at" => time(record.departed_at.is_some()),
        "arrived_at" => time(record.arrived_at.is_some()),
        _ => Value::Other,
    }
}
