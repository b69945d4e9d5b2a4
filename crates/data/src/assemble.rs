//! From flights to examples: the schedule of each with the weather and the
//! operations as they were known at its prediction time, and its outcome. This
//! is the only place where a record's outcome and a feature row meet.
//!
//! Flights come in time order and go through one [`OperationsIndex`], a stretch at a time: memory depends on what the index
//! remembers, not on how long the history is.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use delayd_features::{Airport, FlightRow};
use rayon::prelude::*;

use super::error::DataError;
use super::example::{Example, Outcome};
use super::flight::FlightRecord;
use super::operations::OperationsIndex;
use super::weather::WeatherHistory;

/// Minutes of delay from which an arrival counts as delayed (BTS's `ArrDel15`).
const DELAYED_FROM_MINUTES: i32 = 15;
/// Examples that are made at a time, at least: all of one departure time belong together.
const STRETCH_ROWS: usize = 1 << 14;
/// How far ahead of a flight the index knows the schedule: its local day, and more than any flight leaves early.
const LOOKAHEAD: TimeDelta = TimeDelta::hours(48);

/// Iterates over stretches of examples, by scheduled departure, each predicted `horizon` before its departure.
pub struct Examples<'a, I> {
    flights: I,
    /// Flights that the index knows and that were not yet given out.
    ahead: VecDeque<FlightRecord>,
    index: OperationsIndex,
    weather: &'a WeatherHistory,
    horizon: TimeDelta,
    ended: bool,
}

impl<'a, I: Iterator<Item = Result<FlightRecord, DataError>>> Examples<'a, I> {
    /// Examples of flights that come in time order.
    ///
    /// # Errors
    /// When an airport's time zone is unknown.
    pub fn new(
        flights: I,
        airports: &BTreeMap<String, Airport>,
        weather: &'a WeatherHistory,
        horizon: TimeDelta,
    ) -> Result<Self, DataError> {
        let index = OperationsIndex::empty(airports)?;
        Ok(Self { flights, ahead: VecDeque::new(), index, weather, horizon, ended: false })
    }

    /// Lets the index know every flight until `until`, and at least one more than `rows`.
    fn look_ahead(&mut self, rows: usize, until: Option<DateTime<Utc>>) -> Result<(), DataError> {
        let known = |ahead: &VecDeque<FlightRecord>| {
            let last = ahead.back().map(|flight| flight.scheduled_departure);
            ahead.len() > rows && until.is_none_or(|until| last.is_some_and(|last| last > until))
        };
        while !self.ended && !known(&self.ahead) {
            match self.flights.next() {
                None => self.ended = true,
                Some(flight) => {
                    let flight = flight?;
                    self.index.add(&flight);
                    self.ahead.push_back(flight);
                }
            }
        }
        Ok(())
    }

    /// The next flights to give out: so many, and all that depart with the last of them.
    fn stretch(&mut self) -> Result<Vec<FlightRecord>, DataError> {
        self.look_ahead(STRETCH_ROWS, None)?;
        let Some(last) = self.ahead.get(STRETCH_ROWS.min(self.ahead.len()).saturating_sub(1)) else {
            return Ok(Vec::new());
        };
        let until = last.scheduled_departure;
        self.look_ahead(STRETCH_ROWS, Some(until + LOOKAHEAD))?;
        let rows = self.ahead.partition_point(|flight| flight.scheduled_departure <= until);
        Ok(self.ahead.drain(..rows).collect())
    }

    fn assemble(&mut self, flights: &[FlightRecord]) -> Vec<Example> {
        let predicted_at = |flight: &FlightRecord| flight.scheduled_departure - self.horizon;
        if let (Some(first), Some(last)) = (flights.first().map(predicted_at), flights.last().map(predicted_at)) {
            self.index.forget(first);
            self.index.advance(last);
        }
        let (index, weather, horizon) = (&self.index, self.weather, self.horizon);
        flights
            .par_iter()
            .map(|flight| {
                let prediction_time = flight.scheduled_departure - horizon;
                let row = row_at(flight.scheduled_row(), prediction_time, index, weather);
                Example { row, prediction_time, outcome: outcome(flight) }
            })
            .collect()
    }
}

impl<I: Iterator<Item = Result<FlightRecord, DataError>>> Iterator for Examples<'_, I> {
    type Item = Result<Vec<Example>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.stretch() {
            Ok(flights) if flights.is_empty() => None,
            Ok(flights) => Some(Ok(self.assemble(&flights))),
            Err(error) => {
                (self.ended, self.ahead) = (true, VecDeque::new());
                Some(Err(error))
            }
        }
    }
}

/// The examples of a few flights, in time order.
///
/// # Errors
/// When an airport's time zone is unknown.
pub fn assemble(
    flights: &[FlightRecord],
    airports: &BTreeMap<String, Airport>,
    weather: &WeatherHistory,
    horizon: TimeDelta,
) -> Result<Vec<Example>, DataError> {
    let mut flights = flights.to_vec();
    flights.sort_by(FlightRecord::in_time_order);
    let stretches = Examples::new(flights.into_iter().map(Ok), airports, weather, horizon)?;
    Ok(stretches.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A scheduled row with everything that was known of its surroundings at `at`.
fn row_at(mut row: FlightRow, at: DateTime<Utc>, operations: &OperationsIndex, weather: &WeatherHistory) -> FlightRow {
    weather.fill(&mut row, at);
    operations.fill(&mut row, at);
    row
}

/// What came of a flight; `None` where it never arrived or has not yet.
#[must_use]
pub fn outcome(record: &FlightRecord) -> Option<Outcome> {
    if record.cancelled || record.diverted {
        return None;
    }
    let arrival_delay_minutes = record.arrival_delay_minutes?;
    let known_at = record.arrived_at?;
    Some(Outcome { delayed: arrival_delay_minutes >= DELAYED_FROM_MINUTES, arrival_delay_minutes, known_at })
}
