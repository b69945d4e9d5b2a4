//! Which column of a source holds which canonical value.

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How a source writes times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeMeaning {
    /// `0830`, the airport's local time, with the date in a column of its own.
    #[default]
    LocalHhmm,
    /// RFC 3339 with an offset, `2013-01-01T10:15:00Z`.
    Rfc3339,
    /// Local date and time at the airport in `datetime_format`.
    LocalDateTime,
}

/// Names of a source's columns, as in `[ingestion.column_mapping]`. What a
/// source does not have is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnMapping {
    /// Carrier, IATA code.
    pub carrier: String,
    /// Flight number.
    pub flight_number: String,
    /// Origin airport.
    pub origin: String,
    /// Destination airport.
    pub dest: String,
    /// Local date of departure at the origin; needed by [`TimeMeaning::LocalHhmm`].
    pub flight_date: Option<String>,
    /// How dates are written (chrono's `strftime`); tried before the usual forms.
    pub date_format: Option<String>,
    /// How the columns of times are to be read.
    pub times: TimeMeaning,
    /// How [`TimeMeaning::LocalDateTime`] is written.
    pub datetime_format: Option<String>,
    /// Scheduled departure.
    pub scheduled_departure: String,
    /// The UTC hour of the scheduled departure (nycflights13's `time_hour`): with
    /// it only the minutes of `scheduled_departure` are read.
    pub scheduled_departure_hour_utc: Option<String>,
    /// Scheduled arrival.
    pub scheduled_arrival: Option<String>,
    /// Distance in statute miles.
    pub distance_miles: Option<String>,
    /// Departure from the gate.
    pub departed_at: Option<String>,
    /// Departure delay in minutes; wins over `departed_at`, which has no date.
    pub departure_delay_minutes: Option<String>,
    /// Arrival at the gate.
    pub arrived_at: Option<String>,
    /// Arrival delay in minutes.
    pub arrival_delay_minutes: Option<String>,
    /// 1 or `true` when cancelled; without it a flight that never left counts as cancelled.
    pub cancelled: Option<String>,
    /// 1 or `true` when diverted; without it a flight that left and has no
    /// arrival delay counts as diverted.
    pub diverted: Option<String>,
}

impl ColumnMapping {
    /// Every column it names, with the canonical field.
    #[must_use]
    pub fn columns(&self) -> Vec<(&'static str, &str)> {
        let required = [
            ("carrier", &self.carrier),
            ("flight_number", &self.flight_number),
            ("origin", &self.origin),
            ("dest", &self.dest),
            ("scheduled_departure", &self.scheduled_departure),
        ];
        let optional = [
            ("flight_date", &self.flight_date),
            ("scheduled_departure_hour_utc", &self.scheduled_departure_hour_utc),
            ("scheduled_arrival", &self.scheduled_arrival),
            ("distance_miles", &self.distance_miles),
            ("departed_at", &self.departed_at),
            ("departure_delay_minutes", &self.departure_delay_minutes),
            ("arrived_at", &self.arrived_at),
            ("arrival_delay_minutes", &self.arrival_delay_minutes),
            ("cancelled", &self.cancelled),
            ("diverted", &self.diverted),
        ];
        required
            .into_iter()
            .map(|(field, name)| (field, name.as_str()))
            .chain(optional.into_iter().filter_map(|(field, name)| name.as_deref().map(|name| (field, name))))
            .collect()
    }

    /// Everything wrong with a configured mapping, in words.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self
            .columns()
            .into_iter()
            .filter(|(_, name)| name.is_empty())
            .map(|(field, _)| format!("ingestion.column_mapping.{field}: expected the name of a column"))
            .collect();
        let hhmm = self.times == TimeMeaning::LocalHhmm;
        if hhmm && self.flight_date.is_none() && self.scheduled_departure_hour_utc.is_none() {
            faults.push("ingestion.column_mapping.flight_date: local_hhmm times need the column of the date".into());
        }
        if self.times == TimeMeaning::LocalDateTime && self.datetime_format.is_none() {
            faults.push("ingestion.column_mapping.datetime_format: local_date_time needs a format".into());
        }
        faults
    }

    fn missing_in(&self, header: &[String]) -> Vec<String> {
        self.columns()
            .into_iter()
            .filter(|(_, name)| !header.iter().any(|column| column == name))
            .map(|(field, name)| if field == name { name.to_owned() } else { format!("{name} ({field})") })
            .collect()
    }
}

/// The layouts that need no configuration, by name.
#[must_use]
pub fn known_layouts() -> Vec<(&'static str, ColumnMapping)> {
    vec![
        ("delayd", canonical()),
        ("nycflights13", nycflights13()),
        (
            "bts_reporting",
            bts([
                "Reporting_Airline",
                "Flight_Number_Reporting_Airline",
                "Origin",
                "Dest",
                "FlightDate",
                "CRSDepTime",
                "CRSArrTime",
                "Distance",
                "DepTime",
                "DepDelay",
                "ArrTime",
                "ArrDelay",
                "Cancelled",
                "Diverted",
            ]),
        ),
        (
            "bts_op_unique",
            bts([
                "OP_UNIQUE_CARRIER",
                "OP_CARRIER_FL_NUM",
                "ORIGIN",
                "DEST",
                "FL_DATE",
                "CRS_DEP_TIME",
                "CRS_ARR_TIME",
                "DISTANCE",
                "DEP_TIME",
                "DEP_DELAY",
                "ARR_TIME",
                "ARR_DELAY",
                "CANCELLED",
                "DIVERTED",
            ]),
        ),
    ]
}

/// The layout of a header: the configured mapping where it fits, else the known
/// layout that shares the most columns.
///
/// # Errors
/// When none fits; with every missing column where one nearly does.
pub fn choose(
    key: &str,
    header: &[String],
    configured: Option<&ColumnMapping>,
) -> Result<(String, ColumnMapping), DataError> {
    let mut candidates = known_layouts();
    if let Some(mapping) = configured {
        candidates.insert(0, ("column_mapping", mapping.clone()));
    }
    if let Some((name, mapping)) = candidates.iter().find(|(_, mapping)| mapping.missing_in(header).is_empty()) {
        return Ok(((*name).to_owned(), mapping.clone()));
    }
    let shared = |mapping: &ColumnMapping| mapping.columns().len() - mapping.missing_in(header).len();
    let found = header.iter().take(40).cloned().collect::<Vec<_>>().join(", ");
    match candidates.into_iter().rev().max_by_key(|(_, mapping)| shared(mapping)) {
        Some((name, mapping)) if shared(&mapping) * 2 >= mapping.columns().len() => Err(DataError::MissingColumns {
            key: key.to_owned(),
            layout: name.to_owned(),
            missing: mapping.missing_in(header),
            found,
        }),
        _ => Err(DataError::UnknownLayout { key: key.to_owned(), found }),
    }
}

fn canonical() -> ColumnMapping {
    let same = |name: &str| Some(name.to_owned());
    ColumnMapping {
        carrier: "carrier".into(),
        flight_number: "flight_number".into(),
        origin: "origin".into(),
        dest: "dest".into(),
        times: TimeMeaning::Rfc3339,
        scheduled_departure: "scheduled_departure".into(),
        scheduled_arrival: same("scheduled_arrival"),
        distance_miles: same("distance_miles"),
        departed_at: same("departed_at"),
        arrived_at: same("arrived_at"),
        arrival_delay_minutes: same("arrival_delay_minutes"),
        cancelled: same("cancelled"),
        diverted: same("diverted"),
        ..ColumnMapping::default()
    }
}

fn nycflights13() -> ColumnMapping {
    let named = |name: &str| Some(name.to_owned());
    ColumnMapping {
        carrier: "carrier".into(),
        flight_number: "flight".into(),
        origin: "origin".into(),
        dest: "dest".into(),
        times: TimeMeaning::LocalHhmm,
        scheduled_departure: "sched_dep_time".into(),
        scheduled_departure_hour_utc: named("time_hour"),
        scheduled_arrival: named("sched_arr_time"),
        distance_miles: named("distance"),
        departed_at: named("dep_time"),
        departure_delay_minutes: named("dep_delay"),
        arrived_at: named("arr_time"),
        arrival_delay_minutes: named("arr_delay"),
        ..ColumnMapping::default()
    }
}

fn bts(names: [&str; 14]) -> ColumnMapping {
    let names = names.map(str::to_owned);
    let [
        carrier,
        flight_number,
        origin,
        dest,
        date,
        scheduled_departure,
        scheduled_arrival,
        distance,
        departed,
        departure_delay,
        arrived,
        arrival_delay,
        cancelled,
        diverted,
    ] = names;
    ColumnMapping {
        carrier,
        flight_number,
        origin,
        dest,
        flight_date: Some(date),
        times: TimeMeaning::LocalHhmm,
        scheduled_departure,
        scheduled_arrival: Some(scheduled_arrival),
        distance_miles: Some(distance),
        departed_at: Some(departed),
        departure_delay_minutes: Some(departure_delay),
        arrived_at: Some(arrived),
        arrival_delay_minutes: Some(arrival_delay),
        cancelled: Some(cancelled),
        diverted: Some(diverted),
        ..ColumnMapping::default()
    }
}
